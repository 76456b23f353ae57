"""Resampling against scikit-learn, scipy and statsmodels; every refusal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from medssl_eval.errors import FeatureError, LabelError, SettingsError
from medssl_eval.statistics.intervals import (
    bootstrap_p,
    bootstrap_weights,
    bounded_interval,
    checked_units,
    coin_flips,
    estimate,
    holm,
    replicate,
)
from medssl_models.experiments.intervals import percentile_interval
from scipy import stats
from sklearn.metrics import roc_auc_score


def sample(rows=150, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    scores = np.clip(0.5 + 0.15 * labels + 0.2 * rng.standard_normal(rows), 0, 1)
    return labels, scores


def patients(rows, count, seed=0):
    return [f"p{n}" for n in np.random.default_rng(seed).integers(0, count, rows)]


def test_a_resample_draws_whole_patients_and_as_many_as_there_are():
    names = patients(50, 12)
    units, count = checked_units(50, names)
    assert count == len(set(names))
    (weights,) = bootstrap_weights(units, count, resamples=200, seed=3)
    for patient in set(names):
        rows = weights[:, [name == patient for name in names]]
        assert (rows == rows[:, :1]).all()
    firsts = np.unique(units, return_index=True)[1]
    assert (weights[:, firsts].sum(axis=1) == count).all()
    # A count is binomial (n, 1/n): mean 1 and variance 1 - 1/n.
    assert weights[:, firsts].mean() == 1
    assert weights[:, firsts].var() == pytest.approx(1 - 1 / count, rel=0.1)


def test_replicates_are_scikit_learn_on_the_drawn_rows():
    labels, scores = sample()
    names = patients(150, 40)
    found = replicate(labels, scores, ["auroc"], clusters=names, resamples=30, seed=5)["auroc"]
    units, count = checked_units(150, names)
    (weights,) = bootstrap_weights(units, count, resamples=30, seed=5)
    for value, times in zip(found, weights.astype(int), strict=True):
        rows = np.repeat(np.arange(150), times)
        assert value == pytest.approx(roc_auc_score(labels[rows], scores[rows]))


def test_resamples_do_not_depend_on_how_many_are_computed_at_a_time(monkeypatch):
    units = np.arange(30)
    whole = np.concatenate(list(bootstrap_weights(units, 30, resamples=50, seed=1)))
    flips = np.concatenate(list(coin_flips(30, resamples=50, seed=1)))
    monkeypatch.setattr("medssl_models.experiments.intervals.CHUNK_NUMBERS", 200)
    parts = list(bootstrap_weights(units, 30, resamples=50, seed=1))
    assert len(parts) > 5
    assert (np.concatenate(parts) == whole).all()
    assert (np.concatenate(list(coin_flips(30, resamples=50, seed=1))) == flips).all()


def test_an_interval_agrees_with_scipy_on_independent_rows():
    labels, scores = sample(200)
    ours = estimate(labels, scores, ["accuracy", "auroc"], resamples=4000, interval="percentile")
    right = (scores > 0.5) == labels
    theirs = stats.bootstrap(
        (right,),
        np.mean,
        method="percentile",
        n_resamples=4000,
        random_state=1,
    ).confidence_interval
    assert ours["accuracy"].low == pytest.approx(theirs.low, abs=0.011)
    assert ours["accuracy"].high == pytest.approx(theirs.high, abs=0.011)
    paired = stats.bootstrap(
        (labels, scores), roc_auc_score, paired=True, vectorized=False, method="percentile",
        n_resamples=500, random_state=1,
    ).confidence_interval  # fmt: skip
    assert ours["auroc"].low == pytest.approx(paired.low, abs=0.015)
    assert ours["auroc"].high == pytest.approx(paired.high, abs=0.015)


def test_patients_widen_the_interval_as_the_theory_of_cluster_sampling_says():
    # Ten identical rows a patient: the patient is the sample, the interval sqrt(10) times as wide.
    labels, scores = np.repeat(np.arange(40) % 2, 10), np.full(400, 0.2)
    scores[np.isin(np.arange(400) // 10, np.arange(0, 40, 3))] = 0.8
    names = [f"p{row // 10}" for row in range(400)]
    alone = estimate(labels, scores, ["accuracy"], resamples=3000)["accuracy"]
    grouped = estimate(labels, scores, ["accuracy"], clusters=names, resamples=3000)["accuracy"]
    assert (alone.units, grouped.units) == (400, 40)
    ratio = (grouped.high - grouped.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(np.sqrt(10), rel=0.12)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(120):
        right = rng.random(80) < 0.7
        found = estimate(np.ones(80, int), np.where(right, 0.9, 0.1), ["accuracy"], seed=trial)
        hits += found["accuracy"].low <= 0.7 <= found["accuracy"].high
    assert stats.binomtest(hits, 120, 0.94).pvalue > 0.01


@examples(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(["accuracy", "auroc", "brier", "auprc"]))
def test_an_interval_lies_around_the_value_and_equal_seeds_agree(seed, name):
    labels, scores = sample(60, seed)
    found = estimate(labels, scores, [name], seed=seed)[name]
    assert found.low < found.value < found.high
    assert estimate(labels, scores, [name], seed=seed)[name] == found


def test_the_interval_of_a_calibrated_model_holds_no_error_and_its_own_value():
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(100):
        scores = rng.random(200)
        labels = (rng.random(200) < scores).astype(int)
        found = estimate(labels, scores, ["calibration_error"], resamples=200, seed=trial)
        error = found["calibration_error"]
        assert 0 <= error.low < error.value < error.high
        hits += error.low == 0
    assert stats.binomtest(hits, 100, 0.95).pvalue > 0.01


def test_calibration_that_no_resample_disturbs_may_still_be_three_in_n_off():
    """Sure and right 40 times: one in 20 may be wrong all the same."""
    labels = np.tile([0, 1], 20)
    found = estimate(labels, labels.astype(float), ["calibration_error"])["calibration_error"]
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(3 / 40)


def test_a_model_that_is_never_sure_enough_is_told_from_a_calibrated_one():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 1000)
    scores = np.where(labels == 1, 0.6, 0.4)  # right always, and 60 % sure
    error = estimate(labels, scores, ["calibration_error"])["calibration_error"]
    assert error.value == pytest.approx(0.4)
    assert error.low > 0.35


def test_near_a_bound_the_interval_holds_the_truth_where_percentiles_do_not():
    rng = np.random.default_rng(11)
    hits = {"log_odds": 0, "percentile": 0}
    for trial in range(150):
        scores = np.where(rng.random(60) < 0.97, 0.9, 0.1)
        for way in hits:
            found = estimate(
                np.ones(60, int), scores, ["accuracy"], resamples=200, seed=trial, interval=way
            )["accuracy"]
            hits[way] += found.low is not None and found.low <= 0.97 <= found.high
    assert stats.binomtest(hits["log_odds"], 150, 0.95).pvalue > 0.01
    assert stats.binomtest(hits["percentile"], 150, 0.95).pvalue < 0.001


def test_an_interval_within_bounds_of_nothing_wrong_is_the_rule_of_three():
    assert bounded_interval(100, 0, np.inf, units=100) == (97, 100)
    assert bounded_interval(0, 0, np.inf, units=100) == (0, 3)
    low, high = bounded_interval(60, 5, 30, units=100)
    assert (low, high) == pytest.approx((60 - 2.04 * 5, 60 + 2.04 * 5), abs=0.6)
    assert bounded_interval(99.9, 30, 3, units=100)[1] <= 100


def test_where_there_is_no_interval_the_reason_says_so():
    right = [0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8], ["accuracy"]
    found = estimate(*right, interval="percentile")["accuracy"]
    assert (found.value, found.low, found.high) == (1.0, None, None)
    # None of four was wrong: half of all may be, for all one knows.
    bounded = estimate(*right)["accuracy"]
    assert (bounded.value, bounded.low, bounded.high) == (1.0, 0.5, 1.0)
    assert "too few" in found.reason
    one_class = estimate([0, 0, 0], [0.1, 0.9, 0.2], ["auroc"])["auroc"]
    assert one_class.value is one_class.low is None
    assert one_class.undefined == 1000
    assert "class 1" in one_class.reason
    rare = estimate([0] * 12 + [1], np.linspace(0.1, 0.9, 13) % 0.5, ["auroc"])["auroc"]
    assert rare.undefined > 250
    assert "lack a class" in rare.reason
    assert rare.low is not None


def test_holm_agrees_with_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 40):
        p = rng.random(count) ** 3
        expected = multitest.multipletests(p, method="holm")[1]
        np.testing.assert_allclose(holm(p), expected)


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert holm([]).size == 0


def test_p_values_are_never_zero_and_symmetric():
    gaps = np.linspace(1, 2, 99)
    assert bootstrap_p(gaps) == pytest.approx(2 / 100)
    assert bootstrap_p(-gaps) == bootstrap_p(gaps)
    assert bootstrap_p(np.array([-1.0, 1.0, np.nan])) == 1.0
    assert np.isnan(percentile_interval(np.array([np.nan]))[0])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"clusters": ["a"]}, FeatureError, "1 cluster names for 3 rows"),
        ({"resamples": 0}, SettingsError, "resamples is 0"),
        ({"labels": [0, 1, 2]}, LabelError, "0 to 1"),
    ],
)
def test_bad_input_is_named(change, error, words):
    arguments = {"labels": [0, 1, 1], "probabilities": [0.2, 0.4, 0.9], "names": ["auroc"]}
    with pytest.raises(error, match=words):
        estimate(**(arguments | change))
