"""The examples in the docstrings run, and what a user calls has one."""

import doctest
import inspect
import pkgutil
from importlib import import_module

import medssl_models
import pytest

FINDER = doctest.DocTestFinder(exclude_empty=True)


def examples():
    """Every docstring with an example, by the name of what it describes."""
    for module in pkgutil.walk_packages(medssl_models.__path__, "medssl_models."):
        for test in FINDER.find(import_module(module.name)):
            if test.examples:
                yield pytest.param(test, id=test.name.removeprefix("medssl_models."))


@pytest.mark.parametrize("example", list(examples()))
def test_an_example_runs(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path / "home"))
    example.globs["folder"] = tmp_path  # a folder of the reader's own
    said = []

    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(example, out=said.append)

    assert runner.failures == 0, "".join(said)


FUNCTIONS = [
    name for name in medssl_models.__all__ if inspect.isfunction(getattr(medssl_models, name))
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_user_calls_has_an_example(name):
    assert ">>>" in (inspect.getdoc(getattr(medssl_models, name)) or "")
