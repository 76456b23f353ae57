"""The examples of the documentation strings run, and what a user calls has one."""

import doctest
import importlib
import pkgutil

import medssl_saliency
import pytest

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(medssl_saliency.__path__, "medssl_saliency.")
)
RECORDS = {"ImageItem", "SaliencyError", "SaliencyMap"}
"""What a user gets, or fills like any record."""


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_what_a_user_calls_has_an_example():
    found = {
        test.name.rpartition(".")[2]
        for name in MODULES
        for test in doctest.DocTestFinder().find(importlib.import_module(name))
        if test.examples
    }
    settings = {name for name in medssl_saliency.__all__ if name.endswith("Settings")}
    assert set(medssl_saliency.__all__) - RECORDS - settings <= found
