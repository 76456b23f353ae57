"""What reaches the network under each protocol, and which features are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from medssl_data import dataset_card, list_datasets, load_dataset
from medssl_data.synthetic.phantom import write_phantom
from medssl_eval import few_shot
from medssl_eval.cli import app
from medssl_eval.errors import FeatureError
from medssl_eval.experiments.features import SQUASH, patients_of, prepare
from medssl_eval.experiments.settings import FewShotSettings, preset
from medssl_models import Normalisation, RunContext
from medssl_models.console import run
from medssl_models.errors import UnreadableSourceError
from medssl_models.experiments.runner import notes_of

PLAIN = RunContext()
SMALL = {"shots": (2,), "queries": 3, "episodes": 20}


def with_published_normalisation(backbone):
    constant = Normalisation(kind="constant", mean=(0.5,) * 3, std=(0.1,) * 3)
    backbone.card = backbone.card.replace(published_preprocessing=constant)
    return backbone


@pytest.mark.parametrize("geometry", ["experiment", "model"])
@pytest.mark.parametrize("normalisation", ["published", "model"])
def test_geometry_and_normalisation_are_chosen_apart(geometry, normalisation, tiny_model):
    backbone = with_published_normalisation(tiny_model("random_r18"))
    settings = preset(FewShotSettings, geometry=geometry, normalisation=normalisation)
    prepared = prepare(backbone, settings, geometry=SQUASH)
    own = backbone.preprocessing
    expected = (257, 257) if geometry == "experiment" else own.resize
    assert prepared.resize == expected
    assert prepared.interpolation == "bilinear"
    kind = "constant" if normalisation == "published" else own.normalisation.kind
    assert prepared.normalisation.kind == kind


def of_card(data, name, **changes):
    """Give images the card of a data set of the study."""
    return replace(data, card=dataset_card(name).model_copy(update=changes))


def test_large_sets_of_the_study_keep_their_aspect(scans, tiny_model):
    data = of_card(load_dataset(f"folder:{scans}"), "diabetic_retinopathy", published_pool=30)
    published = preset(FewShotSettings, "published", **SMALL)
    (record,) = few_shot(tiny_model("random_r18"), data, settings=published, context=PLAIN)
    assert json.loads(record.provenance.preprocessing)["resize"] == 224
    assert record.details["drawable"] == 30
    assert record.settings["ways"] == 2  # five were asked for, two exist


def test_images_outside_the_studys_pool_are_not_opened(scans, tiny_model):
    data = of_card(load_dataset(f"folder:{scans}"), "diabetic_retinopathy", published_pool=30)
    data = replace(data, manifest=replace(data.manifest, splits=("test",) * 10 + ("train",) * 34))
    for identity in (*data.ids[:10], *data.ids[40:]):
        (scans / identity).with_suffix(".png").write_bytes(b"no picture")
    model = tiny_model("random_r18")
    (record,) = few_shot(model, data, protocol="published", context=PLAIN, **SMALL)
    assert record.details["drawable"] == record.details["images"] == 30
    with pytest.raises(UnreadableSourceError):
        few_shot(model, data, context=PLAIN, **SMALL)


@pytest.fixture(scope="module")
def bach(tmp_path_factory):
    """A phantom in the layout of BACH, as its own reader opens it."""
    root = tmp_path_factory.mktemp("bach")
    write_phantom("bach", root, {})
    return root


def test_bach_s_images_stand_twice_in_the_studys_pool(bach, tiny_model):
    model = tiny_model("random_r18")
    found = {}
    for protocol in ("published", "corrected"):
        data = load_dataset("bach", root=bach, protocol=protocol)
        (record,) = few_shot(model, data, protocol=protocol, context=PLAIN, **SMALL)
        found[protocol] = record
    assert {name: one.details["copies"] for name, one in found.items()} == {
        "published": 2,
        "corrected": 1,
    }
    data = load_dataset("bach", root=bach, protocol="published")
    settings = preset(FewShotSettings, "published", **SMALL, duplicate_images="never")
    (once,) = few_shot(model, data, settings=settings, context=PLAIN)
    assert once.details["plan"] != found["published"].details["plan"]
    assert once.value < found["published"].value  # a query can meet its twin


def test_bach_is_the_only_set_with_twins():
    assert [card.name for card in list_datasets() if card.published_duplicates] == ["bach"]


def test_the_later_merge_of_myopia_can_be_asked_for_under_published(tmp_path, capsys, tiny_models):
    """The released numbers have the former one (I-17)."""
    write_phantom("ichallenge_pm", tmp_path, {})
    words = ("few-shot", "-m", "random_r18", "-d", "ichallenge_pm", "--root", str(tmp_path))
    small = (
        "--protocol",
        "published",
        "--shots",
        "2",
        "--episodes",
        "5",
        "--no-controls",
        "--json",
    )
    told = {}
    for labels in ((), ("--labels", "pm-pathological")):
        assert run(app, [*words, *small, *labels]) == 0
        (record,) = json.loads(capsys.readouterr().out)["records"]
        told[record["provenance"]["label_policy"]] = record["details"]["plan"]
    assert list(told) == ["pm-high-myopia", "pm-pathological"]
    assert len(set(told.values())) == 2


def test_episodes_are_the_same_for_all_models_unless_the_study_wants_otherwise(scans, tiny_model):
    data = load_dataset(f"folder:{scans}")
    models = [tiny_model(name) for name in ("random_r18", "random_r50")]
    for protocol, plans in (("corrected", 1), ("published", 2)):
        settings = preset(FewShotSettings, protocol, **SMALL)
        found = [
            few_shot(model, data, settings=settings, context=PLAIN)[0].details["plan"]
            for model in models
        ]
        assert len(set(found)) == plans


def test_a_known_record_is_returned_without_extraction(scans, tiny_model):
    data, backbone = load_dataset(f"folder:{scans}"), tiny_model("random_r18")
    settings = preset(FewShotSettings, **SMALL)
    (record,) = few_shot(backbone, data, settings=settings, context=PLAIN)
    for path in scans.rglob("*.png"):
        path.unlink()
    context = RunContext(known={record.key: record})
    (again,) = few_shot(backbone, data, settings=settings, context=context)
    assert again == record


def test_features_that_are_not_finite_name_the_image(scans, monkeypatch, tiny_model):
    import medssl_models

    def broken(backbone, source, **_):
        features = np.zeros((len(source), 4), dtype=np.float32)
        features[7] = np.nan
        readable = np.ones(len(source), dtype=bool)
        return medssl_models.FeatureTable(features, readable, "key", {}, len(source))

    monkeypatch.setattr(medssl_models, "extract", broken)
    data = load_dataset(f"folder:{scans}")
    with pytest.raises(FeatureError, match=data.ids[7]) as caught:
        few_shot(tiny_model("random_r18"), data, context=PLAIN, **SMALL)
    assert caught.value.exit_code == 3


def test_unknown_patients_are_patients_of_their_own():
    assert patients_of(["", ""], separate=True) is None
    assert patients_of(["a", "a"], separate=False) is None
    names = patients_of(["a", "", "", "a"], separate=True)
    assert names[0] == names[3] == "a"
    assert len(set(names)) == 3


def test_a_model_that_was_trained_on_the_data_set_says_so(scans, tiny_model):
    data = load_dataset(f"folder:{scans}")
    backbone = tiny_model("random_r18")
    assert notes_of(backbone, data) == ("control: random_r18 is untrained",)

    names = ("imagenet", data.name)
    backbone.card = backbone.card.replace(
        control=False, seed=None, origin="here", pretraining=names
    )
    assert [note[:40] for note in notes_of(backbone, data)] == [
        "pretraining: random_r18 was trained on i"
    ]
    phantom = replace(data, manifest=replace(data.manifest, synthetic=True))
    assert notes_of(backbone, phantom) == data.notes
