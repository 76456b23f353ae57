"""Average ranks of models over data sets: Friedman's test and Nemenyi's critical difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.errors import InfeasibleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["Ranking", "rank_models"]

FEWEST = 5
"""Data sets from which on the approximations hold, and below which little could be told apart: with
two models no exact test of fewer can reach 5 %."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Average ranks of models over data sets; rank 1 is the best.

    Args:
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
        InfeasibleError: Fewer than five data sets or two models, or a missing value.

    Example:
        >>> ranking = rank_models([[0.9, 0.7], [0.8, 0.6]] * 3, ["good", "poor"])
        >>> ranking.models, ranking.mean_ranks.tolist()
        (('good', 'poor'), [1.0, 2.0])

    References:
        Demsar, Statistical comparisons of classifiers over multiple data sets, 2006.
    """
    from scipy import stats

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
    wrong = table.ndim != 2 or table.shape[1] != len(models)
    if wrong or len(models) < 2 or len(table) < FEWEST:
        message = (
            f"values of shape {table.shape} for {len(models)} models: average ranks need at least "
            f"{FEWEST} data sets and 2 models; fewer say nothing"
        )
        raise InfeasibleError(message)
    if not np.isfinite(table).all():
        row, column = (int(i[0]) for i in np.nonzero(~np.isfinite(table)))
        message = f"{models[column]!r} has no value on data set {row + 1}: ranks need all of them"
        raise InfeasibleError(message)
