"""Does what a backbone is like go with how well it serves? Rank correlations over models.

The study correlates transfer accuracy with ImageNet accuracy, attentive diffusion, perceptual
distance and invariance. Models are few, so every correlation has a p-value by permutation, adjusted
over all correlations of a report, and an interval where there are models enough.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.report.content import published_content
from medssl_eval.statistics.intervals import holm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medssl_eval.report.content import Board, Content, Entry

__all__ = ["Relation", "relations"]

FEWEST = 4
"""Models below which a rank correlation says nothing."""
FEWEST_FOR_INTERVAL = 6
"""Models below which a bootstrap over models knows too few orders for an interval."""
RESAMPLES, PERMUTATIONS = 2000, 9999
IMAGENET = "imagenet-top1"


@dataclass(frozen=True)
class Relation:
    """A trait of models against their transfer, averaged over data sets.

    Args:
        trait: What the models are like: experiment, setting and metric.
        outcome: What they achieve, likewise.
        trait_unit: Of the trait.
        outcome_unit: Of the outcome.
        models: Names.
        x: The trait, (M,) float64, a mean over data sets.
        y: The outcome, (M,) float64, a mean over data sets.
        rho: Spearman's rank correlation, -1..1.
        low: Lower end of its 95 % percentile-bootstrap interval over models; None with fewer than
            six models, or where all resamples have one order.
        high: Upper end.
        p: Two-sided, by permutation of the models: exact where they are so few that all orders can
            be counted.
        datasets: How many data sets trait and outcome have in common; 0 where the trait has none
            of its own.
        within: Rank correlation on each common data set alone.
        notes: What is known to be wrong with the trait's values.
        p_adjusted: Holm's, over all correlations of the report.
    """

    trait: str
    outcome: str
    trait_unit: str
    outcome_unit: str
    models: tuple[str, ...]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    rho: float
    low: float | None
    high: float | None
    p: float
    datasets: int
    within: tuple[tuple[str, float], ...]
    notes: tuple[str, ...] = ()
    p_adjusted: float = 1.0


def relations(content: Content, *, seed: int = 0) -> list[Relation]:
    """Correlate every trait with every transfer experiment.

    Args:
        content: A report's entries. ImageNet accuracy is taken from the study's table where the
            entries have none; beside the corrected protocol, the accuracies of the weights that
            were used replace those that the study took by mistake (entry I-44).
        seed: Of the bootstrap and of the permutations.

    Returns:
        Relations over at least four models, traits in their order; p-values adjusted over all.
    """
    boards = content.boards
    outcomes = [board for board in boards if board.is_transfer]
    traits = [board for board in boards if not board.is_transfer]
    if outcomes and not any(board.experiment == IMAGENET for board in traits):
        traits += [b for b in published_content().boards if b.experiment == IMAGENET]
    related = (
        _relate(_as_used(trait, outcome), outcome, seed) for trait in traits for outcome in outcomes
    )
    found = [relation for relation in related if relation is not None]
    adjusted = holm([relation.p for relation in found]).tolist()
    return [replace(one, p_adjusted=p) for one, p in zip(found, adjusted, strict=True)]


def _as_used(trait: Board, outcome: Board) -> Board:
    """Put right the accuracies on ImageNet, but where the study's own numbers are asked for."""
    if trait.experiment != IMAGENET or outcome.protocol != "corrected":
        return trait
    entries = tuple(map(_with_own_accuracy, trait.entries))
    return replace(trait, entries=entries, protocol="corrected")


def _with_own_accuracy(entry: Entry) -> Entry:
    from medssl_models.catalog import model_card
    from medssl_models.errors import UnknownModelError

    try:
        stated = model_card(entry.model).imagenet_top1
    except UnknownModelError:
        stated = None
    return entry if stated is None else entry._replace(value=stated, notes=())


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Spearman's rank correlation; NaN where one side is constant.

    Args:
        x: (M,) float64.
        y: (M,) float64.
    """
    from scipy.stats import rankdata

    a, b = rankdata(x), rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale else float("nan")


def spearman_p(x: NDArray[np.float64], y: NDArray[np.float64], *, seed: int = 0) -> float:
    """Test whether a rank correlation is 0, by permuting the models.

    Args:
        x: (M,) float64.
        y: (M,) float64.
        seed: Of the permutations where there are more than 9,999; else all are counted.

    Returns:
        The two-sided p-value, at least 1 / M! or 1 / 10,000.

    Example:
        >>> round(spearman_p(np.arange(4.0), np.arange(4.0)), 4)
        0.0833
    """
    from scipy.stats import permutation_test, rankdata

    ranks = rankdata(y) - (len(y) + 1) / 2

    def correlation(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.asarray(np.abs((values * ranks).sum(axis=axis)).round(9), np.float64)

    found = permutation_test(
        (rankdata(x) - (len(x) + 1) / 2,), correlation, permutation_type="pairings",
        vectorized=True, n_resamples=PERMUTATIONS, alternative="greater", random_state=seed,
    )  # fmt: skip
    return float(found.pvalue)


def _relate(trait: Board, outcome: Board, seed: int) -> Relation | None:
    shared = [name for name in outcome.datasets if name in trait.datasets]
    sets = shared or outcome.datasets
    x, y = _means(trait, shared or trait.datasets), _means(outcome, sets)
    models = tuple(model for model in y if model in x)
    if len(models) < FEWEST:
        return None
    left, right = (np.array([column[m] for m in models], np.float64) for column in (x, y))
    rho = spearman(left, right)
    if np.isnan(rho):
        return None
    low, high = _interval(left, right, seed)
    notes = (note for e in trait.entries if e.model in models for note in e.notes)
    return Relation(
        trait.title, outcome.title, trait.unit, outcome.unit, models, left, right, rho, low, high,
        spearman_p(left, right, seed=seed), len(shared), tuple(_within(trait, outcome, shared)),
        tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _means(board: Board, datasets: Sequence[str]) -> dict[str, float]:
    """Average models over the data sets that all of them have, so that means can be compared."""
    _, full = board.complete
    chosen = [name for name in full if name in datasets] or list(datasets)[:1]
    return {
        model: float(np.mean([board.cells[model, name].value for name in chosen]))
        for model in board.models
        if all((model, name) in board.cells for name in chosen)
    }


def _interval(
    x: NDArray[np.float64], y: NDArray[np.float64], seed: int
) -> tuple[float | None, float | None]:
    from scipy.stats import rankdata

    if len(x) < FEWEST_FOR_INTERVAL:
        return None, None
    rows = np.random.default_rng(seed).integers(0, len(x), (RESAMPLES, len(x)))
    a, b = rankdata(x[rows], axis=1), rankdata(y[rows], axis=1)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    with np.errstate(invalid="ignore"):
        rho = (a * b).sum(axis=1) / scale
    low, high = np.nanpercentile(rho, [2.5, 97.5])
    return (float(low), float(high)) if high - low > 1e-9 else (None, None)


def _within(trait: Board, outcome: Board, shared: Sequence[str]) -> list[tuple[str, float]]:
    found = []
    for name in shared:
        pairs = [
            (trait.cells[model, name].value, outcome.cells[model, name].value)
            for model in outcome.models
            if (model, name) in trait.cells and (model, name) in outcome.cells
        ]
        if len(pairs) >= FEWEST:
            x, y = np.array(pairs, np.float64).T
            rho = spearman(x, y)
            if not np.isnan(rho):
                found.append((name, rho))
    return found
