"""A small, seeded version of `benchmarks/false_alarms.py`, whose table stands in the docs."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "false_alarms.py"


@pytest.fixture(scope="module")
def simulated():
    spec = importlib.util.spec_from_file_location("false_alarms", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules["false_alarms"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_ranking_calls_equal_models_worse_in_one_run_of_twenty_at_most(simulated):
    found = simulated.races(13, 20, images=800)
    # More than 3 of 20 would be a chance of 1 in 60 at 5 %.
    assert found.ours <= 15
    assert found.looks >= 3
    assert found.naive > found.ours


def test_a_ranking_finds_a_model_that_is_worse_before_the_end(simulated):
    found = simulated.races(5, 10, worse=20, images=800)
    assert found.ours == 100
    assert found.images < 800


@pytest.mark.parametrize("name", ["accuracy", "auroc", "balanced_accuracy"])
def test_the_best_is_not_called_better_than_equals(simulated, name):
    found = simulated.best_against_rest(13, 100, name, 40)
    # More than 5 of 40 would be a chance of 1 in 70 at 5 %.
    assert found.ours <= 12.5
    assert found.alone >= 40
    power = simulated.best_against_rest(5, 200, name, 15, worse=20)
    assert power.ours >= 85
