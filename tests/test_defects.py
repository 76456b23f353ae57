"""The page of the study's defects against what the code says about them."""

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from medssl_models.catalog import resolve
from medssl_models.experiments.experiment import GROUP
from medssl_models.experiments.registry import find_experiment
from medssl_models.experiments.released import released_numbers
from medssl_models.experiments.runner import networks_of
from medssl_models.experiments.settings import differences

PAGE = (Path(__file__).parents[1] / "docs" / "defects.md").read_text("utf-8")
ROWS = {
    cells[0]: cells[-1]
    for line in PAGE.splitlines()
    if line.startswith("| ")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
# By entry point: other tests declare toys, with entries of any kind.
EXPERIMENTS = [find_experiment(entry.name) for entry in entry_points(group=GROUP)]


def differing(experiment):
    presets = (experiment.settings_for("published"), experiment.settings_for("corrected"))
    return {entry for one in differences(*presets) for entry in one.entries}


def named(letter):
    return [name for name in ROWS if re.fullmatch(rf"{letter}-?\d+", name)]


def test_every_entry_has_one_row_in_order():
    assert named("I") == [f"I-{number}" for number in range(1, 49)]
    assert named("F") == [f"F{number}" for number in range(3, 14)]
    assert named("D") == [f"D{number}" for number in range(1, 7)]


def test_the_page_explains_every_flag_and_doubt_of_the_released_numbers():
    for letter, kind in (("F", "flags"), ("D", "doubts")):
        told = {text.partition(":")[0] for one in released_numbers() for text in getattr(one, kind)}
        assert told == set(named(letter))


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda one: one.name)
def test_what_an_experiment_says_of_an_entry_is_on_the_page(experiment):
    told = {entry for entry in differing(experiment) | set(experiment.alike) if "-" in entry}
    assert told <= set(ROWS)
    for entry in differing(experiment) - set(experiment.alike):
        assert not ROWS[entry].startswith("both:"), entry


def test_entries_that_no_experiment_repeats_are_the_same_in_both_protocols():
    """Each of the others is repeated by a setting of some experiment."""
    repeated = set().union(*(differing(experiment) for experiment in EXPERIMENTS))
    both = {entry for entry in named("I") if ROWS[entry].startswith("both:")}
    assert set(named("I")) - repeated - both <= {"I-44"}  # of the study's figures alone


@pytest.mark.parametrize("model", ["byol", "simclr-v1"])
@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda one: one.name)
def test_networks_pad_as_in_the_study_under_published_and_the_difference_is_told(experiment, model):
    padding = {
        protocol: resolve(
            model, protocol=networks_of(experiment.settings_for(protocol))
        ).card.padding
        for protocol in ("published", "corrected")
    }
    assert padding["published"] == "torchvision"
    assert padding["corrected"].startswith("tf_same")
    presets = (experiment.settings_for("published"), experiment.settings_for("corrected"))
    assert "padding" in {one.field for one in differences(*presets)}
