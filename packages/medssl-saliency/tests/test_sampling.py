import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_saliency.engine.correlation import pearson
from medssl_saliency.engine.occlusion import cut_margin, grid_positions, mean_over_windows
from medssl_saliency.engine.sampling import (
    NUGGET,
    candidate_positions,
    complete_scores,
    estimated_map,
    expected_correlation,
    measure_until,
    spread_positions,
)
from medssl_saliency.errors import SettingsError
from scipy.ndimage import gaussian_filter

SIZE, WINDOW = (109, 109), (10, 10)
EVERY = grid_positions(SIZE, WINDOW)


def field(seed, *, coarse=6.0, grain=0.2):
    """Draw a score for each of 100 x 100 windows: smooth, with grain from window to window."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(100, 100)), coarse)
    return 2 + smooth / smooth.std() + grain * rng.normal(size=(100, 100))


def scores_of(values, positions):
    return values[positions[:, 0], positions[:, 1]].astype(np.float32)


class Scorer:
    """Looks scores up, and counts how often each window was asked for."""

    def __init__(self, values):
        self.values, self.asked = values, []

    def __call__(self, positions, *, known, report):
        fresh = np.isnan(known)
        self.asked += [tuple(corner) for corner in positions[fresh].tolist()]
        scores = np.where(fresh, scores_of(self.values, positions), known)
        report(scores, 1.0)
        return scores


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(3, 40),
    width=st.integers(3, 40),
    window=st.integers(1, 3),
    share=st.floats(0.01, 1),
)
def test_each_window_comes_once_and_more_windows_begin_with_fewer(height, width, window, share):
    every = grid_positions((height, width), (window, window))
    number = max(1, round(share * len(every)))
    found = spread_positions((height, width), (window, window), number)
    assert found.shape == (number, 2)
    assert len(np.unique(found, axis=0)) == number
    assert found.min() >= 0
    assert (found <= every[-1]).all()
    fewer = spread_positions((height, width), (window, window), max(1, number // 3))
    np.testing.assert_array_equal(found[: len(fewer)], fewer)


def test_every_beginning_is_spread_evenly_whatever_the_stride_of_a_network():
    positions = spread_positions((242, 242), (10, 10), 8000)
    for number in (1000, 2000, 8000):
        some = positions[:number]
        inner = some[((some > 0) & (some < 232)).all(axis=1)]
        assert len(inner) < number  # the edges have more than their share
        for step in (2, 4, 8):
            counts = np.zeros((step, step))
            np.add.at(counts, tuple((inner % step).T), 1)
            assert counts.std() < 1.2 * math.sqrt(counts.mean())  # of a lattice: all in one phase
        blocks = np.zeros((4, 4))
        np.add.at(blocks, tuple((inner // 59).T), 1)
        assert blocks.min() > 0.8 * blocks.mean()


def test_a_window_that_does_not_fit_is_refused():
    with pytest.raises(SettingsError):
        spread_positions((8, 8), (9, 4), 3)


def test_scores_between_windows_are_those_of_ordinary_kriging():
    measured = spread_positions(SIZE, WINDOW, 60)
    scores = scores_of(field(0), measured)
    wanted = EVERY[::97]
    # gamma(h) = nugget + h; the weights sum to one; the nugget is no part of what is estimated.
    distances = np.linalg.norm(measured[:, None] - measured, axis=2)
    system = np.ones((61, 61))
    system[:60, :60] = distances - NUGGET * np.eye(60)
    system[60, 60] = 0
    sides = np.ones((61, len(wanted)))
    sides[:60] = np.linalg.norm(measured[:, None] - wanted, axis=2)
    expected = np.linalg.solve(system, sides)[:60].T @ scores
    corners = {
        tuple(corner): score for corner, score in zip(measured.tolist(), scores, strict=True)
    }
    for index, corner in enumerate(map(tuple, wanted.tolist())):
        expected[index] = corners.get(corner, expected[index])
    np.testing.assert_allclose(complete_scores(measured, scores, wanted), expected, rtol=1e-6)


@pytest.mark.parametrize("number", [1, 2, 5, 5000])
def test_equal_scores_stay_equal(number):
    positions = spread_positions(SIZE, WINDOW, number)
    found = complete_scores(positions, np.full(number, 0.25), EVERY[::13])
    np.testing.assert_allclose(found, 0.25)


def test_the_map_of_all_windows_is_the_exact_one():
    scores = scores_of(field(1), EVERY)
    exact = mean_over_windows(EVERY, scores, SIZE, WINDOW)
    np.testing.assert_array_equal(estimated_map(EVERY, scores, SIZE, WINDOW), exact)
    assert expected_correlation(EVERY, scores, SIZE, WINDOW) == 1


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("grain", [0.1, 0.4])
def test_the_halves_tell_how_near_the_map_is(grain, cut):
    told, true = [], []
    for seed in range(6):
        values = field(seed, coarse=8, grain=grain)
        positions = spread_positions(SIZE, WINDOW, 500)
        scores = scores_of(values, positions)
        told.append(expected_correlation(positions, scores, SIZE, WINDOW, cut=cut))
        maps = (
            mean_over_windows(EVERY, scores_of(values, EVERY), SIZE, WINDOW),
            estimated_map(positions, scores, SIZE, WINDOW),
        )
        one, other = ((cut_margin(m, WINDOW) if cut else m).ravel() for m in maps)
        true.append(pearson(one, other))
    unexplained, estimate = (1 - np.mean(np.square(values)) for values in (true, told))
    assert 0.5 * unexplained < estimate < 2 * unexplained


def test_windows_are_measured_until_the_map_is_as_near_as_wanted():
    candidates = candidate_positions(SIZE, WINDOW)
    assert len(candidates) == 2500
    nothing = np.full(len(candidates), np.nan, np.float32)
    numbers = []
    for wanted in (0.95, 0.99, 0.9999):
        scorer, aims = Scorer(field(3, grain=0.4)), []
        found = measure_until(
            scorer,
            candidates,
            SIZE,
            WINDOW,
            wanted=wanted,
            known=nothing,
            report=lambda _, number, share, aims=aims: aims.append((number, share)),
        )
        number = len(found.scores)
        np.testing.assert_array_equal(found.positions, candidates[:number])
        np.testing.assert_array_equal(found.scores, scores_of(scorer.values, found.positions))
        assert found.expected >= wanted or number == len(candidates)
        assert len(scorer.asked) == len(set(scorer.asked)) == number  # none twice
        assert aims == sorted(aims)
        assert aims[-1] == (number, 1.0)
        numbers.append(number)
    assert numbers[0] < numbers[1] < numbers[2] == len(candidates)


def test_an_interrupted_measurement_goes_on_to_the_same_windows():
    candidates, values = candidate_positions(SIZE, WINDOW), field(3, coarse=8)
    known = np.full(len(candidates), np.nan, np.float32)

    def run(scorer, known):
        return measure_until(
            scorer,
            candidates,
            SIZE,
            WINDOW,
            wanted=0.99,
            known=known,
            report=lambda *_: None,
        )

    whole = run(Scorer(values), known)
    known[:400:3] = scores_of(values, candidates[:400:3])
    rest = Scorer(values)
    again = run(rest, known)
    np.testing.assert_array_equal(again.scores, whole.scores)
    assert not set(rest.asked) & set(map(tuple, candidates[:400:3].tolist()))


def test_of_few_windows_all_are_candidates():
    assert len(candidate_positions((24, 24), (10, 10))) == 15 * 15
