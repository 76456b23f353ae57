"""A small network, and small sources of pictures."""

import pytest
import torch
from medssl_data import load_dataset
from medssl_models.testing import tiny_backbone

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CI", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture(scope="session")
def backbone():
    return tiny_backbone(width=4)


@pytest.fixture(scope="session")
def data():
    return load_dataset("phantom:chest-xray,count=40,size=80")
