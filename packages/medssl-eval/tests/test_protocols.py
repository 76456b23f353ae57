"""Presets are values; each difference has a reason."""

import pytest
from medssl_eval.errors import SettingsError, UnknownNameError
from medssl_eval.experiments.declarations import describe, differences
from medssl_eval.experiments.settings import (
    FewShotSettings,
    FinetuneSettings,
    KnnSettings,
    LinearSettings,
    preset,
)
from pydantic import ValidationError

EXPERIMENTS = {
    "few-shot": FewShotSettings,
    "linear": LinearSettings,
    "knn": KnnSettings,
    "finetune": FinetuneSettings,
}


def test_the_default_is_corrected():
    assert FewShotSettings() == preset(FewShotSettings, "corrected")


def test_the_published_preset_is_the_studys():
    study = preset(FewShotSettings, "published")
    assert study.protocol == "published"
    assert (study.shots, study.queries, study.episodes) == ((20,), 15, 600)
    assert (study.geometry, study.normalisation, study.pool) == (
        "experiment",
        "study",
        "first_10001",
    )


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_field_is_explained_and_every_difference_has_a_number(experiment):
    assert all(why for _, _, why in describe(experiment, "corrected"))
    for difference in differences(experiment):
        assert difference.published != difference.corrected
        assert difference.entries or difference.field == "padding"
        assert all(entry.startswith("I-") for entry in difference.entries)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("protocol", ["published", "corrected"])
def test_presets_are_valid_and_frozen(experiment, protocol):
    settings = preset(EXPERIMENTS[experiment], protocol)
    assert settings.protocol == protocol
    with pytest.raises(ValidationError):
        settings.seed = 1


def test_changes_leave_the_rest_and_none_changes_nothing():
    settings = preset(FewShotSettings, "published", shots=(1, 5), ways=None)
    assert settings.shots == (1, 5)
    assert settings.ways == "study"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"episodes": 0}, "episodes is 0"),
        ({"shotz": 1}, "unknown setting 'shotz'; did you mean shots?"),
        ({"pool": "some"}, "pool is 'some'"),
    ],
)
def test_wrong_settings_are_named(changes, sentence):
    with pytest.raises(SettingsError) as caught:
        preset(FewShotSettings, **changes)
    assert str(caught.value).startswith(sentence)
    assert caught.value.exit_code == 2


def test_unknown_names_are_refused_with_close_matches():
    with pytest.raises(UnknownNameError, match="did you mean few-shot"):
        differences("few-shots")
    with pytest.raises(SettingsError, match="choose from published, corrected"):
        preset(FewShotSettings, "fixed")
