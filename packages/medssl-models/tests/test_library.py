"""The library: fetched, imported, exported and bundled models are there whole, or not at all."""

import hashlib
import json
import os
import resource
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from importlib.util import find_spec

import pytest
import torch
import torchvision
from medssl_models import create_model
from medssl_models.catalog import model_card
from medssl_models.cli import app
from medssl_models.console import run
from medssl_models.conversion.convert import convert
from medssl_models.errors import (
    CheckpointError,
    DownloadError,
    LibraryError,
    LicenceError,
    MissingWeightsError,
    OfflineError,
    SettingsError,
    UnknownModelError,
)
from medssl_models.experiments.models import check_models
from medssl_models.hub.bundles import export_bundle, import_bundle
from medssl_models.hub.downloads import DownloadSettings
from medssl_models.hub.exporting import export_model
from medssl_models.hub.library import fetch_model, import_model, is_imported, locate
from medssl_models.testing import shrunken, tiny_state, write_torch_checkpoint
from medssl_models.testing.server import FaultyServer, serving
from safetensors.torch import load_file

QUICK = DownloadSettings(timeout=60, tries=2, pause=0)


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.setenv("MEDSSL_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("MEDSSL_MIRROR", raising=False)


def tiny(name="supervised_r18", **changes):
    return shrunken(model_card(name)).replace(**changes)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A tiny twin of the supervised ResNet-18's file."""
    path = tmp_path_factory.mktemp("published") / "weights.pth"
    write_torch_checkpoint(path, tiny(), tiny_state(tiny()))
    return path


@pytest.fixture
def server(file):
    return FaultyServer(file.read_bytes())


@pytest.fixture
def card(server):
    """A card whose only address is the local server."""
    with serving(server) as root:
        weights = tiny().weights[0].model_copy(update={"urls": (f"{root}/w.pth",)})
        yield tiny(weights=(weights,))


def entries(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


# ------------------------------------------------------------------------------------------ fetch


def test_a_model_is_fetched_once_and_its_hash_recorded(card, server, tmp_path):
    done = fetch_model(card, library=tmp_path, settings=QUICK)

    digest = hashlib.sha256(server.content).hexdigest()
    assert [file.sha256 for file in done.files] == [digest]
    assert list(done.conversion.origin.sources.values()) == [digest]
    assert is_imported(card, library=tmp_path)
    assert entries(tmp_path) == [".downloads", card.name]
    assert entries(tmp_path / ".downloads") == []
    assert fetch_model(card, library=tmp_path, settings=QUICK).conversion is None
    assert len(server.asked) == 1
    assert fetch_model(card, library=tmp_path, settings=QUICK, force=True).conversion is not None


def test_what_is_no_checkpoint_is_deleted_and_said(card, server, tmp_path):
    server.content = b"not weights"

    with pytest.raises(DownloadError, match=r"deleted .*not a known container") as caught:
        fetch_model(card, library=tmp_path, settings=QUICK)
    assert f"medssl-models import {card.name} FILE" in caught.value.__notes__[0]
    assert len(server.asked) == 1
    assert not is_imported(card, library=tmp_path)
    assert entries(tmp_path / ".downloads") == []


@pytest.mark.parametrize("wrong", ["no container", "another model"])
def test_the_next_address_is_asked_after_a_wrong_file(card, file, tmp_path, wrong):
    """No hash is known here; only the conversion can tell."""
    other = tiny("supervised_r50")
    write_torch_checkpoint(tmp_path / "other", other, tiny_state(other))
    content = b"{}" * 99 if wrong == "no container" else (tmp_path / "other").read_bytes()
    with serving(FaultyServer(content)) as mirror:
        done = fetch_model(card, library=tmp_path / "home", mirror=mirror, settings=QUICK)
    assert [one.url for one in done.files] == list(card.weights[0].urls)
    assert done.files[0].sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_wrong_file_that_a_killed_process_left_is_fetched_anew(card, server, tmp_path):
    place = tmp_path / ".downloads" / card.name
    place.mkdir(parents=True)
    (place / card.weights[0].filename).write_bytes(b"not weights")
    assert fetch_model(card, library=tmp_path, settings=QUICK).conversion is not None
    assert len(server.asked) == 1


def test_a_cut_off_download_is_continued_and_never_half_a_model(card, server, tmp_path):
    server.drops = [70_000, 0, 0]
    with pytest.raises(DownloadError) as caught:
        fetch_model(card, library=tmp_path, settings=QUICK)
    assert f"medssl-models import {card.name} FILE" in caught.value.__notes__[0]
    assert not is_imported(card, library=tmp_path)

    fetch_model(card, library=tmp_path, settings=QUICK)
    assert server.asked[-1] == "bytes=4464-"  # 64 KiB are compared


def test_a_non_commercial_licence_must_be_accepted(card, server, tmp_path):
    card = card.replace(non_commercial=True)
    with pytest.raises(LicenceError, match="--accept-licence") as caught:
        fetch_model(card, library=tmp_path, settings=QUICK)
    assert caught.value.exit_code == 4
    assert server.asked == []
    assert fetch_model(card, library=tmp_path, settings=QUICK, accept_licence=True).files


def test_offline_and_controls_are_refused(card, server, tmp_path, monkeypatch):
    with pytest.raises(SettingsError, match="needs no file"):
        fetch_model(model_card("random_r18"), library=tmp_path)
    monkeypatch.setenv("MEDSSL_OFFLINE", "1")
    with pytest.raises(OfflineError) as caught:
        fetch_model(card, library=tmp_path)
    assert caught.value.exit_code == 4
    assert card.weights[0].urls[0] in caught.value.__notes__[0]
    assert server.asked == []


def test_the_command_fetches_and_says_the_licence(card, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path))
    monkeypatch.setattr("medssl_models.catalog.model_card", lambda _: card)

    assert run(app, ["fetch", card.name, "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["new"] is True
    assert f"licence of {card.name}: {card.licence}" in shown.err


# ------------------------------------------------------------------------------ import and faults


def test_a_file_with_another_hash_than_the_published_one_is_refused(file, tmp_path):
    """Any ResNet-18 has the names and shapes of the supervised one."""
    known = tiny().weights[0].model_copy(update={"sha256_start": "f37072fd"})
    card = tiny(weights=(known,))
    with pytest.raises(CheckpointError, match=r"resnet18-f37072fd.pth with f37072fd.*force takes"):
        import_model(card, file, library=tmp_path)
    assert not is_imported(card, library=tmp_path)
    assert import_model(card, file, library=tmp_path, force=True).used
    start = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    right = tiny(weights=(known.model_copy(update={"sha256_start": start}),))
    assert import_model(right, file, library=tmp_path / "right").used


def test_the_hashes_in_torchvision_s_file_names_are_known():
    for name in ("supervised_r18", "supervised_r50", "supervised_d121"):
        (weights,) = model_card(name).weights
        assert weights.filename.endswith(f"-{weights.hash_start}.pth")


def test_what_a_killed_process_left_is_cleared_or_restored(file, tmp_path):
    import_model(tiny(), file, library=tmp_path)
    folder = tmp_path / tiny().name
    draft = tmp_path / f".{folder.name}.{'ab' * 8}.draft"
    draft.mkdir()
    # Killed between the two renames: what was there is only there under its old name.
    old = folder.rename(tmp_path / f".{folder.name}.{'cd' * 8}.old")
    for path in (draft, old):
        os.utime(path, (0, 0))

    with pytest.raises(SettingsError, match="exists"):
        import_model(tiny(), file, library=tmp_path)
    assert entries(tmp_path) == [folder.name]
    assert create_model(str(folder)).feature_dim == tiny().feature_dim


IMPORT = """
import sys
from pathlib import Path
from medssl_models.catalog import model_card
from medssl_models.hub.library import import_model
from medssl_models.testing import shrunken
from medssl_models.errors import ModelError
card = shrunken(model_card("supervised_r18"))
try:
    import_model(card, Path(sys.argv[1]), library=Path(sys.argv[2]))
except ModelError as error:
    sys.exit(error.exit_code)
"""


def start_import(file, library):
    command = [sys.executable, "-c", IMPORT, str(file), str(library)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_two_processes_that_import_one_name_leave_one_whole_model(file, tmp_path):
    both = [start_import(file, tmp_path) for _ in range(2)]
    codes = sorted(process.wait() for process in both)
    for process in both:
        process.stderr.close()

    assert codes == [0, 2]  # the second finds the first one's model, and says so
    assert create_model(str(tmp_path / "supervised_r18")).feature_dim == tiny().feature_dim
    assert entries(tmp_path) == ["supervised_r18"]


@contextmanager
def files_at_most(size):
    """The kernel refuses to write more than this into a file; no bytecode is kept meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    keeps_none, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        sys.dont_write_bytecode = keeps_none
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_system_that_takes_no_more_leaves_nothing(file, tmp_path):
    with files_at_most(4096), pytest.raises(LibraryError, match="cannot be written") as caught:
        import_model(tiny(), file, library=tmp_path)
    assert caught.value.exit_code == 1
    assert entries(tmp_path) == []
    assert import_model(tiny(), file, library=tmp_path).used


@pytest.mark.parametrize("use", [create_model, lambda name: check_models([name]), locate])
def test_a_card_wins_over_a_folder_of_its_name(file, tmp_path, monkeypatch, use):
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = convert(file, tiny(), tmp_path / "supervised_r18").folder
    folder.rename("byol")
    with pytest.raises(MissingWeightsError, match="import byol FILE"):
        use("byol")
    use("./byol")
    use(str(tmp_path / "byol"))
    (tmp_path / "byol").rename("mine")
    with pytest.raises(UnknownModelError, match=r"named by its path: \./mine"):
        use("mine")


# ----------------------------------------------------------------------------------------- export


def test_torchvision_loads_an_export(tmp_path):
    export_model("random_r18", tmp_path / "r18")
    network = torchvision.models.resnet18(weights=None)
    report = network.load_state_dict(load_file(tmp_path / "r18/model.safetensors"), strict=False)
    assert set(report.missing_keys) == {"fc.weight", "fc.bias"}
    assert report.unexpected_keys == []
    network.fc = torch.nn.Identity()
    x = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    backbone = create_model("random_r18")
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(x), backbone(x), rtol=1e-4, atol=1e-4)
    assert create_model(str(tmp_path / "r18")).fingerprint == backbone.fingerprint


@pytest.mark.skipif(not find_spec("timm"), reason="timm is not here")
@pytest.mark.parametrize("name", ["random_r18", "random_d121"])
def test_timm_loads_an_export(tmp_path, name):
    timm = pytest.importorskip("timm")
    export_model(name, tmp_path / "out")
    network = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    x = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(network(x), create_model(name)(x), rtol=1e-4, atol=1e-4)
    assert tuple(network.pretrained_cfg["mean"]) == (0.485, 0.456, 0.406)


def test_the_command_exports_and_verifies(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path))
    folder = import_model(tiny(), file).folder
    assert run(app, ["export", str(folder), "--to", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exact_elsewhere"] is True
    assert run(app, ["export", str(folder), "--to", str(tmp_path / "out")]) == 2
    assert run(app, ["verify", str(tmp_path / "out"), "--json"]) == 0
    capsys.readouterr()
    weights = tmp_path / "out" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert run(app, ["verify", str(tmp_path / "out"), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["passed"] is False
    assert run(app, ["verify", "random_r18"]) == 2


def test_a_one_sided_padding_is_said(file, tmp_path, monkeypatch, capsys):
    padded = tiny(padding="tf_same", published_padding="torchvision")
    folder = import_model(padded, file, library=tmp_path).folder
    assert run(app, ["export", str(folder), "--to", str(tmp_path / "a")]) == 0
    assert "only medssl-models gives its exact features" in capsys.readouterr().err
    done = export_model(f"{folder}:torchvision", tmp_path / "b")
    assert done.exact_elsewhere


# ---------------------------------------------------------------------------------------- bundles


@pytest.fixture
def packed(file, tmp_path):
    """A library with one model, and its bundle."""
    folder = import_model(tiny(), file, library=tmp_path / "here").folder
    export_bundle([str(folder)], tmp_path / "models.zip")
    return tmp_path / "models.zip"


def repack(path, change):
    """Rewrite an archive with its members changed by a function of a dict."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in change(members).items():
            archive.writestr(name, content)


def test_a_bundle_carries_models_to_another_library(packed, tmp_path):
    (one,) = import_bundle(packed, library=tmp_path / "there")
    assert one.new
    here, there = (create_model(str(tmp_path / p / one.name)) for p in ("here", "there"))
    assert here.fingerprint == there.fingerprint
    assert here.card == there.card
    assert not import_bundle(packed, library=tmp_path / "there")[0].new
    assert import_bundle(packed, library=tmp_path / "there", force=True)[0].new


def change_weights(members):
    name = "models/supervised_r18/model.safetensors"
    return members | {name: members[name][:-1] + b"?"}


def other_name(members):
    table = members["bundle.json"].replace(b'"supervised_r18"', b'"moco-v2"')
    return {
        name.replace("supervised_r18", "moco-v2"): content
        for name, content in (members | {"bundle.json": table}).items()
    }


def twice(members):
    table = json.loads(members["bundle.json"])
    return members | {"bundle.json": json.dumps(table | {"models": 2 * table["models"]})}


def other_preprocessing(members):
    """The known name and the same weights, but images of another size; all hashes agree."""
    name = "models/supervised_r18/config.json"
    record = json.loads(members[name])
    record["medssl"]["card"]["preprocessing"] |= {"resize": 80, "crop": 72}
    changed = json.dumps(record).encode()
    table = json.loads(members["bundle.json"])
    table["models"][0]["files"]["config.json"] = {
        "sha256": hashlib.sha256(changed).hexdigest(), "size": len(changed),
    }  # fmt: skip
    return members | {name: changed, "bundle.json": json.dumps(table)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_weights, "does not have its hash"),
        (twice, "supervised_r18 is in it twice"),
        (other_preprocessing, "another preprocessing than this version knows"),
        (other_name, "the folder of moco-v2 holds supervised_r18"),
        (lambda members: members | {"models/more": b""}, "not in both"),
        (lambda members: members | {"../outside": b""}, "leaves the archive"),
        (lambda members: members | {"bundle.json": b"{}"}, "not the table of a bundle"),
        (lambda members: {"other": b""}, "not a bundle"),
    ],
)
def test_a_changed_bundle_is_refused_and_nothing_is_kept(packed, tmp_path, change, words):
    repack(packed, change)
    with pytest.raises(CheckpointError, match=words):
        import_bundle(packed, library=tmp_path / "there")
    assert not (tmp_path / "there").exists() or entries(tmp_path / "there") == []


def test_other_weights_under_the_name_are_kept_unless_forced(packed, tmp_path):
    other = tmp_path / "other.pth"
    write_torch_checkpoint(other, tiny(), tiny_state(tiny(), seed=1))
    folder = import_model(tiny(), other, library=tmp_path / "there").folder
    before = create_model(str(folder)).fingerprint
    with pytest.raises(SettingsError, match="set force"):
        import_bundle(packed, library=tmp_path / "there")
    assert create_model(str(folder)).fingerprint == before


def test_what_cannot_be_packed_is_said_and_leaves_nothing(file, tmp_path):
    with pytest.raises(SettingsError, match="nothing to pack"):
        export_bundle([], tmp_path / "a.zip", library=tmp_path / "empty")
    with pytest.raises(SettingsError, match="needs no bundle"):
        export_bundle(["random_r18"], tmp_path / "a.zip")
    folder = import_model(tiny(), file, library=tmp_path / "here").folder
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="files"):
        export_bundle([str(folder)], tmp_path / "a.zip")
    assert [entry for entry in entries(tmp_path) if "a.zip" in entry] == []


def test_the_commands_carry_a_bundle(packed, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path / "home"))
    assert run(app, ["bundle", "import", str(packed), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["new"] is True
    assert run(app, ["bundle", "export", "--out", str(tmp_path / "all.zip"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["name"] == "supervised_r18"
    assert run(app, ["bundle", "export", "--out", str(tmp_path / "all.zip")]) == 2


# -------------------------------------------------------------------------------------- in training


def test_training_never_writes_into_the_library(file, tmp_path):
    folder = import_model(tiny(), file, library=tmp_path).folder
    before = (folder / "model.safetensors").read_bytes()
    backbone = create_model(str(folder), trainable=True)
    optimiser = torch.optim.SGD(backbone.parameters(), lr=0.1)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    frozen = create_model(str(folder)).fingerprint

    backbone(x).square().mean().backward()
    optimiser.step()

    assert backbone.fingerprint != frozen
    assert (folder / "model.safetensors").read_bytes() == before
