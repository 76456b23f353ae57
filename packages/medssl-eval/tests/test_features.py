"""What reaches the network under each protocol, and which features are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from medssl_data import load_dataset
from medssl_eval import few_shot
from medssl_eval.errors import FeatureError
from medssl_eval.experiments.features import SQUASH, patients_of, prepare
from medssl_eval.experiments.settings import FewShotSettings, preset
from medssl_models import Normalisation, RunContext
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


def test_large_sets_of_the_study_keep_their_aspect(scans, tiny_model):
    data = load_dataset(f"folder:{scans}")
    facts = {"name": "large", "published_geometry": "short-side", "published_pool": 30, "ways": 5}
    card = type("Card", (), facts)()
    published = preset(FewShotSettings, "published", **SMALL)
    (record,) = few_shot(
        tiny_model("random_r18"), replace(data, card=card), settings=published, context=PLAIN
    )
    assert json.loads(record.provenance.preprocessing)["resize"] == 224
    assert record.details["drawable"] == 30
    assert record.settings["ways"] == 2  # five were asked for, two exist


def test_the_studys_twins_are_drawn_where_the_card_says_so(scans, tiny_model):
    data = load_dataset(f"folder:{scans}")
    facts = {"published_geometry": "squash", "published_pool": None, "ways": 2}
    facts |= {"published_duplicates": True}
    twins = replace(data, card=type("Card", (), facts | {"name": "twice"})())
    published = preset(FewShotSettings, "published", **(SMALL | {"shots": (30,)}))
    (record,) = few_shot(tiny_model("random_r18"), twins, settings=published, context=PLAIN)
    assert record.details["copies"] == 2


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
