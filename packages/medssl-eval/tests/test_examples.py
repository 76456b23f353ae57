"""The examples of the documentation strings run, and what a user calls has one."""

import doctest
import importlib
import pkgutil

import medssl_eval
import pytest

ROOMS = tuple(
    f"medssl_eval.{room}."
    for room in ("experiments", "matrix", "rank", "solver", "statistics", "training")
)
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(medssl_eval.__path__, "medssl_eval.")
    if module.name.startswith(ROOMS)
)
CALLED = [
    "experiments.few_shot.few_shot",
    "experiments.finetune.finetune",
    "experiments.knn.knn",
    "experiments.linear.linear",
    "experiments.settings.preset",
    "matrix.finished.finished_cells",
    "matrix.plan.read_plan",
    "rank.ranking.Ranker",
    "rank.ranking.choose_experiments",
    "solver.logistic.choose_c",
    "solver.logistic.published_cs",
    "solver.logistic.solve",
    "solver.logistic.solve_path",
    "solver.published_fit.fit_published",
    "statistics.average_ranks.rank_models",
    "statistics.intervals.bootstrap_p",
    "statistics.intervals.estimate",
    "statistics.intervals.holm",
    "statistics.intervals.intervals_overlap",
    "statistics.joint_tests.all_pairs",
    "statistics.joint_tests.jackknife_panel",
    "statistics.joint_tests.needed_units",
    "statistics.joint_tests.step_down",
    "statistics.intervals.replicate",
    "statistics.metrics.ClassifierMetric",
    "statistics.metrics.evaluate_metrics",
    "statistics.metrics.validation_score",
    "statistics.paired_tests.compare_episodes",
    "statistics.paired_tests.compare_predictions",
    "statistics.paired_tests.delong",
    "training.images.random_crop",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_what_a_user_calls_has_an_example():
    found = {
        test.name
        for name in MODULES
        for test in doctest.DocTestFinder().find(importlib.import_module(name))
        if test.examples
    }
    assert {f"medssl_eval.{name}" for name in CALLED} <= found
