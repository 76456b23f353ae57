"""Every number of the study is reached by a record of the package whose experiment repeats it."""

from collections import Counter

import pytest
from medssl_models import Provenance, Record
from medssl_models.experiments.registry import installed_experiments
from medssl_models.experiments.released import find_released, released_numbers

REPEATED = [one for one in installed_experiments() if one.released is not None]
NAMES = sorted({name for experiment in REPEATED for name in experiment.released.experiments})


def experiment_of(number):
    """The one experiment that repeats a number: two may share a name of the study's."""
    (found,) = [
        experiment
        for experiment in REPEATED
        if number.experiment in experiment.released.experiments
        and experiment.metric(experiment.released.metric(number)) is not None
    ]
    return found


def record_of(number, **changes):
    """The record that our command writes under `published` with the settings of a number."""
    experiment = experiment_of(number)
    settings = experiment.settings_for("published").model_dump(mode="json")
    origin = {"model": number.model, "dataset": number.dataset, "protocol": "published"}
    for name, wanted in {**experiment.released.conditions(number), **changes}.items():
        value = sorted(wanted)[0] if isinstance(wanted, frozenset) else wanted
        if name in Provenance.model_fields and name not in settings:
            origin[name] = value
        else:
            settings[name] = value
    return Record(
        experiment=experiment.name,
        metric=experiment.released.metric(number),
        value=number.value,
        settings=settings,
        provenance=Provenance(**origin),
    )


def test_each_number_has_one_experiment_that_repeats_it():
    counts = Counter(number.experiment for number in released_numbers())
    assert set(counts) == set(NAMES)
    assert all(experiment_of(number) for number in released_numbers())
    assert sum(counts.values()) == 940


@pytest.mark.parametrize("name", NAMES)
def test_all_numbers_of_an_experiment_are_found_each_by_its_own_record(name):
    for number in released_numbers():
        if number.experiment == name:
            assert find_released(record_of(number)).number == number


@pytest.mark.parametrize("name", NAMES)
def test_what_was_selected_of_a_data_set_is_another_condition(name):
    number = next(one for one in released_numbers() if one.experiment == name)
    found = find_released(record_of(number, selection={"target": "Edema"}))
    assert found.number is None
    assert any(one.startswith("selection is") for one in found.differences)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("perceptual-distance", {"layer": "layer1"}),
        ("perceptual-distance", {"steps": 100}),
        ("perceptual-distance", {"size": 96}),
        ("attentive-diffusion", {"window": 16}),
        ("attentive-diffusion", {"crop": 96}),
        ("few-shot", {"shots": 5}),
        ("linear", {"fraction": 0.1}),
        ("invariance", {"transform": "blur"}),
    ],
)
def test_other_conditions_find_no_number(name, change):
    number = next(one for one in released_numbers() if one.experiment == name)
    found = find_released(record_of(number, **change))
    assert found.number is None
    assert any(next(iter(change)) in one for one in found.differences) or name == "invariance"
