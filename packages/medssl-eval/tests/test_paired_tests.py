"""Two models compared, against scipy, exact enumeration and the definition of DeLong's test."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from medssl_eval.errors import FeatureError, LabelError
from medssl_eval.statistics.metrics import METRICS
from medssl_eval.statistics.paired_tests import compare_episodes, compare_predictions, delong
from scipy import stats
from sklearn.metrics import roc_auc_score


def sample(rows=120, seed=0, gain=0.1, decimals=3):
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    common = rng.standard_normal(rows)
    first, second = (
        np.clip(
            0.5 + shift * (labels - 0.5) + 0.15 * common + 0.1 * rng.standard_normal(rows), 0, 1
        )
        for shift in (0.15 + gain, 0.15)
    )
    return labels, first.round(decimals), second.round(decimals)


def delong_by_definition(labels, first, second):
    """Equations 2 to 8 of DeLong et al. 1988, with the kernel of every pair written out."""
    ups, downs = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    placements = []
    for scores in (first, second):
        kernel = np.sign(scores[ups][:, None] - scores[downs]) / 2 + 0.5
        placements.append((kernel.mean(axis=1), kernel.mean(axis=0)))
    s10 = np.cov([gains for gains, _ in placements])
    s01 = np.cov([losses for _, losses in placements])
    return s10 / len(ups) + s01 / len(downs)


@examples(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), decimals=st.integers(1, 4), rows=st.integers(8, 60))
def test_delong_is_its_definition(seed, decimals, rows):
    labels, first, second = sample(rows, seed, decimals=decimals)
    found = delong(labels, first, second)
    expected = delong_by_definition(labels, first, second)
    np.testing.assert_allclose(found.covariance, expected, atol=1e-12)
    np.testing.assert_allclose(
        found.areas, [roc_auc_score(labels, scores) for scores in (first, second)]
    )
    gap = found.areas[0] - found.areas[1]
    error = np.sqrt(expected[0, 0] + expected[1, 1] - 2 * expected[0, 1])
    if error > 1e-9:
        assert found.z == pytest.approx(gap / error)
        assert found.p == pytest.approx(2 * stats.norm.sf(abs(gap / error)))


def test_delong_for_patients_is_what_resampling_patients_gives():
    rng = np.random.default_rng(2)
    count, each = 90, 4
    names = [f"p{row // each}" for row in range(count * each)]
    labels = (rng.random(count * each) < np.repeat(rng.choice([0.2, 0.8], count), each)).astype(int)
    taste = np.repeat(rng.standard_normal((2, count)), each, axis=1)
    first, second = (
        1 / (1 + np.exp(-(labels + taste[i] + 0.5 * rng.standard_normal(count * each))))
        for i in range(2)
    )
    alone = delong(labels, first, second)
    grouped = delong(labels, first, second, clusters=names)
    drawn = compare_predictions(labels, first, second, "auroc", clusters=names, resamples=2000)
    spread = (drawn.high - drawn.low) / (2 * 1.96)
    covariance = grouped.covariance
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert error == pytest.approx(spread, rel=0.1)
    assert abs(grouped.z) < abs(alone.z)


def test_delong_with_a_row_a_patient_is_delong():
    labels, first, second = sample(40)
    rows = [str(row) for row in range(40)]
    plain, grouped = (delong(labels, first, second, clusters=names) for names in (None, rows))
    np.testing.assert_allclose(plain.covariance, grouped.covariance, atol=1e-15)


def test_the_tests_of_a_difference_agree_with_each_other_and_with_scipy():
    labels, first, second = sample(300, seed=4, gain=0.05)
    found = compare_predictions(labels, first, second, "accuracy", resamples=4000)
    right = [((scores > 0.5) == labels).astype(float) for scores in (first, second)]
    gaps = right[0] - right[1]
    assert found.difference == pytest.approx(gaps.mean())
    theirs = stats.permutation_test(
        right, lambda a, b: np.mean(a - b), permutation_type="samples",
        n_resamples=4000, vectorized=False, random_state=0,
    )  # fmt: skip
    assert found.p_permutation == pytest.approx(theirs.pvalue, abs=0.03)
    interval = stats.bootstrap(
        (gaps,),
        np.mean,
        method="percentile",
        n_resamples=4000,
        random_state=0,
    ).confidence_interval
    assert found.low == pytest.approx(interval.low, abs=0.007)
    assert found.high == pytest.approx(interval.high, abs=0.007)
    assert found.p_delong is None
    curve = compare_predictions(labels, first, second, "auroc", resamples=2000)
    assert curve.p_delong == pytest.approx(curve.p_permutation, abs=0.03)
    assert curve.p_delong == pytest.approx(curve.p_bootstrap, abs=0.03)


def test_the_permutation_test_is_the_exact_one_where_that_can_be_counted():
    labels, first, second = sample(10, seed=3, gain=0.3)
    right = [((scores > 0.5) == labels).astype(float) for scores in (first, second)]
    gaps = []
    for swapped in itertools.product([False, True], repeat=10):
        ours, theirs = np.where(swapped, right[::-1], right)
        gaps.append(ours.mean() - theirs.mean())
    observed = right[0].mean() - right[1].mean()
    assert observed != 0
    exact = np.mean(np.abs(gaps) >= abs(observed) - 1e-12)
    found = compare_predictions(labels, first, second, "accuracy", resamples=8000)
    assert found.p_permutation == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_exchanging_what_images_add_is_near_to_exchanging_ranks(seed):
    labels, first, second = sample(100, seed=seed, gain=0.06)
    ranks = np.array([stats.rankdata(scores) for scores in (first, second)])
    gaps = []
    for swapped in np.random.default_rng(seed).integers(0, 2, (2000, 100)):
        ours, theirs = np.where(swapped, ranks[::-1], ranks)
        gaps.append(fast_auroc(labels, ours) - fast_auroc(labels, theirs))
    observed = fast_auroc(labels, ranks[0]) - fast_auroc(labels, ranks[1])
    expected = np.mean(np.abs(gaps) >= abs(observed) - 1e-12)
    found = compare_predictions(labels, first, second, "auroc", resamples=2000)
    assert found.p_permutation == pytest.approx(expected, abs=0.035)


def fast_auroc(labels, scores):
    ups = labels == 1
    return float((stats.rankdata(scores)[ups].mean() - (ups.sum() + 1) / 2) / (~ups).sum())


def test_delong_without_variance_has_no_answer():
    labels, perfect, flat = [0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], [0.5] * 4
    with pytest.raises(LabelError, match="without any variance"):
        delong(labels, perfect, flat)
    assert delong(labels, perfect, perfect).p == 1.0
    found = compare_predictions(labels, perfect, flat, "auroc")
    assert found.p_delong is None
    # One of the sixteen exchanges and its mirror image part the models as far.
    assert found.p_permutation == pytest.approx(2 / 16, abs=0.03)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_model_does_not_differ_from_itself(name):
    labels, first, _ = sample(60)
    found = compare_predictions(labels, first, first, name, resamples=200)
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert found.p_bootstrap == found.p_permutation == 1.0


@examples(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(METRICS)))
def test_exchanging_the_models_turns_the_sign(seed, name):
    labels, first, second = sample(50, seed)
    one = compare_predictions(labels, first, second, name, resamples=99)
    other = compare_predictions(labels, second, first, name, resamples=99)
    assert one.difference == pytest.approx(-other.difference)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.p_permutation == other.p_permutation


def test_patients_are_exchanged_as_a_whole():
    # Two patients cannot give a p-value below 1/2, however many rows they have.
    labels, first, second = sample(200, gain=0.5)
    names = ["a"] * 100 + ["b"] * 100
    found = compare_predictions(labels, first, second, "auroc", clusters=names, resamples=500)
    assert found.units == 2
    assert found.p_permutation > 0.4
    assert compare_predictions(labels, first, second, "auroc", resamples=500).p_permutation < 0.01


def test_false_alarms_are_as_rare_as_the_level_says():
    alarms = np.zeros(3)
    for trial in range(150):
        labels, first, second = sample(60, seed=trial, gain=0.0)
        found = compare_predictions(labels, first, second, "auroc", resamples=199, seed=trial)
        alarms += np.array([found.p_bootstrap, found.p_permutation, found.p_delong]) < 0.1
    for count in alarms:
        assert stats.binomtest(int(count), 150, 0.1).pvalue > 0.005


def test_episodes_agree_with_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.normal(71, 8, 200), rng.normal(70, 8, 200)
    found = compare_episodes(first, second, resamples=6000)
    gaps = first - second
    theirs = stats.permutation_test(
        (gaps,), np.mean, permutation_type="samples", n_resamples=6000,
        vectorized=False, random_state=0,
    )  # fmt: skip
    assert found.p_permutation == pytest.approx(theirs.pvalue, abs=0.03)
    normal = stats.ttest_rel(first, second)
    assert found.p_permutation == pytest.approx(normal.pvalue, abs=0.03)
    interval = normal.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.15)
    assert (found.units, found.difference) == (200, pytest.approx(gaps.mean()))


@pytest.mark.parametrize(
    ("labels", "first", "second", "error", "words"),
    [
        ([0, 1], [0.1, 0.2], [[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]], FeatureError, "cannot be paired"),
        ([0, 0], [0.1, 0.2], [0.3, 0.4], LabelError, "cannot be compared"),
    ],
)
def test_what_cannot_be_compared_is_said(labels, first, second, error, words):
    with pytest.raises(error, match=words):
        compare_predictions(labels, first, second, "auroc")


def test_too_few_for_delong_and_unpaired_episodes():
    with pytest.raises(LabelError, match="at least 2 of each"):
        delong([0, 0, 1], [0.1, 0.2, 0.3], [0.3, 0.2, 0.1])
    with pytest.raises(LabelError, match="patients"):
        delong([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], [0.4] * 4, clusters=["a", "b", "c", "c"])
    with pytest.raises(FeatureError, match="cannot be paired"):
        compare_episodes([1.0, 2.0], [1.0])
    with pytest.raises(LabelError, match="a single patient"):
        compare_predictions([0, 0, 1], [0.1, 0.2, 0.3], [0.3, 0.2, 0.1], "auroc")
    lonely = compare_predictions([0, 0, 1], [0.1, 0.2, 0.3], [0.3, 0.2, 0.1], "accuracy")
    assert lonely.p_delong is None
