"""Whether two models differ on the same images or episodes: bootstrap, permutation, DeLong's test.

Everything here takes arrays; which records can be paired is the business of `compare`, and tests of
many models at once that of `joint_tests`.
"""

from __future__ import annotations

import math
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
    replicate,
)
from medssl_eval.statistics.joint_tests import Panel, all_pairs, jackknife_panel
from medssl_eval.statistics.metrics import checked_predictions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = [
    "DeLong",
    "Difference",
    "compare_episodes",
    "compare_predictions",
    "delong",
    "delong_p",
    "episodes_panel",
]


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
        standard_error: Of the difference.
        p_bootstrap: Two-sided, from the bootstrap; see `bootstrap_p`. None where the interval is
            not from a bootstrap.
        p_permutation: Two-sided, from exchanging the models; see `all_pairs`.
        p_delong: Two-sided, for the area under the curve of two classes, else None.
        units: How many patients, images or episodes there are.
    """

    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    standard_error: float
    p_bootstrap: float | None
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
        LabelError: The metric is not defined on these labels, or without one of the units.
        SettingsError: No resamples.

    Example:
        >>> labels, scores = [0, 1] * 20, [0.1, 0.9] * 20
        >>> found = compare_predictions(labels, scores, [0.9, 0.8] * 20, "accuracy")
        >>> found.difference, found.units, found.p_permutation < 0.01
        (0.5, 40, True)
    """
    shapes = [checked_predictions(labels, scores)[1].shape for scores in (first, second)]
    if shapes[0] != shapes[1]:
        message = f"predictions of shapes {shapes[0]} and {shapes[1]} cannot be paired"
        raise FeatureError(message)
    units = _named(clusters, shapes[0][0])
    panel = jackknife_panel(labels, [first, second], name, units=units)
    ours, theirs = (
        replicate(labels, scores, [name], clusters=clusters, resamples=resamples, seed=seed)[name]
        for scores in (first, second)
    )
    return _difference(
        name,
        panel,
        ours - theirs,
        units=checked_units(shapes[0][0], clusters)[1],
        p_delong=delong_p(labels, first, second, clusters) if name == "auroc" else None,
        resamples=resamples,
        seed=seed,
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
    panel = episodes_panel([ours, theirs])
    count = len(ours)
    weights = bootstrap_weights(np.arange(count), count, resamples=resamples, seed=seed)
    drawn = np.concatenate([chunk @ (ours - theirs) / count for chunk in weights])
    return _difference("accuracy", panel, drawn, units=count, resamples=resamples, seed=seed)


def episodes_panel(shares: Sequence[ArrayLike]) -> Panel:
    """Set models side by side that met the same episodes, each episode a unit.

    Args:
        shares: (E,) accuracies of each model.

    Example:
        >>> episodes_panel([[80.0, 90.0], [70.0, 74.0]]).values.tolist()
        [85.0, 72.0]
    """
    table = np.asarray(shares, np.float64).T
    count, values = len(table), table.mean(axis=0)
    influences = (table - values) / np.sqrt(count * max(count - 1, 1))
    units = [f"episode {number}" for number in range(count)]
    return Panel(units, influences, values, np.zeros(count, np.int64))


def _named(clusters: Sequence[str] | None, rows: int) -> list[str] | None:
    """Give unknown patients a name each."""
    if clusters is None:
        return None
    checked_units(rows, clusters)
    return [name or f"\0{row}" for row, name in enumerate(clusters)]


def _difference(
    name: str,
    panel: Panel,
    drawn: Floats,
    *,
    units: int,
    p_delong: float | None = None,
    resamples: int,
    seed: int,
) -> Difference:
    """Put together the tests of a panel of two models and the resamples of their difference."""
    (tests,) = all_pairs([panel], [[(0, 1)]], resamples=resamples, seed=seed)
    low, high = percentile_interval(drawn)
    return Difference(
        metric=name,
        first=float(panel.values[0]),
        second=float(panel.values[1]),
        difference=float(tests.difference[0]),
        low=low,
        high=high,
        standard_error=float(tests.standard_error[0]),
        p_bootstrap=bootstrap_p(drawn),
        p_permutation=float(tests.p[0]),
        p_delong=p_delong,
        units=units,
    )


def delong_p(
    labels: ArrayLike, first: ArrayLike, second: ArrayLike, clusters: Sequence[str] | None
) -> float | None:
    """Run DeLong's test where it has an answer: two classes, with enough patients of each.

    Args:
        labels: (N,) integers.
        first: (N, K) probabilities of one model, or (N,) for the second of two classes.
        second: Those of the other.
        clusters: As for `delong`.
    """
    truth, ours = checked_predictions(labels, first)
    _, theirs = checked_predictions(labels, second)
    if ours.shape[1] != 2:
        return None
    try:
        return delong(truth, ours[:, 1], theirs[:, 1], clusters=clusters).p
    except LabelError:
        return None


@dataclass(frozen=True, slots=True)
class DeLong:
    """Two areas under the curve on the same rows.

    Args:
        areas: (2,) of the first and the second model.
        covariance: (2, 2) of the two.
        z: Difference in standard errors; 0 where both models rank alike.
        p: Two-sided, of the normal distribution, which many patients approach.
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
        LabelError: A class has fewer than two units, or the areas differ without any variance, as
            where one model separates the classes and the other gives all rows the same score: the
            estimate of the variance is then 0, and no test can be based on it.

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
    if abs(gap) < 1e-12:
        return DeLong(areas, covariance, 0.0, 1.0)
    if variance < 1e-18:
        message = "the areas differ without any variance: DeLong's test has no answer"
        raise LabelError(message)
    z = gap / math.sqrt(variance)
    return DeLong(areas, covariance, z, float(2 * norm.sf(abs(z))))


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
