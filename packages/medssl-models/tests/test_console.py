"""The command line's manners, on a small application of its own."""

from __future__ import annotations

import io
import json
import logging
import math
import re
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
import typer
from medssl_models import console as console_module
from medssl_models.console import (
    BatchSizeOption,
    Console,
    DeviceOption,
    JsonOption,
    ModelsOption,
    QuietOption,
    create_app,
    examples,
    run,
)
from medssl_models.errors import MissingWeightsError
from medssl_models.plain_json import canonical_json, plain


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x: float
    path: Path


def make_app(action=lambda: None) -> typer.Typer:
    app = create_app("medssl-models", "Try things.", epilog=examples("medssl-models try"))

    @app.command("try", epilog=examples("medssl-models try -m a [more]"))
    def attempt(
        model: ModelsOption,
        device: DeviceOption = "auto",
        batch_size: BatchSizeOption = None,
        json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        """Try a model."""
        out = Console(json=json, quiet=quiet)
        out.say("a note")
        logging.getLogger("medssl.models").info("a library's note")
        logging.getLogger("medssl.models").warning("a library's warning")
        out.table(["model", "score"], [[name, 0.5] for name in model], title=f"On {device}")
        out.document({"models": model, "score": math.nan})
        out.write("a line")
        action()

    @app.command()
    def other() -> None:
        """Do nothing."""

    return app


def raise_(error: BaseException):
    def action():
        raise error

    return action


def test_table_goes_to_stdout_and_notes_to_stderr(capsys):
    assert run(make_app(), ["try", "-m", "a", "--model", "b" * 300]) == 0
    out, err = capsys.readouterr()
    assert "b" * 300 in out
    assert "On auto" in out
    assert "a line" in out
    assert err == "a note\na library's note\nwarning: a library's warning\n"


@pytest.fixture
def terminal(monkeypatch):
    """Return what makes of stdout a terminal of so many columns."""

    def make(columns):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))

    return make


def unstyled(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_rows_become_lines_where_a_terminal_would_cut_words(capsys, terminal):
    columns = ["data set", "model", "score"]
    rows = [["phantom-chest-xray", "random_r18 (control)", "53.66"], ["scans", "byol", None]]
    terminal(80)
    Console().table(columns, rows, title="Scores")
    assert re.search(r"phantom-chest-xray +random_r18 \(control\) +53.66", capsys.readouterr().out)
    terminal(36)
    Console().table(columns, rows, title="Scores")
    assert capsys.readouterr().out.splitlines() == [
        "Scores", "", "  data set  phantom-chest-xray", "  model     random_r18 (control)",
        "  score     53.66", "", "  data set  scans", "  model     byol", "",
    ]  # fmt: skip


def test_no_word_is_cut_where_a_table_is_wider_than_the_terminal(capsys, terminal):
    terminal(60)
    names, why = ["random_r18 (control)", "random_d121 (control)"], "why it is so, in words " * 3
    Console().table(["first", "second", "why"], [[*names, why]])
    out = unstyled(capsys.readouterr().out)
    assert max(map(len, out.splitlines())) <= 60
    assert set(" ".join([*names, why]).split()) <= set(out.split())


def test_quiet_leaves_warnings_only(capsys):
    assert run(make_app(), ["try", "-m", "a", "--quiet"]) == 0
    assert capsys.readouterr().err == "warning: a library's warning\n"


def test_json_is_one_document_without_nan(capsys):
    assert run(make_app(), ["try", "-m", "a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"models": ["a"], "score": None}


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MissingWeightsError("no weights:\nimport them"), 4, "error: no weights: import them\n"),
        (
            OSError(28, "No space left on device", "f.h5"),
            1,
            "error: f.h5: No space left on device\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted: what was finished is kept"),
    ],
    ids=["ours", "os", "interrupt"],
)
def test_errors_are_one_line_and_a_code(capsys, error, code, line):
    assert run(make_app(raise_(error)), ["try", "-m", "a", "--quiet"]) == code
    last = capsys.readouterr().err.splitlines(keepends=True)[-1]
    assert last.startswith(line)


def answering(document: object, error: Exception) -> typer.Typer:
    """A command that writes a document, where it is given one, and fails."""
    app = create_app("medssl-models", "Help.")

    @app.command("try")
    def attempt(as_json: JsonOption = False) -> None:
        if document is not None:
            Console(json=as_json).document(document)
        raise error

    @app.command("other")
    def other() -> None:
        pass

    return app


@pytest.mark.parametrize("document", [None, {"done": 1}])
def test_with_json_an_error_is_the_document_unless_there_is_one(capsys, document):
    app = answering(document, MissingWeightsError("no weights"))
    assert run(app, ["try", "--json"]) == 4
    out, err = capsys.readouterr()
    assert json.loads(out) == (document or {"error": "no weights", "exit_code": 4})
    assert err == "error: no weights\n"


def test_with_json_wrong_usage_is_the_document(capsys):
    assert run(make_app(), ["try", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found == {"error": "Missing option '--model' / '-m'.", "exit_code": 2}


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe"


def test_no_name_moves_the_terminal(capsys):
    console = Console()
    console.table([HOSTILE], [[HOSTILE]], title=HOSTILE)
    console.write(HOSTILE)
    console.say(HOSTILE)
    console.warn(HOSTILE)
    run(answering(None, MissingWeightsError(HOSTILE)), ["try"])
    out, err = capsys.readouterr()
    Console(json=True).document({HOSTILE: HOSTILE})
    document = capsys.readouterr().out
    assert json.loads(document) == {HOSTILE: HOSTILE}
    out += document
    assert not set(out + err) & set("\x1b\x07\x9b\u202e")
    assert r"\u001b]0;owned\u0007\u001b[2J\u009b31m\u202egnp.exe" in err


def test_notes_of_an_error_are_told(capsys):
    stop = KeyboardInterrupt()
    stop.add_note("12 of 30 rows are kept")
    assert run(make_app(raise_(stop)), ["try", "-m", "a"]) == 130
    assert capsys.readouterr().err.endswith("\ninterrupted: 12 of 30 rows are kept\n")


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(make_app(raise_(ZeroDivisionError())), ["try", "-m", "a"])


def test_debug_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("MEDSSL_DEBUG", "1")
    assert run(make_app(raise_(MissingWeightsError("no weights"))), ["try", "-m", "a"]) == 4
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["try"], "Missing option '--model'"),
        (["try", "-m", "a", "--device", "tpu"], "'tpu' is not one of auto, cpu, cuda, mps"),
        (["try", "-m", "a", "--batch-size", "0"], "--batch-size"),
        (["try", "-m", "a", "--nope"], "--nope"),
        (["tryy"], "Did you mean 'try'"),
    ],
    ids=["missing", "choice", "range", "unknown", "command"],
)
def test_wrong_usage(capsys, arguments, message):
    assert run(make_app(), arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_help_shows_examples_and_no_arguments_shows_help(capsys):
    assert run(make_app(), ["try", "--help"]) == 0
    shown = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)  # CI services ask for colours
    assert "medssl-models try -m a [more]" in shown
    assert run(make_app(), []) == 2
    assert "Try things." in capsys.readouterr().out


def test_version(capsys):
    assert run(make_app(), ["--version"]) == 0
    assert capsys.readouterr().out.startswith("medssl-models 0.")


def test_exit_code_of_a_command_is_kept():
    assert run(make_app(raise_(typer.Exit(3))), ["try", "-m", "a"]) == 3


def test_log_is_as_before_after_a_run():
    log = logging.getLogger("medssl")
    before = (log.level, log.propagate, list(log.handlers))
    run(make_app(), ["try", "-m", "a", "--quiet"])
    assert (log.level, log.propagate, list(log.handlers)) == before


def test_progress_is_silent_without_a_terminal(capsys):
    with Console().progress("images", 3) as advance:
        advance()
        advance(2)
    assert capsys.readouterr().err == ""


def test_progress_counts_on_a_terminal(capsys, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Console().progress("images", 3) as advance:
        advance(1, note="loss 0.25")
        advance(2)
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert "images, loss 0.25" in shown


def test_numbers_are_right_aligned(capsys):
    Console().table(["name", "n"], [["a", 5], ["b", 100], ["c", None]])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.rstrip().endswith("  5") for line in lines)


def test_plain_values():
    value = {
        Colour.RED: Colour.RED,
        1: (math.inf, -math.inf),
        "point": Point(math.nan, Path("a")),
        "set": {2, 1},
        "array": np.arange(3, dtype=np.int16),
        "scalar": np.float64(0.25),
    }
    assert plain(value) == {
        "red": "red",
        "1": [None, None],
        "point": {"x": None, "path": "a"},
        "set": [1, 2],
        "array": [0, 1, 2],
        "scalar": 0.25,
    }
    assert canonical_json({"b": 1, "a": None}) == '{"a":null,"b":1}'
    with pytest.raises(TypeError, match="object has no JSON form"):
        plain(object())


def test_import_needs_neither_torch_nor_rich():
    code = (
        "import sys, medssl_models.console;"
        "print(sorted({'torch', 'rich', 'h5py', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert found.stdout.strip() == "[]"


def test_closed_pipe_is_no_error(monkeypatch):
    monkeypatch.setattr(console_module, "_close_stdout", lambda: None)
    assert run(make_app(raise_(BrokenPipeError())), ["try", "-m", "a"]) == 1


def test_a_closed_stdout_stops_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    app = create_app("medssl-models", "Test.")
    app.command("say")(lambda: Console().table(("a",), [("b",)]))
    app.command("other")(lambda: None)
    assert run(app, ["say"]) == 0
    sys.stdout.close()  # what `run` put in its place


@pytest.mark.parametrize("as_json", [False, True], ids=["table", "json"])
def test_letters_that_a_terminal_lacks_are_escaped(monkeypatch, as_json):
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    app = create_app("medssl-models", "Test.")

    def say() -> None:
        console = Console(json=as_json)
        console.table(("class",), [("kr\u00e4nk",)])
        console.write("kr\u00e4nk")
        console.document(["kr\u00e4nk"])

    app.command("say")(say)
    app.command("other")(lambda: None)
    assert run(app, ["say"]) == 0
    ascii_only.flush()
    text = ascii_only.buffer.getvalue().decode("ascii")
    assert (json.loads(text) == ["kr\u00e4nk"]) if as_json else "kr\\xe4nk" in text
