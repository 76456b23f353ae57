"""The trunks of LPIPS: brought in by hand, checked, found again, or asked for by name."""

import hashlib
import json

import pytest
import torch
from medssl_models.cli import app
from medssl_models.console import run
from medssl_models.errors import CheckpointError, SettingsError
from medssl_models.hub import lpips_trunks
from medssl_models.hub.lpips_trunks import (
    TRUNKS,
    TrunkFile,
    find_trunk,
    import_trunk,
    missing_trunks,
    read_trunk,
)


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path, monkeypatch):
    """Keep the library and torch's cache to the test."""
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def download(tmp_path, monkeypatch):
    """A trunk of two tensors, named by its own hash as torchvision names its files."""
    content = {
        "features.0.weight": torch.ones(2, 3, 1, 1),
        "features.0.bias": torch.zeros(2),
        "classifier.1.weight": torch.zeros(4, 2),
    }
    path = tmp_path / "downloaded.pth"
    torch.save(content, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    trunk = TrunkFile("lpips-alex", f"alexnet-{digest[:8]}.pth", 2)
    monkeypatch.setattr(lpips_trunks, "TRUNKS", {**TRUNKS, "lpips-alex": trunk})
    return path


def test_a_trunk_is_found_where_it_was_imported_to(download):
    assert find_trunk("lpips-alex") is None

    kept = import_trunk("lpips-alex", download)

    assert find_trunk("lpips-alex") == kept
    assert kept.read_bytes() == download.read_bytes()
    assert read_trunk("lpips-alex", kept).keys() == {"features.0.weight", "features.0.bias"}
    assert missing_trunks(["lpips-alex"]) is None
    assert sorted(path.name for path in kept.parent.glob("*.pth")) == [kept.name]


def test_what_earlier_programs_left_in_torchs_cache_is_found(download, tmp_path):
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    kept = import_trunk("lpips-alex", download, library=cache)

    assert find_trunk("lpips-alex") == kept


def test_a_trunk_that_is_there_is_replaced_only_by_force(download):
    import_trunk("lpips-alex", download)

    with pytest.raises(SettingsError, match=r"exists; .*set force to replace it"):
        import_trunk("lpips-alex", download)
    assert import_trunk("lpips-alex", download, force=True).exists()


@pytest.mark.parametrize("damage", [b"", b"nonsense"], ids=["empty", "other"])
def test_another_file_is_refused_with_its_hash(download, damage):
    download.write_bytes(damage)
    found = hashlib.sha256(damage).hexdigest()[:8]

    with pytest.raises(CheckpointError, match=f"SHA-256 begins with {found}.*download https"):
        import_trunk("lpips-alex", download)
    assert find_trunk("lpips-alex") is None


def test_a_trunk_with_too_few_tensors_is_refused(download, monkeypatch):
    known = lpips_trunks.TRUNKS["lpips-alex"]
    larger = TrunkFile(known.name, known.filename, 10)
    monkeypatch.setattr(lpips_trunks, "TRUNKS", {"lpips-alex": larger})

    with pytest.raises(CheckpointError, match="holds 2 tensors of features, lpips-alex has 10"):
        read_trunk("lpips-alex", download)


def test_what_is_missing_is_said_with_addresses_and_commands():
    error = missing_trunks(["lpips-vgg", "lpips-squeeze"])

    assert error.exit_code == 4
    assert "https://download.pytorch.org/models/vgg16-397923af.pth" in str(error)
    assert "medssl-models import lpips-squeeze squeezenet1_1-b8a52dc0.pth" in str(error)


def test_the_command_brings_a_trunk_in(download, capsys):
    assert run(app, ["import", "lpips-alex", str(download), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["measure"] == "lpips-alex"
    assert find_trunk("lpips-alex") is not None

    assert run(app, ["import", "lpips-vgg", str(download)]) == 3
    assert "SHA-256 begins with" in capsys.readouterr().err
