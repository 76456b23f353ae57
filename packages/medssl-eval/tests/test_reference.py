"""The study's numbers: all there, found by what a record says, judged by both intervals."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from medssl_models.experiments.record import Provenance, Record
from medssl_models.experiments.registry import find_experiment
from medssl_models.experiments.released import (
    compare_with_released,
    find_released,
    released_numbers,
)

WHOLE = {"fraction": 1.0, "evaluation": "test_part"}


def record(value=74.0, half=1.0, *, dataset="shenzhencxr", model="simclr-v1", **changes):
    fields = {
        "experiment": "few-shot",
        "metric": "accuracy",
        "unit": "%",
        "value": value,
        "ci_low": None if half is None else value - half,
        "ci_high": None if half is None else value + half,
        "settings": {"ways": 2, "shots": 20, "queries": 15, "episodes": 600},
        "provenance": Provenance(model=model, dataset=dataset, protocol="published"),
    }
    return Record(**(fields | changes))


def test_every_released_number_is_there_once():
    cells = released_numbers()
    assert len(cells) == 940
    counts = Counter(cell.experiment for cell in cells)
    assert (counts["few-shot"], counts["linear"], counts["finetune"]) == (143, 26, 21)
    assert counts["perceptual-distance"] == 520
    assert len({(c.experiment, c.dataset, c.model, c.metric, c.setting) for c in cells}) == 940
    assert {cell.unit for cell in cells} == {"%", ""}


def test_cells_carry_their_flags_and_doubts():
    flagged = {cell.model: cell for cell in released_numbers() if "F7" in " ".join(cell.flags)}
    assert len(flagged) == 13
    bach = find_released(record(dataset="bach")).number
    assert bach.flags[0].startswith("F3: ")
    doubted = [cell for cell in released_numbers() if cell.doubts]
    assert {doubt[:2] for cell in doubted for doubt in cell.doubts} == {
        f"D{number}" for number in range(1, 7)
    }
    assert find_released(record(model="supervised_d121")).number.doubts[0].startswith("D2: ")


def test_a_heat_map_bounds_what_was_released_without_an_interval():
    (cell,) = [
        c
        for c in released_numbers()
        if (c.experiment, c.dataset, c.model) == ("attentive-diffusion", "bach", "byol")
    ]
    assert (cell.low, cell.value, cell.high) == (40.07, 41.32, 41.76)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ({}, 74.46),
        ({"model": "simclr-v1:torchvision"}, 74.46),
        ({"settings": {"ways": 2, "shots": 5, "queries": 15}}, None),
        ({"dataset": "folder:scans"}, None),
        ({"experiment": "linear", "metric": "auroc", "unit": ""}, None),
        ({"experiment": "knn"}, None),
        ({"experiment": "linear", "dataset": "chexpert", "settings": WHOLE}, 75.01),
        (
            {"experiment": "linear", "dataset": "chexpert", "settings": {**WHOLE, "fraction": 0.1}},
            None,
        ),
        (
            {
                "experiment": "linear",
                "dataset": "diabetic_retinopathy",
                "metric": "balanced_accuracy",
                "settings": WHOLE,
            },
            31.51,
        ),
    ],
)
def test_a_record_finds_its_cell(change, value):
    found = find_released(record(**change)).number
    assert (None if found is None else found.value) == value


@pytest.mark.parametrize(
    ("value", "half", "verdict"),
    [
        (74.46, 0.5, "agrees"),
        (75.2, 0.5, "agrees"),  # sqrt(0.5^2 + 0.66^2) = 0.83
        (75.3, 0.5, "higher"),
        (73.6, 0.5, "lower"),
        (75.1, None, "agrees"),
        (75.2, None, "higher"),
    ],
)
def test_a_record_agrees_within_both_intervals(value, half, verdict):
    (found,) = compare_with_released([record(value, half), record(dataset="folder:scans")])
    assert found.verdict == verdict
    assert found.difference == pytest.approx(value - 74.46)


def test_without_any_interval_there_is_no_verdict():
    linear = record(half=None, experiment="linear", dataset="chexpert", settings=WHOLE)
    assert compare_with_released([linear])[0].verdict == "no interval"


@examples(deadline=None)
@given(value=st.floats(0, 100), low=st.floats(0, 30), high=st.floats(0, 30))
def test_the_side_of_an_interval_that_faces_the_study_counts(value, low, high):
    ours = record(value, ci_low=value - low, ci_high=value + high)
    (found,) = compare_with_released([ours])
    facing = low if value > 74.46 else high
    within = abs(value - 74.46) <= (facing**2 + 0.66**2) ** 0.5
    assert (found.verdict == "agrees") == within


OWN = ("few-shot", "linear", "finetune", "imagenet-top1")


@pytest.mark.parametrize(
    "number",
    [number for number in released_numbers() if number.experiment in OWN],
    ids=lambda number: f"{number.experiment}-{number.dataset}-{number.model}",
)
def test_every_number_is_reached_by_a_record_of_our_own_commands(number):
    """A record that has the published settings, those of the number, finds it and no other."""
    name = "linear" if number.experiment == "imagenet-top1" else number.experiment
    experiment = find_experiment(name)
    settings = experiment.settings_for("published").model_dump(mode="json")
    if name == "few-shot":
        ways = int(number.setting[0])
        settings |= {"ways": ways, "shots": 20}
    else:
        settings["fraction"] = settings.pop("fractions")[0]
    metric = "balanced_accuracy" if "per-class" in number.metric else "accuracy"
    ours = Record(
        experiment=name,
        metric=metric,
        value=number.value,
        settings=settings,
        provenance=Provenance(model=number.model, dataset=number.dataset, protocol="published"),
    )
    assert find_released(ours).number == number


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"settings": {"ways": 2, "shots": 5, "queries": 15}}, "shots is 5, the study's 20"),
        (
            {
                "provenance": Provenance(
                    model="byol", dataset="chexpert", selection={"target": "Edema"}
                )
            },
            "selection is",
        ),
        (
            {"experiment": "linear", "dataset": "chexpert", "settings": {**WHOLE, "fraction": 0.1}},
            "fraction is 0.1, the study's 1.0",
        ),
    ],
)
def test_other_conditions_are_named(change, reason):
    found = find_released(record(**change))
    assert found.number is None
    assert any(one.startswith(reason) for one in found.differences)
