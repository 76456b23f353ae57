"""The study's numbers: all there, found by what a record says, judged by both intervals."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from medssl_eval.published.numbers import find_cell, published_cells, set_beside
from medssl_models.experiments.record import Provenance, Record


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
    cells = published_cells()
    assert len(cells) == 940
    counts = Counter(cell.experiment for cell in cells)
    assert (counts["few-shot"], counts["linear"], counts["finetune"]) == (143, 26, 21)
    assert counts["reconstruction"] == 520
    assert len({(c.experiment, c.dataset, c.model, c.metric, c.setting) for c in cells}) == 940
    assert {cell.unit for cell in cells} == {"%", ""}


def test_cells_carry_their_flags_and_doubts():
    flagged = {cell.model: cell for cell in published_cells() if "F7" in " ".join(cell.flags)}
    assert len(flagged) == 13
    bach = find_cell(record(dataset="bach"))
    assert bach.flags[0].startswith("F3: ")
    doubted = [cell for cell in published_cells() if cell.doubts]
    assert {doubt[:2] for cell in doubted for doubt in cell.doubts} == {
        f"D{number}" for number in range(1, 7)
    }
    assert find_cell(record(model="supervised_d121")).doubts[0].startswith("D2: ")


def test_a_heat_map_bounds_what_was_released_without_an_interval():
    (cell,) = [
        c
        for c in published_cells()
        if (c.metric, c.dataset, c.model) == ("attentive-diffusion", "bach", "byol")
    ]
    assert (cell.low, cell.value, cell.high) == (40.07, 41.32, 41.76)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ({}, 74.46),
        ({"model": "simclr-v1:torchvision"}, 74.46),
        ({"settings": {"ways": 2, "shots": 5, "queries": 15}}, None),
        ({"dataset": "folder:scans"}, None),
        ({"metric": "auroc"}, None),
        ({"experiment": "knn"}, None),
        ({"experiment": "linear", "dataset": "chexpert", "settings": {}}, 75.01),
        ({"experiment": "linear", "dataset": "chexpert", "settings": {"fraction": 0.1}}, None),
        (
            {
                "experiment": "linear",
                "dataset": "diabetic_retinopathy",
                "metric": "balanced_accuracy",
                "settings": {"fraction": 1.0},
            },
            31.51,
        ),
    ],
)
def test_a_record_finds_its_cell(change, value):
    found = find_cell(record(**change))
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
    (found,) = set_beside([record(value, half), record(dataset="folder:scans")])
    assert found.verdict == verdict
    assert found.difference == pytest.approx(value - 74.46)


def test_without_any_interval_there_is_no_verdict():
    linear = record(half=None, experiment="linear", dataset="chexpert", settings={})
    assert set_beside([linear])[0].verdict == "no interval"


@examples(deadline=None)
@given(value=st.floats(0, 100), low=st.floats(0, 30), high=st.floats(0, 30))
def test_the_side_of_an_interval_that_faces_the_study_counts(value, low, high):
    ours = record(value, ci_low=value - low, ci_high=value + high)
    (found,) = set_beside([ours])
    facing = low if value > 74.46 else high
    within = abs(value - 74.46) <= (facing**2 + 0.66**2) ** 0.5
    assert (found.verdict == "agrees") == within
