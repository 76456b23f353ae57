"""The examples of the documentation strings run, and what a user calls has one."""

import doctest
import importlib
import inspect
import pkgutil

import medssl_data
import pytest

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(medssl_data.__path__, "medssl_data.")
    if not module.ispkg
)
CALLED = [
    "audit.audit_dataset",
    "catalog.dataset_card",
    "catalog.describe",
    "catalog.list_datasets",
    "catalog.load_dataset",
    "catalog.load_manifest",
    "confounders.search.find_confounders",
    "dataset.ImageDataset",
    "files.replacing",
    "files.write_atomically",
    "images.cache.PictureCache",
    "images.decoding.read_image",
    "images.decoding.read_rgb",
    "images.preview.contact_sheet",
    "images.reading.Reading.changed",
    "leaks.find_leaks",
    "manifest.Manifest.filter",
    "manifest.Manifest.from_rows",
    "manifest.Manifest.to_csv",
    "splits.patient_split",
    "splits.shuffle_order",
    "splits.write_split",
    "synthetic.phantom.chest_xray",
    "synthetic.phantom.write_phantom",
    "targets.FindingPolicy",
    "views.pair_views",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path / "home"))
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_what_a_user_calls_has_an_example() -> None:
    found = {
        test.name
        for name in MODULES
        for test in doctest.DocTestFinder().find(importlib.import_module(name))
        if test.examples
    }
    assert {f"medssl_data.{name}" for name in CALLED} <= found
    public = {
        f"{value.__module__}.{name}"
        for name in medssl_data.__all__
        if inspect.isfunction(value := getattr(medssl_data, name))
    }
    assert public <= found
