"""How sure a number is, and whether two numbers differ: intervals, paired tests, average ranks.

Everything here takes arrays. What is resampled is the unit of independence: the patient where
patients are known, else the image; for few-shot the episode. Metrics are the business of `metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.errors import FeatureError, InfeasibleError, LabelError, SettingsError
from medssl_eval.metrics import checked_predictions, evaluate_metrics, metric

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = [
    "DeLong",
    "Difference",
    "Estimate",
    "Ranking",
    "bootstrap_p",
    "bootstrap_weights",
    "compare_episodes",
    "compare_predictions",
    "delong",
    "estimate",
    "holm",
    "percentile_interval",
    "permutation_p",
    "rank_models",
    "replicate",
    "units_of",
]

RESAMPLES = 1000
TAIL = 2.5  # percent on either side of a 95 % interval
CHUNK_NUMBERS = 2_000_000  # float64 numbers in a chunk of resamples: 16 MB
TOLERATED = 0.05  # share of resamples without a value from which on an interval says so


# ------------------------------------------------------------------------------------ resampling


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
        reason = f"all resamples give the same value: {units} are too few for an interval"
        return Estimate(name, value, None, None, units, undefined, reason)
    if undefined > TOLERATED * len(drawn):
        reason = f"{undefined} of {len(drawn)} resamples lack a class: the interval is rough"
    return Estimate(name, value, low, high, units, undefined, reason)


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


def _check_resamples(resamples: int) -> None:
    if resamples < 1:
        message = f"resamples is {resamples}; it must be at least 1, and 1,000 for an interval"
        raise SettingsError(message)


# --------------------------------------------------------------------------------- paired tests


@dataclass(frozen=True, slots=True)
class Difference:
    """What separates two models on the same questions.

    Attributes:
        metric: Its name.
        first: Value of the first model.
        second: Value of the second.
        difference: First minus second.
        low: Lower end of the 95 % bootstrap interval of the difference.
        high: Upper end.
        p_bootstrap: Two-sided, from the bootstrap; see `bootstrap_p`.
        p_permutation: Two-sided, from exchanging the models; see `permutation_p`.
        p_delong: Two-sided, for the area under the curve of two classes, else None.
        units: How many patients, images or episodes there are.
    """

    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_permutation: float
    p_delong: float | None
    units: int


def compare_predictions(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    name: str,
    *,
    clusters: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Compare two models that answered the same questions.

    Args:
        labels: (N,) integers in 0..K-1.
        first: (N, K) probabilities of one model, or (N,) for the second of two classes.
        second: Those of the other, row by row of the same images.
        name: The metric.
        clusters: N patient names; a patient is resampled and exchanged as a whole.
        resamples: Bootstrap resamples, and as many permutations.
        seed: Of both.

    Raises:
        FeatureError: Predictions of different shapes.
        LabelError: The metric is not defined on these labels.
    """
    truth, ours = checked_predictions(labels, first)
    _, theirs = checked_predictions(labels, second)
    if ours.shape != theirs.shape:
        message = f"predictions of shapes {ours.shape} and {theirs.shape} cannot be paired"
        raise FeatureError(message)
    values = [metric(name)(truth, scores) for scores in (ours, theirs)]
    if values[0].value is None or values[1].value is None:
        message = f"{name} cannot be compared: {values[0].reason or values[1].reason}"
        raise LabelError(message)
    units, count = units_of(len(truth), clusters)
    drawn = _replicated_difference(
        truth, ours, theirs, name, clusters=clusters, resamples=resamples, seed=seed
    )
    difference = values[0].value - values[1].value
    low, high = percentile_interval(drawn)
    exchanged = _exchanged_differences(
        truth, ours, theirs, name, units=units, count=count, resamples=resamples, seed=seed
    )
    is_curve = name == "auroc" and ours.shape[1] == 2
    return Difference(
        metric=name,
        first=values[0].value,
        second=values[1].value,
        difference=difference,
        low=low,
        high=high,
        p_bootstrap=bootstrap_p(drawn),
        p_permutation=permutation_p(difference, exchanged),
        p_delong=delong(truth, ours[:, 1], theirs[:, 1], clusters=clusters).p if is_curve else None,
        units=count,
    )


def compare_episodes(
    first: ArrayLike, second: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Compare two models that met the same episodes.

    The interval covers which episodes were drawn, not which patients there are: episodes share
    images.

    Args:
        first: (E,) accuracy of one model in each episode.
        second: (E,) accuracy of the other.
        resamples: Bootstrap resamples, and as many permutations.
        seed: Of both.

    Raises:
        FeatureError: Not the same number of episodes.
    """
    ours, theirs = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if ours.ndim != 1 or ours.shape != theirs.shape or not len(ours):
        message = f"episodes of shapes {ours.shape} and {theirs.shape} cannot be paired"
        raise FeatureError(message)
    gaps = ours - theirs
    count = len(gaps)
    weights = bootstrap_weights(np.arange(count), count, resamples=resamples, seed=seed)
    drawn = np.concatenate([chunk @ gaps / count for chunk in weights])
    signs = _coin_flips(count, resamples=resamples, seed=seed)
    exchanged = np.concatenate([(1 - 2 * flips) @ gaps / count for flips in signs])
    low, high = percentile_interval(drawn)
    return Difference(
        metric="accuracy",
        first=float(ours.mean()),
        second=float(theirs.mean()),
        difference=float(gaps.mean()),
        low=low,
        high=high,
        p_bootstrap=bootstrap_p(drawn),
        p_permutation=permutation_p(float(gaps.mean()), exchanged),
        p_delong=None,
        units=count,
    )


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


def _replicated_difference(
    labels: Integers,
    first: Floats,
    second: Floats,
    name: str,
    *,
    clusters: Sequence[str] | None,
    resamples: int,
    seed: int,
) -> Floats:
    ours, theirs = (
        replicate(labels, scores, [name], clusters=clusters, resamples=resamples, seed=seed)[name]
        for scores in (first, second)
    )
    return ours - theirs


def _exchanged_differences(
    labels: Integers,
    first: Floats,
    second: Floats,
    name: str,
    *,
    units: Integers,
    count: int,
    resamples: int,
    seed: int,
) -> Floats:
    """Difference of the metric after exchanging the models' answers on half of the units.

    Both models' rows stand one above the other; which of them are a model's own after an exchange
    is a set of weights. Where only the order of scores counts they are replaced by ranks first:
    models use the scale from 0 to 1 differently, and mixed they would not be comparable.
    """
    if metric(name).uses_order:
        first, second = _as_ranks(first), _as_ranks(second)
    doubled, scores = np.tile(labels, 2), np.concatenate([first, second])
    differences = []
    for flips in _coin_flips(count, resamples=resamples, seed=seed, rows=2 * len(labels)):
        swapped = flips[:, units]
        ours = metric(name).compute(doubled, scores, np.hstack([1 - swapped, swapped]))
        theirs = metric(name).compute(doubled, scores, np.hstack([swapped, 1 - swapped]))
        differences.append(ours - theirs)
    return np.concatenate(differences)


def _as_ranks(scores: Floats) -> Floats:
    from scipy.stats import rankdata  # noqa: PLC0415 # slow to import

    return np.asarray(rankdata(scores, axis=0) / len(scores), np.float64)


def _coin_flips(count: int, *, resamples: int, seed: int, rows: int = 0) -> Iterator[Floats]:
    """Yield (B, count) float64 of zeros and ones, a few rows at a time."""
    _check_resamples(resamples)
    generator = np.random.Generator(np.random.PCG64([seed, 1]))
    step = max(1, CHUNK_NUMBERS // max(rows, count))
    for begin in range(0, resamples, step):
        size = min(step, resamples - begin)
        yield generator.integers(0, 2, (size, count)).astype(np.float64)


# -------------------------------------------------------------------------- area under the curve


@dataclass(frozen=True, slots=True)
class DeLong:
    """Two areas under the curve on the same rows.

    Attributes:
        areas: (2,) of the first and the second model.
        covariance: (2, 2) of the two.
        z: Difference in standard errors; 0 where both models rank alike.
        p: Two-sided.
    """

    areas: Floats
    covariance: Floats
    z: float
    p: float


def delong(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    clusters: Sequence[str] | None = None,
) -> DeLong:
    """Test whether two correlated areas under the ROC curve differ.

    Args:
        labels: (N,) of 0 and 1.
        first: (N,) scores of one model; only their order counts.
        second: (N,) scores of the other.
        clusters: N patient names. With them the variance allows for several rows of a patient,
            positive and negative ones alike; with one row each it is DeLong's own.

    Raises:
        LabelError: A class has fewer than two units.

    References:
        DeLong, DeLong and Clarke-Pearson, Comparing the areas under two or more correlated ROC
        curves, 1988; Obuchowski, Nonparametric analysis of clustered ROC curve data, 1997; Sun and
        Xu, Fast implementation of DeLong's algorithm, 2014 (placements from midranks).
    """
    from scipy.stats import norm  # noqa: PLC0415 # slow to import

    positive = np.asarray(labels, np.int64) == 1
    scores = np.stack([np.asarray(first, np.float64), np.asarray(second, np.float64)])
    units, count = units_of(len(positive), clusters)
    gains, losses = _placements(positive, scores)
    areas = gains.mean(axis=1)
    covariance = _clustered_covariance(
        _summed(gains - areas[:, None], units[positive], count),
        _summed(losses - areas[:, None], units[~positive], count),
        np.unique(units[positive]).size,
        np.unique(units[~positive]).size,
        sizes=(int(positive.sum()), int((~positive).sum())),
    )
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    gap = float(areas[0] - areas[1])
    z = gap / np.sqrt(variance) if variance > 1e-18 else 0.0 if gap == 0 else np.inf * np.sign(gap)
    return DeLong(areas, covariance, float(z), float(2 * norm.sf(abs(z))))


def _placements(positive: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """Share of negatives below each positive (2, P), and of positives above each negative (2, M)."""
    from scipy.stats import rankdata  # noqa: PLC0415 # slow to import

    ups, downs = int(positive.sum()), int((~positive).sum())
    if ups < 2 or downs < 2:
        message = (
            f"{ups} positive and {downs} negative rows: DeLong's test needs at least 2 of each"
        )
        raise LabelError(message)
    joint = rankdata(scores, axis=1)
    gains = (joint[:, positive] - rankdata(scores[:, positive], axis=1)) / downs
    losses = 1 - (joint[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / ups
    return np.asarray(gains, np.float64), np.asarray(losses, np.float64)


def _summed(values: Floats, units: Integers, count: int) -> Floats:
    """Sum the columns of each unit, (2, count)."""
    return np.stack([np.bincount(units, weights=row, minlength=count) for row in values])


def _clustered_covariance(
    gains: Floats, losses: Floats, gaining: int, losing: int, *, sizes: tuple[int, int]
) -> Floats:
    """Obuchowski's estimator from deviations summed by unit (2, units)."""
    if gaining < 2 or losing < 2:
        message = f"positives of {gaining} and negatives of {losing} patients: at least 2 of each"
        raise LabelError(message)
    ups, downs = sizes
    count = gains.shape[1]
    own = gaining / (gaining - 1) * gains @ gains.T / ups**2
    other = losing / (losing - 1) * losses @ losses.T / downs**2
    shared = count / (count - 1) * gains @ losses.T / (ups * downs)
    return np.asarray(own + other + shared + shared.T, np.float64)


# ---------------------------------------------------------------------------- across data sets


@dataclass(frozen=True, slots=True)
class Ranking:
    """Average ranks of models over data sets; rank 1 is the best.

    Attributes:
        models: Their names, best first.
        ranks: (N, k) float64, rank of each model on each data set, ties averaged.
        mean_ranks: (k,) float64.
        chi_square: Friedman's statistic, corrected for ties, with k - 1 degrees of freedom.
        p_friedman: Of the chi-square approximation.
        f_statistic: Iman and Davenport's, with k - 1 and (k - 1)(N - 1) degrees of freedom.
        p_value: Of the F statistic, the better approximation; 1 where nothing differs.
        critical_difference: Nemenyi's at 5 %: closer mean ranks are not told apart.
        p_nemenyi: (k, k) float64, adjusted for all pairs.
        groups: Runs of models that are not told apart, maximal, as positions first..last.
    """

    models: tuple[str, ...]
    ranks: Floats
    mean_ranks: Floats
    chi_square: float
    p_friedman: float
    f_statistic: float
    p_value: float
    critical_difference: float
    p_nemenyi: Floats
    groups: tuple[tuple[int, int], ...]


def rank_models(
    values: ArrayLike, models: Sequence[str], *, higher_is_better: bool = True
) -> Ranking:
    """Rank models on each data set and test whether the average ranks differ.

    Args:
        values: (N, k), one row a data set, one column a model, finite.
        models: k names.
        higher_is_better: The metric's direction.

    Raises:
        InfeasibleError: Fewer than two data sets or models, or a missing value.

    References:
        Demsar, Statistical comparisons of classifiers over multiple data sets, 2006.
    """
    from scipy import stats  # noqa: PLC0415 # slow to import

    table = np.asarray(values, np.float64)
    _check_table(table, models)
    ranks = stats.rankdata(-table if higher_is_better else table, axis=1)
    order = np.argsort(ranks.mean(axis=0), kind="stable")
    ranks = ranks[:, order]
    rows, count = ranks.shape
    means = ranks.mean(axis=0)
    # Friedman's statistic, written so that ties correct themselves (Conover, 1999, section 5.8).
    spread = float(((ranks - (count + 1) / 2) ** 2).sum())
    chi_square = (count - 1) * rows**2 * float(((means - (count + 1) / 2) ** 2).sum())
    chi_square = chi_square / spread if spread else 0.0
    f_statistic = _iman_davenport(chi_square, rows, count)
    error = np.sqrt(count * (count + 1) / (6 * rows))
    gaps = np.abs(means[:, None] - means[None]) / error * np.sqrt(2)
    critical = float(stats.studentized_range.ppf(0.95, count, np.inf)) / np.sqrt(2) * float(error)
    return Ranking(
        models=tuple(models[i] for i in order),
        ranks=ranks,
        mean_ranks=means,
        chi_square=chi_square,
        p_friedman=float(stats.chi2.sf(chi_square, count - 1)),
        f_statistic=f_statistic,
        p_value=float(stats.f.sf(f_statistic, count - 1, (count - 1) * (rows - 1))),
        critical_difference=critical,
        p_nemenyi=np.asarray(stats.studentized_range.sf(gaps, count, np.inf), np.float64),
        groups=_groups(means, critical),
    )


def _iman_davenport(chi_square: float, rows: int, count: int) -> float:
    rest = rows * (count - 1) - chi_square
    return (rows - 1) * chi_square / rest if rest > 1e-12 else float("inf")


def _groups(means: Floats, critical: float) -> tuple[tuple[int, int], ...]:
    """Find the longest runs of sorted mean ranks that lie within the critical difference."""
    reach = [int(np.searchsorted(means, mean + critical, side="right")) - 1 for mean in means]
    return tuple(
        (first, last)
        for first, last in enumerate(reach)
        if last > first and (first == 0 or reach[first - 1] < last)
    )


def _check_table(table: Floats, models: Sequence[str]) -> None:
    if table.ndim != 2 or table.shape[1] != len(models) or min(table.shape) < 2:
        message = (
            f"values of shape {table.shape} for {len(models)} models: ranks need at least 2 data "
            "sets and 2 models"
        )
        raise InfeasibleError(message)
    if not np.isfinite(table).all():
        row, column = (int(i[0]) for i in np.nonzero(~np.isfinite(table)))
        message = f"{models[column]!r} has no value on data set {row + 1}: ranks need all of them"
        raise InfeasibleError(message)
