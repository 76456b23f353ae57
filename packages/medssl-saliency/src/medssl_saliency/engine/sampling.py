"""Some windows instead of all: which come first, what the others score, how near the map is.

Windows are measured in an order of which every beginning is spread evenly over the image. The
scores of the others are kriged. How well such a map agrees with the exact one is told by how well
its two halves agree with each other, so that nobody has to know the exact map.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from medssl_saliency.engine.correlation import pearson
from medssl_saliency.engine.occlusion import cut_margin, grid_positions, mean_over_windows

if TYPE_CHECKING:
    from medssl_saliency.engine.graph import Pair

__all__ = [
    "Measured",
    "Report",
    "Score",
    "candidate_positions",
    "complete_scores",
    "estimated_map",
    "expected_correlation",
    "measure_until",
    "spread_positions",
]

PLASTIC = 1.324717957244746
"""The real root of x^3 = x + 1: in the plane what the golden ratio is on a line."""
EDGE, ROOM = 0.3, 1 / 32
"""By so much of a window, but no more of where its corner may lie, the sequence overshoots that;
what is beyond falls on the edge."""
MOST, FIRST, FEWEST = 1 / 4, 1 / 30, 256
"""Shares of all windows that are measured at most and at first, but at least so many windows."""
NUGGET = 3.0
"""Variance of neighbouring windows' scores over its growth with each pixel of distance."""
DENSE_KRIGING, NEIGHBOURS = 4_000, 48
"""From more windows than this on, each estimate sees only its nearest."""


Report = Callable[[NDArray[np.float32], int, float], None]
"""Takes the scores of all candidates, NaN where missing, how many of them are to be measured as far
as is known now, and the share of the work on those that is done."""


class Score(Protocol):
    """Measures windows: positions, scores known already, and who is told of each batch."""

    def __call__(
        self,
        positions: NDArray[np.int64],
        *,
        known: NDArray[np.float32],
        report: Callable[[NDArray[np.float32], float], None],
    ) -> NDArray[np.float32]:
        """Measure `(n,)` scores."""


@dataclass(frozen=True, eq=False)
class Measured:
    """Windows that were measured, in the order in which they were.

    Args:
        positions: `(n, 2)` int64 corners.
        scores: `(n,)` float32.
        expected: Correlation of their map with the exact one, as its halves tell; None where all
            were to be measured.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float32]
    expected: float | None


def measure_until(  # noqa: PLR0913 # where, how well, and how far an earlier run came
    score: Score,
    candidates: NDArray[np.int64],
    size: Pair,
    window: Pair,
    *,
    wanted: float | None,
    known: NDArray[np.float32],
    report: Report,
    cut: bool = False,
) -> Measured:
    """Measure windows until their map is expected to be as near to the exact one as wanted.

    How many more it takes is told from the unexplained variance, which falls about as 1 / n.

    Args:
        score: Measures windows.
        candidates: Of `candidate_positions`.
        size: Height and width of the image.
        window: Height and width of the window.
        wanted: Correlation with the exact map, below 1; None measures all candidates.
        known: Scores of the candidates from an earlier run, NaN where missing.
        report: Told of each batch.
        cut: Whether only pixels count that as many windows cover as any.

    Returns:
        The windows; where even all candidates were not enough, `expected` is below `wanted`.
    """
    scores, start, stop = known.copy(), 0, len(candidates)
    if wanted is not None:
        total = len(grid_positions(size, window))
        stop = min(stop, max(math.ceil(FIRST * total), FEWEST // 2))
    while True:
        stage = slice(start, stop)

        def told(fresh: NDArray[np.float32], share: float, stage: slice = stage) -> None:
            scores[stage] = fresh
            report(scores, stage.stop, share)

        scores[stage] = score(candidates[stage], known=scores[stage], report=told)
        measured = candidates[:stop], scores[:stop]
        if wanted is None:
            return Measured(*measured, None)
        expected = expected_correlation(*measured, size, window, cut=cut)
        if expected >= wanted or stop == len(candidates):
            return Measured(*measured, expected)
        more = min(max((1 - expected**2) / (1 - wanted**2), 1.2), 1.5)
        start, stop = stop, min(len(candidates), math.ceil(more * stop))


def candidate_positions(size: Pair, window: Pair) -> NDArray[np.int64]:
    """List the windows that are measured at most: a quarter, or all where there are few."""
    total = len(grid_positions(size, window))
    return spread_positions(size, window, min(total, max(math.ceil(MOST * total), FEWEST)))


def spread_positions(size: Pair, window: Pair, number: int) -> NDArray[np.int64]:
    """List corners of windows so that every beginning of the list is spread evenly.

    An additive recurrence with the powers of the plastic number, which has the largest known
    distances between its points (Roberts 2018, "The unreasonable effectiveness of quasirandom
    sequences"). Unlike a lattice it never falls into step with the strides of a network. Few
    windows cover a pixel near an edge, so more of them lie on the edges.

    Args:
        size: Height and width of the image.
        window: Height and width of the window.
        number: How many; at most all.

    Returns:
        `(number, 2)` int64, each corner once.

    Raises:
        SettingsError: The window does not fit.
    """
    every = grid_positions(size, window)
    room = every[-1] + 1
    steps = np.arange(4 * number)[:, None]
    places = (0.5 + steps / np.array([PLASTIC, PLASTIC**2])) % 1
    over = np.minimum(EDGE * np.array(window), ROOM * room)
    drawn = np.clip(np.floor(places * (room + 2 * over) - over), 0, room - 1).astype(np.int64)
    drawn = np.concatenate([drawn, every])
    _, first = np.unique(drawn @ [room[1], 1], return_index=True)
    chosen: NDArray[np.int64] = drawn[np.sort(first)][:number]
    return chosen


def complete_scores(
    positions: NDArray[np.int64], scores: NDArray[np.floating], wanted: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Estimate the scores of windows, most of which were not measured, by ordinary kriging.

    A linear variogram with a nugget; a measured window keeps its own score.

    Args:
        positions: `(n, 2)` measured corners, n at least 1.
        scores: `(n,)`.
        wanted: `(m, 2)` corners.

    Returns:
        `(m,)`.
    """
    from scipy.interpolate import RBFInterpolator

    surface = RBFInterpolator(
        positions,
        scores.astype(np.float64),
        kernel="linear",
        smoothing=NUGGET,
        neighbors=NEIGHBOURS if len(positions) > DENSE_KRIGING else None,
    )
    known = dict(zip(map(tuple, positions.tolist()), scores.tolist(), strict=True))
    estimates: NDArray[np.float64] = surface(wanted)
    for index, corner in enumerate(map(tuple, wanted.tolist())):
        estimates[index] = known.get(corner, estimates[index])
    return estimates


def estimated_map(
    positions: NDArray[np.int64],
    scores: NDArray[np.floating],
    size: Pair,
    window: Pair,
    *,
    stride: int = 1,
) -> NDArray[np.float32]:
    """Average for each pixel the scores of the windows over it, estimated where not measured.

    Args:
        positions: `(n, 2)` measured corners.
        scores: `(n,)`.
        size: Height and width of the image.
        window: Height and width of the window.
        stride: Distance of the windows of which the mean is taken.

    Returns:
        `(H, W)` float32.
    """
    every = grid_positions(size, window, stride=stride)
    return mean_over_windows(every, complete_scores(positions, scores, every), size, window)


def expected_correlation(
    positions: NDArray[np.int64],
    scores: NDArray[np.floating],
    size: Pair,
    window: Pair,
    *,
    cut: bool = False,
) -> float:
    """Estimate how well the map of some windows correlates with that of all.

    One half of the windows makes one map, the other half another. From their correlation r_h the
    Spearman-Brown formula gives the reliability 2 r_h / (1 + r_h) of all of them together, and its
    root is the correlation with the map without error (Brown 1910; Spearman 1910). Every other
    window makes a half that is spread less evenly than all are, which is too strict; the first
    and the last half smooth away the same details, which is too lenient. The mean of both counts.

    Args:
        positions: `(n, 2)` measured corners in the order of `spread_positions`.
        scores: `(n,)`.
        size: Height and width of the image.
        window: Height and width of the window.
        cut: Whether only pixels count that as many windows cover as any.

    Returns:
        0 to 1; 1 where all windows were measured or all score the same.
    """
    number = len(positions)
    if number == len(grid_positions(size, window)) or np.ptp(scores) == 0:
        return 1.0
    stride = 2 if min(window) >= 4 else 1

    def half(some: slice) -> NDArray[np.float32]:
        values = estimated_map(positions[some], scores[some], size, window, stride=stride)
        return (cut_margin(values, window) if cut else values).ravel()

    ways = (
        (slice(0, None, 2), slice(1, None, 2)),
        (slice(number // 2), slice(number // 2, None)),
    )
    together = [max(pearson(*map(half, halves)), 0.0) for halves in ways]
    return math.sqrt(sum(2 * one / (1 + one) for one in together) / len(together))
