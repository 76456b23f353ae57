"""All pairs of models at once: exact counts, scipy, and simulations with known answers."""

import itertools
import time

import numpy as np
import pytest
from medssl_eval.errors import LabelError, SettingsError
from medssl_eval.statistics import joint_tests
from medssl_eval.statistics.joint_tests import (
    Panel,
    all_pairs,
    jackknife_panel,
    needed_units,
    step_down,
)
from medssl_eval.statistics.paired_tests import delong
from scipy import stats

LEVEL = 0.05


def means(values):
    """Models (U, k) whose values are means over units."""
    count = len(values)
    influences = (values - values.mean(axis=0)) / np.sqrt(count * (count - 1))
    units = [f"image {n}" for n in range(count)]
    return Panel(units, influences, values.mean(axis=0), np.zeros(count, np.int64))


def every_pair(models):
    return list(itertools.combinations(range(models), 2))


def equal_models(seed, images, models, shares=0.8):
    generator = np.random.default_rng([seed, images, models])
    noise = generator.standard_normal((images, 1)) + generator.standard_normal((images, models))
    return (noise < np.sqrt(2) * stats.norm.ppf(shares)).astype(float)


def test_a_pair_alone_is_tested_as_by_full_enumeration():
    values = np.random.default_rng(1).normal([0.6, 0.0], 1, (9, 2))
    (found,) = all_pairs([means(values)], [[(0, 1)]], resamples=20_000, seed=0)
    gaps = values[:, 0] - values[:, 1]
    sums = [abs(np.dot(signs, gaps)) for signs in itertools.product((-1, 1), repeat=9)]
    assert found.p[0] == pytest.approx(np.mean(np.array(sums) >= abs(gaps.sum())), abs=0.01)
    assert found.p[0] == found.p_adjusted[0]
    assert found.standard_error[0] == pytest.approx(stats.sem(gaps))
    assert found.p[0] == pytest.approx(stats.ttest_rel(*values.T).pvalue, abs=0.03)


def test_the_jackknife_knows_delongs_variance_and_that_of_a_mean():
    rng = np.random.default_rng(0)
    labels = np.arange(150) % 3 // 2
    scores = np.clip(0.4 + 0.1 * labels + 0.2 * rng.standard_normal((2, 150)), 0, 1)
    panel = jackknife_panel(labels, list(scores), "auroc")
    expected = delong(labels, *scores)
    np.testing.assert_allclose(panel.values, expected.areas)
    np.testing.assert_allclose(panel.influences.T @ panel.influences, expected.covariance)
    right = (scores > 0.5) == labels
    panel = jackknife_panel(labels, list(scores), "accuracy")
    errors = np.sqrt((panel.influences**2).sum(axis=0))
    np.testing.assert_allclose(errors, stats.sem(right, axis=1))


def test_patients_are_left_out_and_exchanged_as_a_whole():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(30) % 2, 4)
    scores = np.repeat(rng.random((2, 30)), 4, axis=1)
    names = [f"p{row // 4}" for row in range(120)]
    whole = jackknife_panel(labels, list(scores), "accuracy", units=names)
    single = jackknife_panel(labels[::4], list(scores[:, ::4]), "accuracy")
    assert len(whole.units) == 30
    found, expected = (
        all_pairs([panel], [[(0, 1)]], resamples=2000, seed=0)[0] for panel in (whole, single)
    )
    np.testing.assert_allclose(found.standard_error, expected.standard_error)
    assert found.p[0] == pytest.approx(expected.p[0], abs=0.03)


def test_many_units_are_put_into_blocks_with_the_same_variance(monkeypatch):
    monkeypatch.setattr(joint_tests, "MOST_UNITS", 300)
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 2
    scores = np.clip(0.5 + 0.1 * (labels - 0.5) + 0.2 * rng.standard_normal((2, 2000)), 0, 1)
    names = [f"p{row // 2}" for row in range(2000)]
    panel = jackknife_panel(labels, list(scores), "auroc", units=names)
    assert 200 < len(panel.units) <= 300
    (found,) = all_pairs([panel], [[(0, 1)]], resamples=200, seed=0)
    covariance = delong(labels, *scores, clusters=names).covariance
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    # The error of 300 blocks is known to 1 in the root of 600.
    assert found.standard_error[0] == pytest.approx(error, rel=0.12)


def test_step_down_is_its_definition():
    rng = np.random.default_rng(0)
    observed, chance = rng.normal(0, 2, 6), rng.standard_normal((500, 6))
    order = np.argsort(-np.abs(observed))
    expected, running = np.empty(6), 0.0
    for place, pair in enumerate(order):
        rest = np.abs(chance[:, order[place:]]).max(axis=1)
        running = max(running, (1 + np.sum(rest >= abs(observed[pair]))) / 501)
        expected[pair] = running
    np.testing.assert_allclose(step_down(observed, chance), expected)


def test_models_that_are_alike_count_once():
    """Twenty copies of a model make one claim, not twenty, as Holm would have it."""
    values = np.random.default_rng(2).normal([0.5, 0.0], 1, (60, 2))
    copies = np.column_stack([values[:, 0], np.tile(values[:, 1:], 20)])
    pairs = [(0, other) for other in range(1, 21)]
    (found,) = all_pairs([means(copies)], [pairs], resamples=2000, seed=0)
    (alone,) = all_pairs([means(values)], [[(0, 1)]], resamples=2000, seed=0)
    np.testing.assert_allclose(found.p_adjusted, alone.p[0])


def test_a_claim_over_experiments_needs_all_to_agree():
    first = means(np.random.default_rng(0).normal([0.8, 0.0], 1, (80, 2)))
    against = Panel(first.units, -first.influences / 9, -first.values / 9, first.strata)
    pairs = [[(0, 1)], [(0, 1)]]
    one, other = all_pairs([first, against], pairs, resamples=500, seed=0, claims=[[1], [1]])
    assert one.p[0] < 0.01
    assert one.p_adjusted[0] == other.p_adjusted[0] == 1.0
    # Turned round, the second says the same as the first.
    one, _ = all_pairs([first, against], pairs, resamples=500, seed=0, claims=[[1], [-1]])
    assert one.p_adjusted[0] < 0.01


@pytest.mark.parametrize("models", [2, 5, 13, 29])
def test_false_alarms_of_the_best_against_the_rest(models):
    """At most 5 %, where testing the best as if it had been known beforehand gives many more."""
    ours = naive = 0
    for seed in range(60):
        panel = means(equal_models(seed, 100, models))
        pairs = every_pair(models)
        (found,) = all_pairs([panel], [pairs], resamples=199, seed=seed)
        best = int(panel.values.argmax())
        asked = [place for place, pair in enumerate(pairs) if best in pair]
        ours += (found.p_adjusted[asked] <= LEVEL).any()
        naive += (found.p[asked] <= LEVEL).any()
    # More than 7 of 60 would be a chance of 1 in 100 at 5 %.
    assert ours <= 7
    assert models < 13 or naive >= 20


def test_a_model_that_is_truly_worse_is_found_among_many():
    found = 0
    for seed in range(20):
        shares = np.array([0.8] * 12 + [0.6])
        panel = means(equal_models(seed, 200, 13, shares))
        (tests,) = all_pairs([panel], [every_pair(13)], resamples=199, seed=seed)
        best = int(panel.values.argmax())
        found += tests.p_adjusted[every_pair(13).index((min(best, 12), max(best, 12)))] <= LEVEL
    assert found >= 17


def test_the_forecast_of_units_has_the_power_that_it_says():
    count = needed_units(0.2, 0.1, 100)
    assert count == 197
    error = 0.1 * np.sqrt(100 / count)
    assert stats.norm.sf(stats.norm.ppf(0.975) - 0.2 / error) == pytest.approx(0.8, abs=0.005)
    assert needed_units(-0.2, 0.1, 100) == count
    assert needed_units(0.0, 0.1, 100) is None
    assert needed_units(0.9, 0.01, 8) == 6, "of five patients no exchange is beyond chance"


def test_models_that_are_equal_on_every_unit_do_not_differ():
    values = np.random.default_rng(0).random((30, 1))
    (found,) = all_pairs([means(np.tile(values, 3))], [every_pair(3)], resamples=99, seed=0)
    assert found.p_adjusted.tolist() == [1.0] * 3
    assert found.standard_error.tolist() == [0.0] * 3


def test_what_cannot_be_tested_is_said():
    with pytest.raises(LabelError, match="a single patient"):
        jackknife_panel([0, 0, 1], [[0.1, 0.2, 0.3]] * 2, "auroc")
    panel = means(np.random.default_rng(0).random((9, 2)))
    with pytest.raises(SettingsError, match="resamples is 0"):
        all_pairs([panel], [[(0, 1)]], resamples=0, seed=0)


def test_twenty_nine_models_take_seconds():
    panel = means(equal_models(0, 400, 29))
    begin = time.process_time()
    all_pairs([panel], [every_pair(29)], resamples=2000, seed=0)
    assert time.process_time() - begin < 3
