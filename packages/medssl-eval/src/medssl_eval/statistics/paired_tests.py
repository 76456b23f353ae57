"""Whether two models differ on the same images or episodes: bootstrap, permutation, DeLong's test.

Everything here takes arrays; which records can be paired is the business of `compare`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.experiments.intervals import percentile_interval

from medssl_eval.errors import FeatureError, LabelError
from medssl_eval.statistics.intervals import (
    RESAMPLES,
    bootstrap_p,
    bootstrap_weights,
    checked_units,
    coin_flips,
    permutation_p,
    replicate,
)
from medssl_eval.statistics.metrics import checked_predictions, metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = ["DeLong", "Difference", "compare_episodes", "compare_predictions", "delong"]


@dataclass(frozen=True, slots=True)
class Difference:
    """What separates two models on the same images or episodes.

    Args:
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
    """Compare two models that classified the same images.

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
        SettingsError: No resamples.

    Example:
        >>> labels, scores = [0, 1] * 20, [0.1, 0.9] * 20
        >>> found = compare_predictions(labels, scores, [0.9, 0.8] * 20, "accuracy")
        >>> found.difference, found.units, found.p_permutation < 0.01
        (0.5, 40, True)
    """
    pair = _Pair.of(labels, first, second, clusters)
    ours, theirs = (_value(pair.labels, scores, name) for scores in (pair.first, pair.second))
    drawn = _replicated(pair, name, clusters=clusters, resamples=resamples, seed=seed)
    exchanged = _exchanged(pair, name, resamples=resamples, seed=seed)
    low, high = percentile_interval(drawn)
    return Difference(
        metric=name,
        first=ours,
        second=theirs,
        difference=ours - theirs,
        low=low,
        high=high,
        p_bootstrap=bootstrap_p(drawn),
        p_permutation=permutation_p(ours - theirs, exchanged),
        p_delong=_delong_p(pair, clusters) if name == "auroc" else None,
        units=pair.count,
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
        SettingsError: No resamples.

    Example:
        >>> found = compare_episodes([80.0, 90.0, 85.0], [70.0, 72.0, 71.0])
        >>> found.difference, found.low, found.high
        (14.0, 10.0, 18.0)
    """
    ours, theirs = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if ours.ndim != 1 or ours.shape != theirs.shape or not len(ours):
        message = f"episodes of shapes {ours.shape} and {theirs.shape} cannot be paired"
        raise FeatureError(message)
    gaps = ours - theirs
    count = len(gaps)
    weights = bootstrap_weights(np.arange(count), count, resamples=resamples, seed=seed)
    drawn = np.concatenate([chunk @ gaps / count for chunk in weights])
    signs = coin_flips(count, resamples=resamples, seed=seed)
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


@dataclass(frozen=True, slots=True)
class _Pair:
    """Checked predictions of two models for the same images, and which belong together."""

    labels: Integers
    first: Floats
    second: Floats
    units: Integers
    count: int

    @classmethod
    def of(
        cls, labels: ArrayLike, first: ArrayLike, second: ArrayLike, clusters: Sequence[str] | None
    ) -> _Pair:
        truth, ours = checked_predictions(labels, first)
        _, theirs = checked_predictions(labels, second)
        if ours.shape != theirs.shape:
            message = f"predictions of shapes {ours.shape} and {theirs.shape} cannot be paired"
            raise FeatureError(message)
        return cls(truth, ours, theirs, *checked_units(len(truth), clusters))


def _value(labels: Integers, scores: Floats, name: str) -> float:
    measured = metric(name)(labels, scores)
    if measured.value is None:
        message = f"{name} cannot be compared: {measured.reason}"
        raise LabelError(message)
    return measured.value


def _replicated(
    pair: _Pair, name: str, *, clusters: Sequence[str] | None, resamples: int, seed: int
) -> Floats:
    """Compute the metric's difference on resamples of the units, the same for both models."""
    ours, theirs = (
        replicate(pair.labels, scores, [name], clusters=clusters, resamples=resamples, seed=seed)
        for scores in (pair.first, pair.second)
    )
    return ours[name] - theirs[name]


def _exchanged(pair: _Pair, name: str, *, resamples: int, seed: int) -> Floats:
    """Compute the metric's difference after exchanging the models' predictions on half the units.

    Both models' rows stand one above the other; which of them are a model's own after an exchange
    is a set of weights. Where only the order of scores counts they are replaced by ranks first:
    models use the scale from 0 to 1 differently, and mixed they would not be comparable.
    """
    ways = (pair.first, pair.second)
    if metric(name).uses_order:
        ways = (_as_ranks(pair.first), _as_ranks(pair.second))
    labels, scores = np.tile(pair.labels, 2), np.concatenate(ways)
    differences = []
    for flips in coin_flips(pair.count, resamples=resamples, seed=seed, rows=len(labels)):
        swapped = flips[:, pair.units]
        ours = metric(name).compute(labels, scores, np.hstack([1 - swapped, swapped]))
        theirs = metric(name).compute(labels, scores, np.hstack([swapped, 1 - swapped]))
        differences.append(ours - theirs)
    return np.concatenate(differences)


def _delong_p(pair: _Pair, clusters: Sequence[str] | None) -> float | None:
    """Run DeLong's test where there are two classes, with two patients each or more."""
    if pair.first.shape[1] != 2:
        return None
    try:
        return delong(pair.labels, pair.first[:, 1], pair.second[:, 1], clusters=clusters).p
    except LabelError:
        return None


def _as_ranks(scores: Floats) -> Floats:
    from scipy.stats import rankdata

    return np.asarray(rankdata(scores, axis=0) / len(scores), np.float64)


@dataclass(frozen=True, slots=True)
class DeLong:
    """Two areas under the curve on the same rows.

    Args:
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

    Example:
        >>> labels, weak = [0, 0, 1, 1, 0, 1], [0.3, 0.6, 0.4, 0.7, 0.5, 0.2]
        >>> found = delong(labels, [0.1, 0.4, 0.8, 0.9, 0.6, 0.5], weak)
        >>> [round(float(area), 3) for area in found.areas], round(found.p, 3)
        ([0.889, 0.444], 0.074)

    References:
        DeLong, DeLong and Clarke-Pearson, Comparing the areas under two or more correlated ROC
        curves, 1988; Obuchowski, Nonparametric analysis of clustered ROC curve data, 1997; Sun and
        Xu, Fast implementation of DeLong's algorithm, 2014 (placements from midranks).
    """
    from scipy.stats import norm

    positive = np.asarray(labels, np.int64) == 1
    scores = np.stack([np.asarray(first, np.float64), np.asarray(second, np.float64)])
    units, count = checked_units(len(positive), clusters)
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
    """Compute what share is below each positive (2, P), and above each negative (2, M)."""
    from scipy.stats import rankdata

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
    """Compute Obuchowski's estimator from deviations summed by unit (2, units)."""
    if gaining < 2 or losing < 2:
        message = f"positives of {gaining} and negatives of {losing} patients: at least 2 of each"
        raise LabelError(message)
    ups, downs = sizes
    count = gains.shape[1]
    own = gaining / (gaining - 1) * gains @ gains.T / ups**2
    other = losing / (losing - 1) * losses @ losses.T / downs**2
    shared = count / (count - 1) * gains @ losses.T / (ups * downs)
    return np.asarray(own + other + shared + shared.T, np.float64)
