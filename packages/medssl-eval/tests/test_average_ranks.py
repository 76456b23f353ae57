"""Ranks against scipy, scikit-posthocs and the worked example of Demsar 2006."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from medssl_eval.errors import InfeasibleError
from medssl_eval.statistics.average_ranks import rank_models
from scipy import stats

# Ranks of four classifiers on 14 data sets, table 6 of Demsar 2006.
DEMSAR = [
    (4, 3, 2, 1), (1, 2, 3, 4), (4, 1, 2, 3), (4, 1, 3, 2), (4, 2, 3, 1), (1, 2.5, 4, 2.5),
    (3, 2, 4, 1), (2.5, 2.5, 4, 1), (4, 3, 2, 1), (2.5, 2.5, 2.5, 2.5), (4, 2.5, 1, 2.5),
    (3, 2, 4, 1), (4, 1, 2, 3), (3, 1, 4, 2),
]  # fmt: skip
# Table 5 there: critical values of Nemenyi's test at 5 % for 2..10 classifiers.
NEMENYI = (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)


def test_the_worked_example_of_demsar():
    found = rank_models(DEMSAR, ("C4.5", "m", "cf", "m+cf"), higher_is_better=False)
    assert found.models == ("m+cf", "m", "cf", "C4.5")
    np.testing.assert_allclose(found.mean_ranks, [1.964, 2.0, 2.893, 3.143], atol=5e-4)
    # He does not correct for ties; without that the statistic is smaller by this share.
    ties = sum(n**3 - n for row in DEMSAR for n in np.unique(row, return_counts=True)[1].tolist())
    uncorrected = found.chi_square * (1 - ties / (14 * (4**3 - 4)))
    assert uncorrected == pytest.approx(9.28, abs=0.005)
    assert 13 * uncorrected / (14 * 3 - uncorrected) == pytest.approx(3.69, abs=0.005)
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)
    # Only the first and the last, 1.18 apart, come near it: nothing is told apart.
    assert found.groups == ((0, 3),)


@pytest.mark.parametrize(("count", "critical"), list(enumerate(NEMENYI, start=2)))
def test_critical_values_are_the_published_ones(count, critical):
    rng = np.random.default_rng(count)
    found = rank_models(rng.random((6, count)), [str(i) for i in range(count)])
    error = np.sqrt(count * (count + 1) / 36)
    assert found.critical_difference / error == pytest.approx(critical, abs=1.5e-3)


@examples(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(5, 12),
    count=st.integers(3, 6),
    levels=st.sampled_from([3, 1000]),
)
def test_friedman_is_scipys_with_ties_and_without(seed, rows, count, levels):
    table = np.random.default_rng(seed).integers(0, levels, (rows, count)).astype(float)
    table[0] = np.arange(count)  # not all tied
    found = rank_models(table, [str(i) for i in range(count)])
    theirs = stats.friedmanchisquare(*table.T)
    assert found.chi_square == pytest.approx(theirs.statistic)
    assert found.p_friedman == pytest.approx(theirs.pvalue)
    assert found.mean_ranks.sum() == pytest.approx(count * (count + 1) / 2)
    assert (np.diff(found.mean_ranks) >= 0).all()


def test_nemenyi_agrees_with_an_independent_implementation():
    posthocs = pytest.importorskip("scikit_posthocs")
    table = np.random.default_rng(1).random((9, 5)) + np.linspace(0, 0.6, 5)
    found = rank_models(table, list("abcde"))
    theirs = posthocs.posthoc_nemenyi_friedman(table).to_numpy()
    order = ["abcde".index(name) for name in found.models]
    np.testing.assert_allclose(found.p_nemenyi, theirs[np.ix_(order, order)], atol=2e-3)


def test_groups_are_the_longest_runs_within_the_critical_difference():
    # A clear winner, a clear loser, and a middle that is told apart from neither.
    table = np.tile([3.0, 2.0, 1.0], (9, 1))
    found = rank_models(table, ("best", "middle", "worst"))
    assert found.mean_ranks.tolist() == [1.0, 2.0, 3.0]
    assert found.critical_difference == pytest.approx(2.343 * np.sqrt(12 / 54), abs=1e-3)
    assert found.groups == ((0, 1), (1, 2))
    assert found.p_value < 1e-6
    apart = rank_models(np.tile(table, (4, 1)), ("best", "middle", "worst"))
    assert apart.groups == ()


def test_models_that_are_alike_everywhere_and_the_direction():
    found = rank_models(np.ones((5, 3)), list("abc"))
    assert (found.chi_square, found.p_value) == (0, 1)
    assert found.groups == ((0, 2),)
    errors = [[0.1, 0.2], [0.3, 0.4]] * 3
    assert rank_models(errors, ("low", "high"), higher_is_better=False).models[0] == "low"
    assert rank_models(errors, ("low", "high")).models[0] == "high"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([[1.0, 2.0]] * 4, "at least 5 data sets"),
        ([[1.0]] * 5, "2 models"),
        ([[1.0, 2.0], [np.nan, 1.0], *[[1.0, 2.0]] * 3], "'m0' has no value on data set 2"),
    ],
)
def test_a_table_that_cannot_be_ranked_is_named(table, words):
    with pytest.raises(InfeasibleError, match=words):
        rank_models(table, [f"m{i}" for i in range(len(table[0]))])
