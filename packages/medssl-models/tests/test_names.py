"""A model has one name: whatever is typed for it, and wherever it came from."""

import json
import sys

import pytest
from medssl_models import available_models, control_of, create_model, list_models
from medssl_models.card import ModelCard
from medssl_models.catalog import resolve
from medssl_models.cli import app
from medssl_models.console import run
from medssl_models.conversion.convert import convert
from medssl_models.errors import CheckpointError, MissingWeightsError, UnknownModelError
from medssl_models.hub.bundles import export_bundle, import_bundle
from medssl_models.hub.library import check_models
from medssl_models.testing import shrunken, tiny_card, tiny_state, write_torch_checkpoint


@pytest.fixture
def library(tmp_path, monkeypatch):
    """An empty library, which is that of the commands too."""
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


def converted(folder, name="tuned", **changes):
    """A converted folder of a model that no catalogue lists, as fine-tuning leaves one."""
    card = shrunken(resolve("supervised_r18").card).replace(
        **{"name": name, "weights": (), "aliases": ()} | changes
    )
    file = folder.with_name(f"{folder.name}.pth")
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_torch_checkpoint(file, card, tiny_state(card))
    done = convert(file, card, folder).folder
    file.unlink()
    return done


@pytest.mark.parametrize(
    ("typed", "protocol", "name"),
    [
        ("simclr", "corrected", "simclr-v1"),
        ("simclr", "published", "simclr-v1:torchvision"),
        ("simclr:tf_same_pool", "published", "simclr-v1"),
        ("byol:tf_same", "corrected", "byol"),
        ("byol:torchvision", "corrected", "byol:torchvision"),
        ("moco-v2", "published", "moco-v2"),
        ("random:densenet121", "corrected", "random_d121"),
        ("random:resnet50:tf_same", "corrected", "random_r50:tf_same"),
    ],
)
def test_what_is_typed_becomes_one_name(typed, protocol, name):
    model = resolve(typed, protocol=protocol)

    assert model.name == name
    assert resolve(name).card == model.card


def test_a_backbone_bears_the_name(library):
    assert create_model("random:resnet18").name == resolve("random:resnet18").name == "random_r18"


def test_a_folder_means_the_model_in_it(tmp_path):
    folder = converted(tmp_path / "mine")

    model = resolve(str(folder))

    assert (model.name, model.folder) == ("tuned", folder)
    assert create_model(str(folder)).name == "tuned"
    with pytest.raises(CheckpointError, match=r"without config\.json"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("folder", ["tuned", "another"])
def test_a_folder_in_the_library_is_a_model_of_its_own(library, folder, tmp_path, capsys):
    place = converted(library / folder)

    for typed in ("tuned", folder, str(place)):
        assert resolve(typed).name == "tuned"
        assert create_model(typed).fingerprint == create_model(str(place)).fingerprint
    assert "tuned" in [card.name for card in list_models()]
    assert "tuned" in available_models()
    assert control_of("tuned") == "random_r18"
    check_models(["tuned"])

    assert run(app, ["list", "--json"]) == 0
    (row,) = [r for r in json.loads(capsys.readouterr().out) if r["name"] == "tuned"]
    assert row["here"] is True
    assert [m.name for m in export_bundle([], tmp_path / "all.zip").models] == ["tuned"]
    (one,) = import_bundle(tmp_path / "all.zip", library=tmp_path / "there")
    assert resolve("tuned", library=tmp_path / "there").folder == one.folder


def test_a_control_that_was_trained_is_no_control(library):
    converted(library / "tuned", name="random:timm:resnet18.a1_in1k-scans-0a1b2c3d")

    model = create_model("tuned")

    assert model.name == "random:timm:resnet18.a1_in1k-scans-0a1b2c3d"
    assert create_model(model.name).fingerprint == model.fingerprint
    assert not model.card.control


def test_two_folders_of_one_name_are_one_model(library):
    converted(library / "copy")
    converted(library / "tuned")

    assert [card.name for card in list_models()].count("tuned") == 1
    assert resolve("tuned").folder == library / "tuned"


def test_folders_that_are_no_models_are_passed_over(library):
    (library / "empty").mkdir(parents=True)
    broken = converted(library / "broken")
    (broken / "config.json").write_text("{}")
    (library / "file").write_bytes(b"")

    assert not {"empty", "broken", "tuned", "file"} & {card.name for card in list_models()}
    with pytest.raises(UnknownModelError):
        resolve("broken")


def test_a_card_wins_over_a_folder_that_takes_its_name(library):
    converted(library / "thief", name="byol")

    assert resolve("byol").card.architecture == "resnet50"
    assert "byol" not in available_models()


def test_only_what_can_be_created_is_available(library):
    assert available_models() == ["random_d121", "random_r18", "random_r50"]
    with pytest.raises(MissingWeightsError, match="import byol FILE"):
        check_models(["random_r18", "byol"])
    with pytest.raises(UnknownModelError):
        check_models(["random_r19x"])
    check_models(["random_r18", "random_r50:tf_same"])


@pytest.mark.parametrize(
    ("name", "control"),
    [
        ("moco-v2", "random_r50"),
        ("mimic-cxr_r18", "random_r18"),
        ("supervised_d121", "random_d121"),
        ("byol:torchvision", "random_r50"),
        ("random_r50", None),
        ("random:resnet18", None),
    ],
)
def test_a_control_has_the_same_architecture(name, control):
    said = []

    assert control_of(name, say=said.append) == control
    assert said == []


def test_an_architecture_without_a_listed_control_gets_one(library):
    converted(library / "deep", name="deep", architecture="resnet34")

    assert control_of("deep") == "random:resnet34"
    assert "random:resnet34" in available_models()
    control = create_model("random:resnet34")
    assert (control.name, control.card.control) == ("random:resnet34", True)
    assert control.preprocessing == create_model("deep").preprocessing
    assert control.fingerprint == create_model("random:resnet34").fingerprint


def change_config(folder, change):
    path = folder / "config.json"
    path.write_text(change(path.read_text("utf-8")), "utf-8")


def test_why_there_is_no_control_is_said(library, tmp_path, monkeypatch):
    gone = converted(tmp_path / "gone")
    change_config(gone, lambda text: text.replace('"resnet18"', '"acme-encoder"'))
    foreign = converted(tmp_path / "foreign")
    change_config(foreign, lambda text: text.replace('"resnet18"', '"timm:resnet18.a1_in1k"'))
    monkeypatch.setitem(sys.modules, "timm", None)
    said = []

    assert control_of(str(gone), say=said.append) is None
    assert control_of(str(foreign), say=said.append) is None
    assert control_of(str(gone)) is None
    assert "tuned has no untrained control: architecture: 'acme-encoder' is unknown" in said[0]
    assert "pip install 'medssl-models[timm]'" in said[1]


def test_folders_and_cards_of_version_0_1_are_still_read(tmp_path):
    folder = converted(tmp_path / "old", published_padding="tf_same")
    expected = resolve(str(folder)).card
    change_config(folder, lambda text: text.replace('"published_p', '"study_p'))

    assert '"study_padding"' in (folder / "config.json").read_text("utf-8")
    assert resolve(str(folder)).card == expected
    assert resolve(str(folder), protocol="published").name == "tuned:tf_same"
    card = tiny_card().replace(study_padding="tf_same", study_preprocessing={"kind": "none"})
    assert (card.published_padding, card.published_preprocessing.kind) == ("tf_same", "none")
    assert ModelCard.model_validate_json(card.model_dump_json()) == card


def test_what_is_printed_fits_one_line():
    assert repr(create_model("random_r18")) == (
        "Backbone(random_r18, feature_dim=512, padding=torchvision, frozen)"
    )
    assert repr(resolve("byol").card) == (
        "ModelCard(name='byol', architecture='resnet50', feature_dim=2048)"
    )


def test_the_command_shows_what_a_name_means(library, tmp_path, capsys):
    folder = converted(tmp_path / "mine")

    assert run(app, ["show", "simclr:torchvision", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["padding"]) == ("simclr-v1", "torchvision")
    assert run(app, ["show", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(folder)
