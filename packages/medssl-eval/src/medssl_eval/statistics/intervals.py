"""How sure a number is: resampling by patient, intervals, p-values and their correction.

Everything here takes arrays. What is resampled is the unit of independence: the patient where
patients are known, else the image; for few-shot the episode. Metrics are the business of `metrics`,
the comparison of two models that of `paired_tests`, of many over data sets that of `average_ranks`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from medssl_models.experiments.intervals import drawn_integers, percentile_interval, units_of

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
    "bounded_interval",
    "checked_units",
    "coin_flips",
    "estimate",
    "holm",
    "intervals_overlap",
    "replicate",
    "shared_deviation",
    "unsigned_interval",
    "widened",
]

RESAMPLES = 1000
HALVINGS = 40
TOLERATED = 0.05  # share of resamples without a value from which on an interval says so


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric with its 95 % interval.

    Args:
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


def checked_units(rows: int, clusters: Sequence[str] | None) -> tuple[Integers, int]:
    """Number what is resampled as a whole.

    Args:
        rows: N.
        clusters: N names, rows of one name belong together, and "" belongs to none; None makes
            each row a unit.

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
    return units_of(clusters)


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
    for drawn in _draws(count, count, resamples=resamples, seed=seed, width=len(units)):
        places = drawn + np.arange(len(drawn))[:, None] * count
        times = np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape)
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
    """Compute metrics on bootstrap resamples; errors as in `ClassifierMetric`.

    Args:
        labels: (N,) integers in 0..K-1.
        probabilities: (N, K), or (N,) for the second of two classes.
        names: Metrics.
        clusters: N patient names, None where each row is independent.
        resamples: Number of resamples B.
        seed: Equal seeds and clusters give equal resamples.

    Returns:
        Metric to (B,) float64, NaN where a resample has no value.

    Raises:
        FeatureError: Another number of patient names than rows.
        SettingsError: No resamples.

    Example:
        >>> drawn = replicate([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9], ["accuracy"], resamples=3)
        >>> drawn["accuracy"].tolist()
        [0.25, 0.75, 0.75]
    """
    truth, scores = checked_predictions(labels, probabilities)
    units, count = checked_units(len(truth), clusters)
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
    interval: Literal["log_odds", "percentile"] = "log_odds",
) -> dict[str, Estimate]:
    """Measure metrics with 95 % intervals; arguments as in `replicate`.

    Args:
        labels: As there.
        probabilities: As there.
        names: As there.
        clusters: As there.
        resamples: As there.
        seed: As there.
        interval: log_odds: the deviation over the resamples, see `bounded_interval`; of a metric
            that noise lifts, see `unsigned_interval`. percentile: the percentiles of the resamples,
            which are too narrow near 0 and 1 and with few units.

    Example:
        >>> found = estimate([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9], ["accuracy"], resamples=100)
        >>> found["accuracy"].value
        0.5
    """
    plain = evaluate_metrics(labels, probabilities, names=names)
    drawn = replicate(
        labels, probabilities, names, clusters=clusters, resamples=resamples, seed=seed
    )
    truth, scores = checked_predictions(labels, probabilities)
    units, count = checked_units(len(truth), clusters)
    rarest = min(len(np.unique(units[truth == label])) for label in range(scores.shape[1]))
    found = {}
    for name in names:
        value, reason, of_metric = plain[name].value, plain[name].reason, metric(name)
        independent = scores.shape[1] * rarest if of_metric.by_class else count
        scattered = np.count_nonzero(~np.isnan(drawn[name])) > 1
        if interval == "percentile" or value is None or independent < 2 or not scattered:
            found[name] = _percentiles(name, value, reason, drawn[name], count)
            continue
        if of_metric.parts is None:
            error = _deviation(drawn[name], independent)
            ends = bounded_interval(
                value, error, independent - 1, units=independent, bounds=of_metric.span
            )
        else:
            weights = bootstrap_weights(units, count, resamples=resamples, seed=seed)
            moved = np.concatenate([of_metric.parts(truth, scores, chunk) for chunk in weights])
            gaps = of_metric.parts(truth, scores, np.ones((1, len(truth))))
            ends = unsigned_interval(gaps, moved, units=count, most=of_metric.span[1])
        undefined = int(np.isnan(drawn[name]).sum())
        found[name] = Estimate(name, value, *ends, count, undefined, _rough(drawn[name]))
    return found


def _deviation(drawn: Floats, units: int) -> float:
    """Standard deviation over resamples, with the factor that a resample of n units lacks."""
    return float(np.nanstd(drawn, ddof=1)) * math.sqrt(units / (units - 1))


def _rough(drawn: Floats) -> str | None:
    undefined = int(np.isnan(drawn).sum())
    if undefined <= TOLERATED * len(drawn):
        return None
    return f"{undefined} of {len(drawn)} resamples lack a class: the interval is rough"


def _percentiles(
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
    return Estimate(name, value, low, high, units, undefined, _rough(drawn))


def unsigned_interval(
    parts: Floats, resampled: Floats, *, units: int, most: float
) -> tuple[float, float]:
    """Return a 95 % interval of a sum of absolute values, such as the calibration error.

    Noise in the parts lifts their absolute values: the sum is above 0 where every part is 0 in
    truth. It lies no farther from the truth than the sum of the parts' own errors, so the lower end
    is as far down as their resamples move away from them in sum. Upwards the truth exceeds the sum
    by its scatter only, or by what none of so few units shows, as in `bounded_interval`. The
    interval holds its own value; it holds more than 95 % where the parts are far from 0.

    Args:
        parts: (1, P) signed, on all rows.
        resampled: (B, P) on bootstrap resamples.
        units: How many units were resampled.
        most: Upper bound of the sum.

    References:
        Kumar, Liang and Ma, Verified uncertainty calibration, 2019 (the bias); Broecker and Smith,
        Increasing the reliability of reliability diagrams, 2007 (resamples of a calibrated model).

    Example:
        >>> noise = np.random.default_rng(0).normal(size=(1000, 5)) / 20
        >>> low, high = unsigned_interval(noise[:1], noise[:1] + noise, units=400, most=1.0)
        >>> low, round(high, 1)
        (0.0, 0.2)
    """
    widening = math.sqrt(units / max(units - 1, 1))
    value = float(np.abs(parts).sum())
    sums = np.abs(resampled).sum(axis=1)
    down = float(np.quantile(np.abs(resampled - parts).sum(axis=1), 0.975))
    up = float(sums.mean() - np.quantile(sums, 0.025))
    high = max(value + widening * up, most * min(3 / units, 0.5))
    return max(value - widening * down, 0.0), min(high, most)


def bounded_interval(
    value: float,
    standard_error: float,
    freedom: float,
    *,
    units: int,
    bounds: tuple[float, float] = (0.0, 100.0),
) -> tuple[float, float]:
    """Return a 95 % interval that stays within bounds: Student's t on the scale of log odds.

    It never excludes what lies within 3 / units of the range from a bound: where n patients are
    all classified rightly, a kind that is not may still make up three in n of all.

    Args:
        value: The estimate, within the bounds.
        standard_error: Of the estimate; 0 where all units agree.
        freedom: Degrees of freedom of the standard error; may be infinite.
        units: How many independent patients or images it comes from.
        bounds: Least and greatest possible value.

    References:
        Agresti, Categorical data analysis, 2013, section 3.1 (intervals for log odds); Hanley and
        Lippman-Hand, If nothing goes wrong, is everything all right?, 1983 (the rule of three).

    Example:
        >>> [round(end, 1) for end in bounded_interval(96.0, 2.0, 50, units=60)]
        [89.4, 98.6]
        >>> bounded_interval(100.0, 0.0, float("inf"), units=60)
        (95.0, 100.0)
    """
    from scipy.special import expit, logit
    from scipy.stats import t

    least, greatest = bounds
    share = (value - least) / (greatest - least)
    low = high = share
    if 0 < share < 1:
        slope = share * (1 - share) * (greatest - least)
        reach = float(t.ppf(0.975, freedom)) * standard_error / slope
        low, high = float(expit(logit(share) - reach)), float(expit(logit(share) + reach))
    unseen = min(3 / units, 0.5)
    low, high = min(low, 1 - unseen), max(high, unseen)
    return least + (greatest - least) * low, least + (greatest - least) * high


def shared_deviation(
    labels: ArrayLike,
    refits: Sequence[ArrayLike],
    name: str,
    *,
    clusters: Sequence[str] | None = None,
    seed: int = 0,
) -> float:
    """Estimate by how much a metric varies over refits, whatever rows are asked.

    Refits also differ in which of these few rows they happen to get right; that would be others on
    other rows, and the interval over rows has it already. So the units are halved at random, and
    the covariance over refits of the metric on either half is the variance that both share.

    Args:
        labels: (N,) integers in 0..K-1.
        refits: (N, K) probabilities of each refit.
        name: The metric.
        clusters: N patient names, None where each row is independent.
        seed: Decides who stands in which half.

    Returns:
        The square root of the mean covariance over halvings; 0 where that is negative. Halves in
        which the metric has no value are left out.

    Example:
        >>> good, bad = [0.1, 0.2, 0.8, 0.9], [0.9, 0.8, 0.2, 0.1]
        >>> round(shared_deviation([0, 0, 1, 1], [good, bad, good], "accuracy"), 2)
        0.58
    """
    truth = np.asarray(labels, np.int64)
    units, count = checked_units(len(truth), clusters)
    generator = np.random.default_rng([seed, 3])
    order = np.argsort(generator.random((HALVINGS, count)), axis=1)
    first = (order < count // 2).astype(np.float64)[:, units]
    weights = np.concatenate([first, 1 - first])
    values = []
    for refit in refits:
        checked, scores = checked_predictions(truth, refit)
        values.append(metric(name).compute(checked, scores, weights))
    centred = np.stack(values) - np.mean(values, axis=0)
    shared = (centred[:, :HALVINGS] * centred[:, HALVINGS:]).sum(axis=0) / (len(refits) - 1)
    known = shared[~np.isnan(shared)]
    return float(np.sqrt(max(0.0, known.mean()))) if len(known) else 0.0


def widened(
    value: float,
    interval: tuple[float, float],
    deviation: float,
    *,
    freedom: int,
    bounds: tuple[float | None, float | None] = (None, None),
) -> tuple[float, float]:
    """Widen an interval by an independent source of variation.

    On either side the squares of the two reaches add up: that of the interval, and the quantile of
    Student's t times the deviation. It is the method of variance estimates recovery, for the sum
    of the value and of an effect that is 0 on average.

    Args:
        value: What the interval is of.
        interval: Its lower and upper end.
        deviation: Standard deviation of the other source.
        freedom: Degrees of freedom of that deviation.
        bounds: Least and greatest possible value.

    References:
        Zou and Donner, Construction of confidence limits about effect measures: a general
        approach, 2008.

    Example:
        >>> low, high = widened(80.0, (77.0, 82.0), 2.0, freedom=49)
        >>> round(low, 2), round(high, 2)
        (74.98, 84.49)
    """
    from scipy.stats import t

    reach = float(t.ppf(0.975, freedom)) * deviation
    low, high = min(interval[0], value), max(interval[1], value)
    # Sums in another order differ in the last bits: it never becomes narrower.
    ends = (
        min(low, value - np.hypot(value - low, reach)),
        max(high, value + np.hypot(high - value, reach)),
    )
    return float(np.clip(ends[0], *bounds)), float(np.clip(ends[1], *bounds))


def intervals_overlap(
    one: tuple[float | None, float | None], other: tuple[float | None, float | None]
) -> bool | None:
    """Tell whether two intervals (low, high) share a value; None where an end is unknown.

    Example:
        >>> intervals_overlap((0.1, 0.3), (0.3, 0.4)), intervals_overlap((0.1, 0.3), (0.4, None))
        (True, None)
    """
    (low, high), (other_low, other_high) = one, other
    if low is None or high is None or other_low is None or other_high is None:
        return None
    return low <= other_high and other_low <= high


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
    for flips in _draws(2, count, resamples=resamples, seed=[seed, 1], width=rows):
        yield flips.astype(np.float64)


def _draws(
    upper: int, count: int, *, resamples: int, seed: int | list[int], width: int
) -> Iterator[Integers]:
    if resamples < 1:
        message = f"resamples is {resamples}; it must be at least 1, and 1,000 for an interval"
        raise SettingsError(message)
    generator = np.random.default_rng(seed)
    return drawn_integers(generator, upper, (resamples, count), width=width)


def bootstrap_p(differences: Floats) -> float:
    """Compute the two-sided p-value that belongs to a percentile interval of the difference.

    Twice the smaller share of resampled differences on either side of zero, each side counting one
    more, so that no finite number of resamples gives zero. NaN values are left out.

    References:
        Efron and Tibshirani, An introduction to the bootstrap, 1993, section 15.4; Davison and
        Hinkley, Bootstrap methods and their application, 1997, section 4.2 (counting one more).

    Example:
        >>> bootstrap_p(np.array([0.1, 0.2, 0.3, -0.1]))
        0.8
    """
    defined = differences[~np.isnan(differences)]
    below, above = np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0)
    return float(min(1.0, 2 * (1 + min(below, above)) / (1 + len(defined))))


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p-values so that the chance of any false alarm among them stays at the level.

    Args:
        p_values: (M,) in 0..1.

    Returns:
        (M,) adjusted, at most 1, in the same order.

    References:
        Holm, A simple sequentially rejective multiple test procedure, 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
