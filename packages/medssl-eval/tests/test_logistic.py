"""The solver against scikit-learn converged to a tight tolerance, and against its own gradient."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from medssl_eval.errors import FeatureError, LabelError, SettingsError
from medssl_eval.solver.logistic import (
    SolverSettings,
    choose_c,
    published_cs,
    solve,
    solve_path,
)
from medssl_eval.solver.published_fit import fit_published
from sklearn.linear_model import LogisticRegression

CS = [1e-3, 1e-1, 1e1, 1e3]


def sample(rows, columns, classes, seed=0, overlap=2.0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, columns)) * np.geomspace(1, 0.1, columns) + 3
    signal = (features - 3) @ rng.normal(size=(columns, classes))
    labels = (signal + overlap * rng.gumbel(size=(rows, classes))).argmax(axis=1)
    labels[:classes] = np.arange(classes)
    return features, labels


def gradient(solution, features, soft, weights=None):
    """Gradient of the stated objective by an independent, plain formula."""
    weights = np.ones(len(features)) if weights is None else weights
    residual = (solution.probabilities(features) - soft) * weights[:, None]
    residual = residual[:, 1:] if len(solution.intercepts) == 1 else residual
    slope = solution.coefficients + solution.c * residual.T @ features
    return slope, solution.c * residual.sum(axis=0)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("shape", [(40, 90), (150, 12)], ids=["rows<columns", "rows>columns"])
def test_agrees_with_scikit_learn_converged(classes, shape):
    features, labels = sample(*shape, classes)
    for solution in solve_path(features, labels, cs=CS):
        oracle = LogisticRegression(C=solution.c, solver="newton-cg", tol=1e-10, max_iter=2000)
        oracle.fit(features, labels)
        assert solution.converged
        scale = np.abs(oracle.coef_).max()
        np.testing.assert_allclose(solution.coefficients, oracle.coef_, atol=1e-5 * scale)
        np.testing.assert_allclose(
            solution.probabilities(features), oracle.predict_proba(features), atol=1e-5
        )


@pytest.mark.parametrize("shape", [(60, 200), (300, 20)])
def test_the_chosen_c_is_that_of_scikit_learn(shape):
    features, labels = sample(*shape, 3)
    held, truth = sample(*shape, 3, seed=1)
    cs = np.geomspace(1e-4, 1e3, 8).tolist()
    ours = [(s.predict(held) == truth).mean() for s in solve_path(features, labels, cs=cs)]
    theirs = [
        LogisticRegression(C=c, tol=1e-8, solver="newton-cg")
        .fit(features, labels)
        .score(held, truth)
        for c in cs
    ]
    assert choose_c(cs, ours) == choose_c(cs, theirs)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("shape", [(30, 50), (80, 6)])
def test_gradient_vanishes_for_soft_targets_and_weights(classes, shape):
    rng = np.random.default_rng(3)
    features = rng.normal(size=shape).astype(np.float32)
    soft, weights = rng.dirichlet(np.ones(classes), shape[0]), rng.uniform(0, 2, shape[0])
    for solution in solve_path(features, soft, cs=[1e-2, 1.0, 1e2], weights=weights):
        slope, tilt = gradient(solution, features, soft, weights)
        assert np.linalg.norm(slope) <= 2e-6 * np.linalg.norm(solution.coefficients)
        assert np.abs(tilt).max() <= 1e-5 * solution.c * shape[0]


def test_weights_are_repetitions():
    features, labels = sample(40, 5, 3)
    counts = np.random.default_rng(0).integers(1, 4, 40)
    weighted = solve(features, labels, c=2.0, weights=counts)
    repeated = solve(np.repeat(features, counts, axis=0), np.repeat(labels, counts), c=2.0)
    np.testing.assert_allclose(weighted.coefficients, repeated.coefficients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("shape", [(40, 120), (90, 4)])
def test_separable_data_and_huge_cs_reach_the_optimum(classes, shape):
    rng = np.random.default_rng(0)
    labels = np.arange(shape[0]) % classes
    features = rng.normal(size=shape) + 30 * np.eye(classes, shape[1])[labels]
    path = solve_path(features, labels, cs=published_cs())
    assert all(solution.converged for solution in path)
    assert (path[0].predict(features) == labels).all()
    slope, _ = gradient(path[0], features, np.eye(classes)[labels])
    assert np.linalg.norm(slope) < 1e-3 * np.linalg.norm(path[0].coefficients)


def test_a_cold_start_finds_what_the_path_finds():
    features, labels = sample(60, 100, 2)
    path = solve_path(features, labels, cs=published_cs())
    cold = solve(features, labels, c=path[0].c)
    np.testing.assert_allclose(cold.coefficients, path[0].coefficients, rtol=1e-3, atol=1e-5)
    assert cold.objective == pytest.approx(path[0].objective, rel=1e-9)


def test_conflicting_twins_and_a_wide_spectrum_keep_the_gradient_small():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 120)) * np.geomspace(100, 1e-4, 120)
    features[1], labels = features[0], np.arange(50) % 2
    soft = np.eye(2)[labels]
    for solution in solve_path(features, labels, cs=published_cs()[::6]):
        slope, _ = gradient(solution, features, soft)
        scale = np.linalg.norm(solution.coefficients)
        rounding = solution.c * 1e-15 * np.linalg.norm(features)
        assert np.linalg.norm(slope) <= 1e-5 * scale + 100 * rounding


@pytest.mark.parametrize("classes", [2, 4])
def test_where_float32_cannot_succeed_the_path_converges_all_the_same(classes):
    """Few columns vary, so the classes overlap and no C makes the curvature small."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 200)), np.arange(60) % classes
    features[:, 10:] = 1.0
    for solution in solve_path(features, labels, cs=published_cs()[::4]):
        assert solution.converged
        slope, tilt = gradient(solution, features, np.eye(classes)[labels])
        assert np.linalg.norm(slope[:, :10]) <= 5e-6 * solution.c * np.linalg.norm(features[:, :10])
        assert np.abs(tilt).max() <= 1e-5 * solution.c * 60


def test_streaming_gives_what_a_copy_gives():
    features, labels = sample(3000, 8, 2)
    narrow = features.astype(np.float32)
    copied = solve(narrow, labels, c=1.0)
    streamed = solve(narrow, labels, c=1.0, settings=SolverSettings(copy_limit=0))
    np.testing.assert_allclose(copied.coefficients, streamed.coefficients, rtol=1e-6)


def test_constant_features_leave_the_class_shares():
    labels = np.array([0, 0, 0, 1])
    solution = solve(np.ones((4, 3)), labels, c=1.0)
    assert np.abs(solution.coefficients).max() < 1e-9
    np.testing.assert_allclose(solution.probabilities(np.ones((1, 3))), [[0.75, 0.25]], atol=1e-6)
    wide = solve(np.ones((4, 9)), labels, c=1.0)
    np.testing.assert_allclose(wide.probabilities(np.ones((1, 9))), [[0.75, 0.25]], atol=1e-6)


def test_too_few_iterations_are_reported():
    features, labels = sample(50, 5, 2)
    solution = solve(features, labels, c=1e3, settings=SolverSettings(max_iterations=1))
    assert not solution.converged
    assert solution.relative_gradient > 1e-6


@examples(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50), log_c=st.floats(-4, 4))
def test_a_shift_of_the_features_moves_only_the_intercept(seed, shift, log_c):
    features, labels = sample(25, 4, 2, seed=seed)
    here = solve(features, labels, c=10**log_c)
    there = solve(features + shift, labels, c=10**log_c)
    np.testing.assert_allclose(here.coefficients, there.coefficients, rtol=1e-3, atol=1e-6)


def test_published_cs_are_the_study_grid():
    grid = published_cs()
    assert len(grid) == 45
    assert grid[0] == pytest.approx(1e6, rel=1e-6)
    assert grid[-1] == pytest.approx(1e-5, rel=1e-6)
    assert list(grid) == sorted(grid, reverse=True)


PARTS = np.s_[:300], np.s_[300:]


@pytest.fixture(scope="module", params=[2, 3], ids="{} classes".format)
def of_2022(request):
    """What scikit-learn 1.0.2 stored; `nox -s oracle-sklearn` fits it anew."""
    stored, end = np.load(Path(__file__).with_name("scikit_learn_2022.npz")), f"_{request.param}"
    found = {name.removesuffix(end): stored[name] for name in stored if name.endswith(end)}
    parts = [(found["features"][rows], found["labels"][rows]) for rows in PARTS]
    return parts, found, 2 if request.param == 2 else 1


def furthest(solution, stored, twins):
    """Largest error of coefficients and intercepts against the largest of them."""
    ours = np.column_stack([solution.coefficients, solution.intercepts])
    return np.abs(ours - twins * stored).max() / np.abs(ours).max()


def accuracy(truth, probabilities):
    return float((truth == probabilities.argmax(axis=1)).mean())


def test_published_search_is_that_of_scikit_learn_in_2022(of_2022):
    """Its own fits differ so much from one kernel of linear algebra to another."""
    parts, stored, twins = of_2022
    fit = fit_published(*parts, score=accuracy)
    moved = np.abs(np.array(fit.scores) - stored["scores"]) * len(parts[1][1])
    assert (moved > 1e-9).sum() <= 3
    assert moved.max() < 1.5
    assert fit.chosen == stored["chosen"]
    assert fit.final.c == published_cs()[fit.chosen]
    for solution, theirs in zip(fit.path, stored["coefficients"], strict=True):
        assert furthest(solution, theirs, twins) < 0.08
    cut_off = sum(not solution.converged for solution in fit.path)
    assert abs(cut_off - (stored["iterations"] == 100).sum()) <= 4
    assert furthest(fit.final, stored["final"], twins) < 1e-3


def test_published_fit_of_one_c_starts_from_zero(of_2022):
    parts, stored, twins = of_2022
    fit = fit_published(*parts, score=accuracy, cs=[100.0])
    assert (fit.path, fit.scores, fit.chosen) == ((), (), 0)
    assert fit.final.iterations == pytest.approx(stored["cold_iterations"], rel=0.1)
    assert fit.final.converged == (stored["cold_iterations"] < 100)  # three classes are cut off
    assert furthest(fit.final, stored["cold"], twins) < 1e-3


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_published_fits_reach_the_optimum_where_they_are_not_cut_off(classes, softmax):
    features, labels = sample(80, 10, classes)
    part = features[:50].astype(np.float32), labels[:50]
    held = features[50:].astype(np.float32), labels[50:]
    fit = fit_published(part, held, score=accuracy, cs=[0.1], softmax=softmax, max_iterations=1000)
    whole = features.astype(np.float32)
    twins = 2 if softmax and classes == 2 else 1
    best = solve(whole, labels, c=0.1 * twins)
    np.testing.assert_allclose(fit.final.coefficients, best.coefficients, atol=1e-3)
    assert fit.final.objective * twins == pytest.approx(best.objective, rel=1e-5)
    assert fit.final.converged


def test_published_cut_off_is_reported():
    features, labels = sample(80, 10, 2)
    fit = fit_published(
        (features, labels),
        (features, labels),
        score=lambda a, b: 0.0,
        cs=[1e5],
        max_iterations=2,
    )
    assert not fit.final.converged
    assert fit.final.iterations == 2


def test_ties_keep_the_larger_c():
    assert choose_c([1e3, 1.0, 1e-3], [0.5, 0.8, 0.8]) == 1
    assert choose_c([1e-3, 1.0], [0.8, 0.8]) == 1
    with pytest.raises(SettingsError, match="scores"):
        choose_c([1.0], [float("nan")])


GOOD = np.arange(8.0).reshape(4, 2)


@pytest.mark.parametrize(
    ("features", "targets", "options", "error", "words"),
    [
        (np.ones(4), [0, 1, 0, 1], {}, FeatureError, "shape"),
        (np.where(GOOD == 5, np.nan, GOOD), [0, 1, 0, 1], {}, FeatureError, "first row 2"),
        (GOOD, [0, 0, 0, 0], {}, LabelError, "one class"),
        (GOOD, [0, 1, 0, 1], {"classes": 3}, LabelError, "class 2 has no row"),
        (GOOD, [0, 1, 0, 5], {"classes": 3}, LabelError, "allowed are 0 to 2"),
        (GOOD, [0.0, 1.0, 0.5, 1.0], {}, LabelError, "dtype"),
        (GOOD, [0, 1, 0], {}, LabelError, "shape"),
        (GOOD, [[0.5, 0.6]] * 4, {}, LabelError, "sum one"),
        (GOOD, [0, 1, 0, 1], {"weights": [1, 1, 1, -1]}, SettingsError, "weights"),
        (GOOD, [0, 1, 0, 1], {"cs": [0.0]}, SettingsError, r"cs: \[0.0\]"),
    ],
)
def test_bad_input_is_named(features, targets, options, error, words):
    with pytest.raises(error, match=words):
        solve_path(features, targets, **{"cs": [1.0], **options})
