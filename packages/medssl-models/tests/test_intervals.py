"""The one bootstrap of all packages: against scipy and theory, and what it refuses."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from medssl_models.errors import SettingsError
from medssl_models.experiments import intervals
from medssl_models.experiments.intervals import bootstrap_mean, percentile_interval, units_of


@pytest.mark.parametrize("draw", ["units", "counts"])
def test_an_interval_agrees_with_theory_and_scipy(draw):
    values = np.random.default_rng(0).normal(size=400)
    (mean,) = bootstrap_mean(values[:, None], resamples=4000, draw=draw)
    half = 1.96 * values.std() / 20
    assert mean.value == pytest.approx(values.mean())
    assert mean.interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    stats = pytest.importorskip("scipy.stats")
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000)
    assert mean.interval == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)


@pytest.mark.parametrize("draw", ["units", "counts"])
def test_patients_are_drawn_as_a_whole(draw):
    values = np.random.default_rng(1).normal(size=60)
    tenfold, names = np.repeat(values, 10), [f"p{row // 10}" for row in range(600)]
    (alone,) = bootstrap_mean(values[:, None], groups=[f"p{row}" for row in range(60)], draw=draw)
    (grouped,) = bootstrap_mean(tenfold[:, None], groups=names, draw=draw)
    (rows,) = bootstrap_mean(tenfold[:, None], draw=draw)
    assert grouped.interval == pytest.approx(alone.interval)
    ratio = (grouped.high - grouped.low) / (rows.high - rows.low)
    assert ratio == pytest.approx(np.sqrt(10), rel=0.12)


@given(seed=st.integers(0, 1000), draw=st.sampled_from(["units", "counts"]))
def test_nan_is_left_out_and_counted(seed, draw):
    values = np.random.default_rng(seed).normal(size=(30, 3))
    values[:4, 1], values[:, 2] = np.nan, np.nan
    whole, some, none = bootstrap_mean(values, resamples=200, seed=seed, draw=draw)
    assert (whole.images, some.images, none.images) == (30, 26, 0)
    assert (whole.undefined, some.undefined, none.undefined) == (0, 4, 30)
    assert some.value == pytest.approx(values[4:, 1].mean())
    for mean in (whole, some):
        assert mean.low < mean.value < mean.high
    assert math.isnan(none.value)
    assert none.interval == (None, None)


@pytest.mark.parametrize("draw", ["units", "counts"])
def test_one_image_or_patient_has_no_interval(draw):
    (alone,) = bootstrap_mean([[0.5]], draw=draw)
    assert (alone.value, alone.interval) == (0.5, (None, None))
    (patient,) = bootstrap_mean([[0.0], [1.0]], groups=["a", "a"], draw=draw)
    assert (patient.value, patient.interval) == (0.5, (None, None))
    (two,) = bootstrap_mean([[0.0], [1.0]], groups=["", ""], draw=draw)
    assert two.interval == (0.0, 1.0)


def test_equal_values_lie_in_their_interval():
    for row in range(50):
        values = np.full((333, 1), np.random.default_rng(row).random())
        groups = [f"p{n}" for n in np.random.default_rng(row).integers(0, 80, 333)]
        (mean,) = bootstrap_mean(values, groups=groups, resamples=50)
        assert mean.low <= mean.value <= mean.high


def test_draws_do_not_depend_on_how_many_are_made_at_a_time(monkeypatch):
    values, groups = np.random.default_rng(0).random((40, 2)), [f"p{n % 11}" for n in range(40)]
    whole = bootstrap_mean(values, groups=groups, resamples=90)
    monkeypatch.setattr(intervals, "CHUNK_NUMBERS", 70)
    assert bootstrap_mean(values, groups=groups, resamples=90) == whole


def test_unknown_patients_are_units_of_their_own():
    units, count = units_of(["b", "", "a", "", "b"])
    assert count == 4
    assert units[0] == units[4]
    assert len({*units.tolist()}) == 4


def test_a_percentile_interval_leaves_nan_out():
    assert percentile_interval([np.nan, *range(101)]) == (2.5, 97.5)
    assert all(map(math.isnan, percentile_interval([np.nan])))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"resamples": 0}, "0 resamples"), ({"groups": ["a"]}, "1 groups for 3 images")],
)
def test_bad_input_is_named(options, words):
    with pytest.raises(SettingsError, match=words):
        bootstrap_mean([[1.0], [2.0], [3.0]], **options)


def test_the_examples_run():
    failed, tried = doctest.testmod(intervals)
    assert tried > 3
    assert failed == 0
