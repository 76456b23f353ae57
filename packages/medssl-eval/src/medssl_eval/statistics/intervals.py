"""How sure a number is: resampling by patient, intervals, p-values and their correction.

Everything here takes arrays. What is resampled is the unit of independence: the patient where
patients are known, else the image; for few-shot the episode. Metrics are the business of `metrics`,
the comparison of two models of `paired_tests`, of many over data sets of `average_ranks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.errors import FeatureError, SettingsError
from medssl_eval.statistics.metrics import checked_predictions, evaluate_metrics, metric

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = [
    "Estimate",
    "bootstrap_p",
    "bootstrap_weights",
    "coin_flips",
    "estimate",
    "holm",
    "intervals_overlap",
    "percentile_interval",
    "permutation_p",
    "replicate",
    "units_of",
]

RESAMPLES = 1000
TAIL = 2.5  # percent on either side of a 95 % interval
CHUNK_NUMBERS = 2_000_000  # float64 numbers in a chunk of resamples: 16 MB
TOLERATED = 0.05  # share of resamples without a value from which on an interval says so


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric with its 95 % interval.

    Attributes:
        metric: Its name.
        value: On all rows; None where the metric is not defined.
        low: Lower end of the interval; None where there is none.
        high: Upper end.
        units: How many patients or images were resampled.
        undefined: How many resamples had no value, such as those that lack a class.
        reason: Why value or interval is missing or doubtful, else None.
    """

    metric: str
    value: float | None
    low: float | None
    high: float | None
    units: int
    undefined: int
    reason: str | None


def units_of(rows: int, clusters: Sequence[str] | None) -> tuple[Integers, int]:
    """Number what is resampled as a whole.

    Args:
        rows: N.
        clusters: N names, rows of one name belong together; None makes each row a unit.

    Returns:
        (N,) int64, the unit of each row, and how many units there are.

    Raises:
        FeatureError: Another number of names than rows.
    """
    if clusters is None:
        return np.arange(rows), rows
    if len(clusters) != rows:
        message = f"{len(clusters)} cluster names for {rows} rows; give one for each row"
        raise FeatureError(message)
    names, numbers = np.unique(np.asarray(clusters), return_inverse=True)
    return numbers.astype(np.int64), len(names)


def bootstrap_weights(
    units: Integers, count: int, *, resamples: int, seed: int
) -> Iterator[Floats]:
    """Yield how often each row stands in resamples that draw units with replacement.

    Args:
        units: (N,) int64 in 0..count-1.
        count: Number of units.
        resamples: Number of resamples in all.
        seed: Equal seeds give equal resamples, so that models are compared on the same ones.

    Yields:
        (B, N) float64, a few resamples at a time.

    References:
        Field and Welsh, Bootstrapping clustered data, 2007 (the cluster bootstrap).
    """
    _check_resamples(resamples)
    generator = np.random.Generator(np.random.PCG64(seed))
    step = max(1, CHUNK_NUMBERS // max(len(units), count))
    for begin in range(0, resamples, step):
        size = min(step, resamples - begin)
        drawn = generator.integers(0, count, (size, count))
        drawn += np.arange(size)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        yield times.astype(np.float64)[:, units]


def replicate(
    labels: ArrayLike,
    probabilities: ArrayLike,
    names: Sequence[str],
    *,
    clusters: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Floats]:
    """Compute metrics on bootstrap resamples.

    Args:
        labels: (N,) integers in 0..K-1.
        probabilities: (N, K), or (N,) for the second of two classes.
        names: Metrics.
        clusters: N patient names, None where each row is independent.
        resamples: Number of resamples B.
        seed: Equal seeds and clusters give equal resamples.

    Returns:
        Metric to (B,) float64, NaN where a resample has no value.
    """
    truth, scores = checked_predictions(labels, probabilities)
    units, count = units_of(len(truth), clusters)
    chunks: dict[str, list[Floats]] = {name: [] for name in names}
    for weights in bootstrap_weights(units, count, resamples=resamples, seed=seed):
        for name in names:
            chunks[name].append(metric(name).compute(truth, scores, weights))
    return {name: np.concatenate(parts) for name, parts in chunks.items()}


def estimate(
    labels: ArrayLike,
    probabilities: ArrayLike,
    names: Sequence[str],
    *,
    clusters: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Measure metrics with 95 % percentile intervals; arguments as in `replicate`.

    Example:
        >>> found = estimate([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9], ["accuracy"], resamples=100)
        >>> found["accuracy"].value
        0.5
    """
    plain = evaluate_metrics(labels, probabilities, names=names)
    drawn = replicate(
        labels, probabilities, names, clusters=clusters, resamples=resamples, seed=seed
    )
    _, count = units_of(len(np.asarray(labels)), clusters)
    return {
        name: _estimate(name, plain[name].value, plain[name].reason, drawn[name], count)
        for name in names
    }


def _estimate(
    name: str, value: float | None, reason: str | None, drawn: Floats, units: int
) -> Estimate:
    undefined = int(np.isnan(drawn).sum())
    if value is None:
        return Estimate(name, None, None, None, units, undefined, reason)
    low, high = percentile_interval(drawn)
    if low == high:
        # All right, or all wrong: the resamples know no other row, the world does.
        reason = (
            f"all resamples give the same value: {units} images or patients are too few for an "
            "interval"
        )
        return Estimate(name, value, None, None, units, undefined, reason)
    if undefined > TOLERATED * len(drawn):
        reason = f"{undefined} of {len(drawn)} resamples lack a class: the interval is rough"
    return Estimate(name, value, low, high, units, undefined, reason)


def intervals_overlap(
    one: tuple[float | None, float | None], other: tuple[float | None, float | None]
) -> bool | None:
    """Tell whether two intervals (low, high) share a value; None where an end is unknown."""
    (low, high), (other_low, other_high) = one, other
    if low is None or high is None or other_low is None or other_high is None:
        return None
    return low <= other_high and other_low <= high


def percentile_interval(replicates: Floats) -> tuple[float, float]:
    """Give the 95 % percentile interval of resampled values; NaN values are left out.

    References:
        Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 13.
    """
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return np.nan, np.nan
    low, high = np.percentile(defined, [TAIL, 100 - TAIL])
    return float(low), float(high)


def coin_flips(count: int, *, resamples: int, seed: int, rows: int = 0) -> Iterator[Floats]:
    """Yield which units are exchanged in random permutations of two models.

    Args:
        count: Number of units.
        resamples: Number of permutations in all.
        seed: Equal seeds give equal permutations.
        rows: How many rows a permutation will be spread over, for the size of a chunk.

    Yields:
        (B, count) float64 of zeros and ones, a few permutations at a time.
    """
    _check_resamples(resamples)
    generator = np.random.Generator(np.random.PCG64([seed, 1]))
    step = max(1, CHUNK_NUMBERS // max(rows, count))
    for begin in range(0, resamples, step):
        size = min(step, resamples - begin)
        yield generator.integers(0, 2, (size, count)).astype(np.float64)


def bootstrap_p(differences: Floats) -> float:
    """Give the two-sided p-value that belongs to a percentile interval around the difference.

    Twice the smaller share of resampled differences on either side of zero, each side counting one
    more, so that no finite number of resamples gives zero. NaN values are left out.

    References:
        Efron and Tibshirani, An introduction to the bootstrap, 1993, section 15.4; Davison and
        Hinkley, Bootstrap methods and their application, 1997, section 4.2 (counting one more).
    """
    defined = differences[~np.isnan(differences)]
    below, above = np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0)
    return float(min(1.0, 2 * (1 + min(below, above)) / (1 + len(defined))))


def permutation_p(observed: float, exchanged: Floats) -> float:
    """Give the share of exchanges that part the models at least as far, the observation counted.

    References:
        Phipson and Smyth, Permutation p-values should never be zero, 2010.
    """
    defined = exchanged[~np.isnan(exchanged)]
    # Sums in another order differ in the last bits; equal ones count as at least as far.
    reach = abs(observed) * (1 - 1e-9) - 1e-12
    return float((1 + np.count_nonzero(np.abs(defined) >= reach)) / (1 + len(defined)))


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p-values so that the chance of any false alarm among them stays at the level.

    Args:
        p_values: (M,) in 0..1.

    Returns:
        (M,) adjusted, at most 1, in the same order.

    References:
        Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _check_resamples(resamples: int) -> None:
    if resamples < 1:
        message = f"resamples is {resamples}; it must be at least 1, and 1,000 for an interval"
        raise SettingsError(message)
