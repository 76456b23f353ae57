"""Metrics as they would be if the label did not follow a column. Arrays in, numbers out."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.experiments.intervals import CHUNK_NUMBERS

from medssl_eval.experiments.influences import Influences
from medssl_eval.statistics.intervals import Estimate, bounded_interval, checked_units
from medssl_eval.statistics.metrics import checked_predictions, metric

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]
    Adjusted = Callable[[Integers, Floats, Integers, Floats], Floats]

__all__ = [
    "ADJUSTABLE",
    "adjusted_auroc",
    "adjusted_influences",
    "estimate_adjusted",
    "in_whole_strata",
    "independent_weights",
]

_MOST = 50_000_000
"""Patients times images up to which each is left out on its own: some seconds a metric; of more,
random blocks of patients are left out."""

_FEWEST_BLOCKS = 100

_NOWHERE = "no stratum holds all classes: the column alone tells them apart"


def independent_weights(labels: Integers, strata: Integers, weights: Floats) -> Floats:
    """Weigh rows so that label and stratum are independent, and both as common as they were.

    A row of class c in stratum s weighs P(c) P(s) / P(c, s): direct standardisation of each class
    to the strata of all. Rows of a stratum that lacks a class weigh nothing, and the others of
    their class take their place.

    Args:
        labels: (N,) in 0..C-1.
        strata: (N,) in 0..S-1.
        weights: (B, N), such as how often each row was drawn.

    Returns:
        (B, N).

    References:
        Hernán and Robins, Estimating causal effects from epidemiological data, 2006 (stabilised
        inverse probability weights, and that they are standardisation).

    Example:
        >>> labels, strata = np.array([0, 0, 0, 1, 0, 1, 1, 1]), np.repeat([0, 1], 4)
        >>> independent_weights(labels, strata, np.ones((1, 8))).round(2).tolist()
        [[0.67, 0.67, 0.67, 2.0, 2.0, 0.67, 0.67, 0.67]]
    """
    classes, count = int(labels.max()) + 1, int(strata.max()) + 1
    cells = labels * count + strata
    mass = (weights @ np.eye(classes * count)[cells]).reshape(-1, classes, count)
    wanted = mass.sum(axis=2, keepdims=True)
    mass = np.where((mass > 0).all(axis=1, keepdims=True), mass, 0.0)
    total = mass.sum(axis=(1, 2), keepdims=True)
    expected = wanted * mass.sum(axis=1, keepdims=True)
    factors = np.where(mass > 0, expected / np.where(mass > 0, mass * total, 1), 0.0)
    return np.asarray(weights * factors.reshape(len(weights), -1)[:, cells])


def in_whole_strata(labels: Integers, strata: Integers) -> NDArray[np.bool_]:
    """Mark the rows whose stratum holds all classes: the others are not scored.

    Example:
        >>> in_whole_strata(np.array([0, 1, 1]), np.array([0, 0, 1])).tolist()
        [True, True, False]
    """
    return np.asarray(independent_weights(labels, strata, np.ones((1, len(labels))))[0] > 0)


def adjusted_auroc(
    labels: Integers, probabilities: Floats, strata: Integers, weights: Floats
) -> Floats:
    """Compute the AUROC within strata, averaged as the positives are spread over them.

    It is the chance that a positive scores above a negative of its own stratum. With more than two
    classes the mean of each against the rest.

    Args:
        labels: (N,) in 0..C-1.
        probabilities: (N, C).
        strata: (N,) in 0..S-1.
        weights: (B, N).

    Returns:
        (B,); NaN where no stratum holds all classes.

    References:
        Janes and Pepe, Adjusting for covariate effects on classification accuracy using the
        covariate-adjusted receiver operating characteristic curve, Biometrika 96, 2009, section 2
        (the area under it is the mean of the covariate-specific placement values of the cases).
    """
    classes = probabilities.shape[1]
    held = independent_weights(labels, strata, weights) > 0
    kept = np.where(held, weights, 0.0)
    found = []
    for positive in [1] if classes == 2 else range(classes):
        area, mass = np.zeros(len(weights)), np.zeros(len(weights))
        for stratum in np.unique(strata):
            rows = strata == stratum
            truth = (labels[rows] == positive).astype(np.int64)
            scores = np.stack([1 - probabilities[rows, positive], probabilities[rows, positive]], 1)
            inside = metric("auroc").compute(truth, scores, kept[:, rows])
            positives = kept[:, rows] @ truth
            area += np.where(positives > 0, np.nan_to_num(inside) * positives, 0.0)
            mass += positives
        found.append(np.where(mass > 0, area / np.where(mass > 0, mass, 1), np.nan))
    return np.asarray(np.mean(found, axis=0))


def _standardised(name: str) -> Adjusted:
    def compute(
        labels: Integers, probabilities: Floats, strata: Integers, weights: Floats
    ) -> Floats:
        return metric(name).compute(
            labels, probabilities, independent_weights(labels, strata, weights)
        )

    return compute


ADJUSTABLE: Mapping[str, Adjusted] = MappingProxyType(
    {
        "accuracy": _standardised("accuracy"),
        "balanced_accuracy": _standardised("balanced_accuracy"),
        "auroc": adjusted_auroc,
        "brier": _standardised("brier"),
    }
)
"""Metrics that can be adjusted, and how."""


def estimate_adjusted(
    labels: ArrayLike,
    probabilities: ArrayLike,
    strata: Integers,
    names: Sequence[str],
    *,
    clusters: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """Measure adjusted metrics with 95 % intervals: the jackknife by patient, on log odds.

    Weights and strata are found anew without each patient, so that the interval covers them too.

    Args:
        labels: (N,) in 0..C-1.
        probabilities: (N, C), or (N,) for the second of two classes.
        strata: (N,) in 0..S-1.
        names: Of `ADJUSTABLE`.
        clusters: N patient names, None where each row is independent.

    Example:
        >>> labels, view = np.array([0, 0, 0, 1, 0, 1, 1, 1]), np.repeat([0, 1], 4)
        >>> by_view = np.where(view == 1, 0.9, 0.1)
        >>> estimate_adjusted(labels, by_view, view, ["auroc"])["auroc"].value
        0.5
    """
    truth, scores = checked_predictions(labels, probabilities)
    units, count = checked_units(len(truth), clusters)
    return {name: _estimate(name, truth, scores, strata, units, count) for name in names}


def _estimate(
    name: str, labels: Integers, scores: Floats, strata: Integers, units: Integers, count: int
) -> Estimate:
    value = float(ADJUSTABLE[name](labels, scores, strata, np.ones((1, len(labels))))[0])
    if np.isnan(value):
        return Estimate(name, None, None, None, count, 0, _NOWHERE)
    held = len(np.unique(units[in_whole_strata(labels, strata)]))
    most = max(_FEWEST_BLOCKS, _MOST // len(labels))
    blocks = units if count <= most else np.random.default_rng(0).permutation(count)[units] % most
    influences = adjusted_influences(labels, scores, strata, name, blocks)
    if influences is None:
        reason = f"all strata hang on one of {held} patients or images: too few for an interval"
        return Estimate(name, value, None, None, held, 0, reason)
    one = metric(name)
    low, high = bounded_interval(
        value,
        influences.standard_error,
        influences.freedom,
        units=held,
        bounds=(0.0, (one.bounds[1] or 1.0) / one.scale),
    )
    return Estimate(name, value, low, high, held, 0, None)


def adjusted_influences(
    labels: Integers,
    probabilities: Floats,
    strata: Integers,
    name: str,
    units: Integers,
    *,
    names: Sequence[str] = (),
    plan: str = "",
) -> Influences | None:
    """Compute by how much each unit moves an adjusted metric: the jackknife.

    Args:
        labels: (N,) in 0..C-1.
        probabilities: (N, C).
        strata: (N,) in 0..S-1.
        name: Of `ADJUSTABLE`.
        units: (N,) in 0..U-1, the patient of each image.
        names: U names of the units; numbers where there are none.
        plan: Names what is asked.

    Returns:
        In the metric's own scale, never in percent; None where it has no value once a unit is left
        out.

    References:
        Efron and Tibshirani, An introduction to the bootstrap, 1993, section 11.2.
    """
    count = int(units.max()) + 1
    step = max(1, CHUNK_NUMBERS // len(units))
    parts = []
    for start in range(0, count, step):
        left_out = np.arange(start, min(start + step, count))
        weights = (units != left_out[:, None]).astype(np.float64)
        parts.append(ADJUSTABLE[name](labels, probabilities, strata, weights))
    without = np.concatenate(parts)
    if count < 2 or np.isnan(without).any():
        return None
    return Influences(
        units=tuple(names or map(str, range(count))),
        values=np.sqrt((count - 1) / count) * (without.mean() - without),
        strata=np.zeros(count, np.int64),
        plan=plan,
    )
