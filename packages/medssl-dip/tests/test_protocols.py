"""The presets, and the numbers that the study released."""

import csv
from pathlib import Path

import pytest
from medssl_dip.errors import SettingsError
from medssl_dip.published import published_distance, published_models
from medssl_dip.settings import settings_for
from medssl_models.catalog import model_card
from medssl_models.experiments.settings import describe, differences

REPOSITORY = Path(__file__).parents[3]


def test_the_studys_settings():
    study = settings_for("published")

    assert (study.steps, study.learning_rate, study.size, study.layer) == (
        3001,
        1e-3,
        224,
        "layer4",
    )
    assert study.generator.size_for(224) == 256
    assert not study.normalised_input
    assert study.patience is None
    assert (study.lossless, study.rounded, study.restarts) == (False, False, 1)
    assert (study.reading.position, study.reading.window) == (5, (0, 255))


def test_every_field_and_every_difference_has_a_reason():
    study, ours = settings_for("published"), settings_for()

    assert all(why for _, _, why in describe(ours))
    entries = {one.field: one.entries for one in differences(study, ours)}
    assert {name for name, numbers in entries.items() if not numbers} == {
        "size",
        "patience",
        "divergence",
        "rounded",
    }


def test_quick_is_smaller_in_every_way():
    full, quick = settings_for(), settings_for(preset="quick")

    assert quick.size < 224
    assert quick.steps < full.steps
    assert sum(quick.generator.channels) < sum(full.generator.channels)
    assert quick.normalised_input == full.normalised_input
    assert settings_for("published", "quick").layer == "layer4"


def test_none_changes_nothing_and_a_value_wins_over_the_preset():
    assert settings_for(preset="quick", steps=None) == settings_for(preset="quick")
    assert settings_for(preset="quick", steps=7, size=64).steps == 7


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"size": 8}, {"learning_rate": 0}, {"tolerance": 1}, {"speed": 1}]
)
def test_values_that_cannot_be(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        settings_for(**wrong)


def test_released_distances_are_those_of_the_released_table():
    table = REPOSITORY.parent / "shared" / "published" / "published_canonical.csv"
    if not table.exists():
        pytest.skip("the study's tables are not beside the repository")
    with table.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["experiment"] == "perceptual-distance"]
    for row in rows:
        net = row["setting"].removeprefix("lpips ").replace("mean of the three nets", "average")
        ours = published_distance(dataset=row["dataset"], model=row["model"], net=net)
        assert ours == pytest.approx(float(row["value"]), abs=1e-9), row
    assert len(rows) == 520


def test_the_average_is_that_of_the_nets_and_models_have_cards():
    assert len(published_models()) == 13
    for model in published_models():
        assert model_card(model).name == model
        values = [
            published_distance(dataset="imagenet", model=model, net=net)
            for net in ("alex", "vgg", "squeeze", "average")
        ]
        assert values[3] == pytest.approx(sum(values[:3]) / 3, abs=2e-6)


def test_a_cell_that_the_study_has_not():
    assert published_distance(dataset="mine", model="byol") is None
