"""A small version of the table of coverage: `benchmarks/coverage.py` draws 400 populations."""

import importlib.util
import sys
from pathlib import Path

import pytest
from scipy.stats import binomtest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def coverage():
    spec = importlib.util.spec_from_file_location("medssl_coverage", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def holds(row, populations):
    """Whether the count could come from an interval that holds 95 %: one in 200 would not."""
    return binomtest(round(row.covered * populations / 100), populations, 0.95).pvalue > 0.005


@pytest.mark.parametrize("each", [1, 3])
def test_few_shot_intervals_hold_the_accuracy_of_other_patients(coverage, each):
    (row,) = coverage.few_shot(coverage.Population(60, each, 1.5), 1, 80)
    assert holds(row, 80)
    assert row.formerly < 60  # over episodes


def test_equal_models_are_seldom_told_apart(coverage):
    (row,) = coverage.few_shot_difference(coverage.Population(60, 1, 3.0), 5, 60)
    assert holds(row, 60)
    assert row.formerly < 60


@pytest.mark.parametrize("experiment", ["classifier", "linear"])
def test_intervals_of_classifiers_hold_what_all_images_would_give(coverage, experiment):
    for row in getattr(coverage, experiment)(coverage.Population(60, 1, 4.0), 100):
        assert holds(row, 100), row


def test_intervals_of_neighbours_hold_what_other_samples_would_give(coverage):
    for row in coverage.knn(coverage.Population(60, 1, 1.5), 60):
        assert holds(row, 60), row


def test_an_interval_that_is_too_narrow_is_found_out(coverage):
    (row,) = coverage.few_shot(coverage.Population(60, 1, 1.5), 1, 80)
    assert not holds(coverage.Coverage("", row.population, 0, row.formerly, 0), 80)
