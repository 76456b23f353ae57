"""Presets are values; each difference has a reason."""

import pytest
from medssl_eval.cli import app
from medssl_eval.errors import SettingsError
from medssl_eval.experiments.declarations import FEW_SHOT
from medssl_eval.experiments.settings import (
    FewShotSettings,
    FinetuneSettings,
    KnnSettings,
    LinearSettings,
    preset,
)
from medssl_models.console import run as run_app
from medssl_models.errors import SettingsError as ModelSettingsError
from medssl_models.errors import UnknownExperimentError
from medssl_models.experiments.registry import find_experiment
from medssl_models.experiments.settings import describe, differences
from pydantic import ValidationError

EXPERIMENTS = {
    "few-shot": FewShotSettings,
    "linear": LinearSettings,
    "knn": KnnSettings,
    "finetune": FinetuneSettings,
}
WITHOUT_NUMBER = {"padding", "evaluation", "interval", "last_batch", "search_stopping"}
each_experiment = pytest.mark.parametrize("experiment", EXPERIMENTS)


def test_the_default_is_corrected():
    assert FewShotSettings() == preset(FewShotSettings, "corrected")


def test_the_published_preset_is_the_studys():
    study = preset(FewShotSettings, "published")
    assert study.protocol == "published"
    assert (study.shots, study.queries, study.episodes) == ((20,), 15, 600)
    assert (study.geometry, study.normalisation, study.pool) == (
        "experiment",
        "published",
        "first_10001",
    )


@each_experiment
def test_every_field_is_explained_and_every_difference_has_a_number(experiment):
    found = find_experiment(experiment)
    published, corrected = (found.settings_for(one) for one in ("published", "corrected"))
    assert all(why for _, _, why in describe(corrected))
    for difference in differences(published, corrected):
        assert difference.published != difference.corrected
        assert difference.entries or difference.field in WITHOUT_NUMBER
        assert all(entry.startswith("I-") for entry in difference.entries)


@each_experiment
@pytest.mark.parametrize("protocol", ["published", "corrected"])
def test_presets_are_valid_and_frozen(experiment, protocol):
    settings = preset(EXPERIMENTS[experiment], protocol)
    assert settings == find_experiment(experiment).settings_for(protocol)
    assert settings.protocol == protocol
    with pytest.raises(ValidationError):
        settings.seed = 1


def test_changes_leave_the_rest_and_none_changes_nothing():
    settings = preset(FewShotSettings, "published", shots=(1, 5), ways=None)
    assert settings.shots == (1, 5)
    assert settings.ways == "published"


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
    with pytest.raises(ModelSettingsError) as again:
        FEW_SHOT.settings_for("corrected", changes)
    assert (str(again.value), again.value.exit_code) == (str(caught.value), 2)


def test_unknown_names_are_refused_with_close_matches():
    with pytest.raises(UnknownExperimentError, match="did you mean few-shot"):
        find_experiment("few-shots")
    with pytest.raises(SettingsError, match="choose from published, corrected"):
        preset(FewShotSettings, "fixed")


def test_settings_are_shown_as_people_write_them(capsys):
    """Several values stood there as a tuple of Python, and none of several as `()`."""
    assert run_app(app, ["protocol", "show", "few-shot"]) == 0
    assert run_app(app, ["protocol", "show", "linear"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    values = {row[0]: row[1] for row in rows if len(row) > 1}
    assert (values["shots"], values["by"]) == ("20", "none")
