"""The command-line contract of docs/architecture.md, for every command of every package at once."""

import importlib
import inspect
import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import typer

CLIS = sorted(
    entry.value.partition(":")[0]
    for entry in entry_points(group="console_scripts")
    if entry.name.startswith("medssl-")
)
# An option of this name means the same thing in every command: one declaration per console module.
SHARED = {
    *("model", "dataset", "root", "device", "precision", "batch_size", "workers"),
    *("seed", "protocol", "results", "json", "quiet", "force"),
}


def commands(app, path=()):
    for info in app.registered_commands:
        name = info.name or info.callback.__name__.replace("_", "-")
        yield (*path, name), info.callback
    for group in app.registered_groups:
        name = group.name or group.typer_instance.info.name
        yield from commands(group.typer_instance, (*path, name))


ALL = [
    pytest.param(module, path, callback, id=" ".join([module.partition(".")[0], *path]))
    for module in CLIS
    for path, callback in commands(importlib.import_module(module).app)
]


def options(callback):
    """Map each option of a command to its flags."""
    for parameter in inspect.signature(callback, eval_str=True).parameters.values():
        for item in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(item, typer.models.OptionInfo):
                first = item.default  # inside Annotated, Typer takes the first flag for a default
                flags = [first] if isinstance(first, str) and first.startswith("-") else []
                flags = [*flags, *(item.param_decls or ())]
                yield (
                    parameter.name,
                    tuple(flags or [f"--{parameter.name.replace('_', '-')}"]),
                    item,
                )


def run(module, *arguments):
    """Run a command line in this process; give its exit code."""
    cli = importlib.import_module(module)
    console = importlib.import_module(inspect.getmodule(cli.run).__name__)
    return console.run(cli.app, list(arguments))


@pytest.mark.parametrize(("module", "path", "callback"), ALL)
def test_help_explains_with_an_example(module, path, callback, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(module, *path, "--help") == 0
    text = capsys.readouterr().out
    assert f"{module.partition('.')[0].replace('_', '-')} {' '.join(path)}" in text
    assert "Example" in text


@pytest.mark.parametrize(("module", "path", "callback"), ALL)
def test_json_is_offered_everywhere(module, path, callback):
    assert "--json" in {flag for _, flags, _ in options(callback) for flag in flags}


@pytest.mark.parametrize(("module", "path", "callback"), ALL)
def test_an_unknown_option_is_a_usage_error(module, path, callback, capsys):
    assert run(module, *path, "--no-such-option") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert run(module, *path, "--no-such-option", "--json") == 2
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2


def test_shared_options_have_one_meaning():
    meanings = {}
    for parameter in ALL:
        module, path, callback = parameter.values
        for _, flags, info in options(callback):
            longest = max(flags, key=len).partition("/")[0]
            if longest.strip("-").replace("-", "_") in SHARED:
                meanings.setdefault(longest, {})[flags, info.help] = " ".join([module, *path])
    clashes = {flag: found for flag, found in meanings.items() if len(found) > 1}
    assert clashes == {}


QUICK = [
    pytest.param(module, arguments, id=" ".join([module.partition(".")[0], *arguments]))
    for module in CLIS
    for arguments in (["--help"], ["list"])
    if arguments == ["--help"]
    or any(path == ("list",) for path, _ in commands(importlib.import_module(module).app))
]


@pytest.mark.parametrize(("module", "arguments"), QUICK)
def test_it_answers_without_loading_torch(module, arguments):
    script = (
        f"import sys; from {module} import app, run; code = run(app, {arguments!r}); "
        "sys.exit(code or ('torch' in sys.modules) * 99)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
