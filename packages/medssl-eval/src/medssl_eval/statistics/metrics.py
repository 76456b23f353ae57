"""Metrics of classifiers, each computed for many sets of row weights at once.

One set of weights of ones gives the plain value; the resamples of a bootstrap are others. Intervals
are the business of `intervals`, tests that of `paired_tests`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.errors import did_you_mean
from medssl_models.experiments.metric import Metric

from medssl_eval.errors import FeatureError, InfeasibleError, LabelError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Labels = NDArray[np.int64]

__all__ = [
    "METRICS",
    "ClassifierMetric",
    "Measurement",
    "checked_predictions",
    "evaluate_metrics",
    "list_metrics",
    "metric",
    "validation_score",
]

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class ClassifierMetric(Metric):
    """A metric as records declare it, with its arithmetic, whose values are never percentages.

    Args:
        compute: (labels (N,) int64, probabilities (N, K) float64, weights (B, N) float64) -> (B,)
            float64, NaN where undefined. Trusts its input.
        by_class: Whether it depends on the images of each class alone, however many there are.
        parts: As `compute`, of a metric that is a sum of absolute values: its signed addends,
            (B, parts). Noise lifts such a sum, so that its intervals are made otherwise.

    Example:
        >>> metric("auroc")([0, 1, 1], [0.2, 0.1, 0.9])
        Measurement(metric='auroc', value=0.5, reason=None)
    """

    compute: Callable[[Labels, Floats, Floats], Floats] = field(kw_only=True, repr=False)
    by_class: bool = field(default=False, kw_only=True)
    parts: Callable[[Labels, Floats, Floats], Floats] | None = field(
        default=None, kw_only=True, repr=False
    )

    @property
    def scale(self) -> float:
        """What a value is multiplied by to have the unit of records."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def span(self) -> tuple[float, float]:
        """Least and greatest value, never in percent."""
        least, greatest = self.bounds
        return (least or 0.0) / self.scale, (greatest or 0.0) / self.scale

    def __call__(
        self, labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None
    ) -> Measurement:
        """Compute the value for one set of rows.

        Args:
            labels: Classes 0 .. K-1, shape (N,).
            probabilities: Shape (N, K), or (N,) for the second of two classes.
            weights: One non-negative weight for each row, shape (N,).

        Raises:
            LabelError: Labels that are not integers in 0 .. K-1.
            FeatureError: Probabilities of a wrong shape, outside [0, 1] or not finite.
        """
        truth, scores = checked_predictions(labels, probabilities)
        row_weights = np.ones(len(truth)) if weights is None else np.asarray(weights, np.float64)
        value = float(self.compute(truth, scores, row_weights[None])[0])
        if np.isnan(value):
            return Measurement(self.name, None, _absence(truth, scores.shape[1]))
        return Measurement(self.name, value, None)


@dataclass(frozen=True, slots=True)
class Measurement:
    """A value, never in percent, or the reason why there is none.

    Args:
        metric: Its name.
        value: None where the metric is not defined.
        reason: Why it is not.
    """

    metric: str
    value: float | None
    reason: str | None


def _absence(labels: Labels, classes: int) -> str:
    missing = sorted(set(range(classes)) - set(labels.tolist()))
    if missing:
        return f"no row of class {', '.join(map(str, missing))}: not defined"
    return "all weight or all agreement lies in one cell: not defined"


def checked_predictions(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Labels, Floats]:
    """Return labels (N,) int64 and probabilities (N, K) float64.

    Raises:
        LabelError: Labels that are not integers in 0 .. K-1.
        FeatureError: Probabilities of a wrong shape, outside [0, 1] or not finite.
    """
    truth, scores = np.asarray(labels), np.asarray(probabilities, np.float64)
    if scores.ndim == 1:
        scores = np.stack([1 - scores, scores], axis=1)
    if truth.ndim != 1 or scores.ndim != 2 or len(truth) != len(scores) or not len(truth):
        message = (
            f"labels of shape {truth.shape} and probabilities of shape {scores.shape}: "
            "give (N,) and (N, classes), N at least 1"
        )
        raise FeatureError(message)
    if not np.isfinite(scores).all() or scores.min() < 0 or scores.max() > 1 + 1e-9:
        row = int(np.argmin(((scores >= 0) & (scores <= 1 + 1e-9)).all(axis=1)))
        message = (
            f"probabilities: row {row} is {scores[row].tolist()}; allowed are values in [0, 1]"
        )
        raise FeatureError(message)
    if truth.dtype.kind not in "iub" or truth.min() < 0 or truth.max() >= scores.shape[1]:
        message = (
            f"labels: dtype {truth.dtype} from {truth.min()} to {truth.max()}; allowed are "
            f"integers 0 to {scores.shape[1] - 1}, one for each column of the probabilities"
        )
        raise LabelError(message)
    return truth.astype(np.int64), scores


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide; NaN where the denominator is zero."""
    empty = denominator == 0
    return np.where(empty, np.nan, numerator / np.where(empty, 1.0, denominator))


def _accuracy(labels: Labels, probabilities: Floats, weights: Floats) -> Floats:
    """Compute the share of rows whose likeliest class is right."""
    return _ratio(weights @ (probabilities.argmax(axis=1) == labels), weights.sum(axis=1))


def _recall(labels: Labels, probabilities: Floats, weights: Floats) -> Floats:
    """Average the recalls of the classes; 1 / K without knowledge."""
    correct = probabilities.argmax(axis=1) == labels
    member = np.eye(probabilities.shape[1])[labels]
    recalls = _ratio(weights @ (member * correct[:, None]), weights @ member)
    return np.asarray(recalls.mean(axis=1), np.float64)


def _ties(scores: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the ascending order of the scores, and where in it each run of equal scores ends."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    return order, np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)


def _running(weights: Floats, ends: NDArray[np.intp]) -> Floats:
    """Sum the weights up to the end of each run of ties, shape (B, runs)."""
    return np.asarray(np.cumsum(weights, axis=1)[:, ends], np.float64)


def _each_class(
    one: Callable[[NDArray[np.bool_], Floats, Floats], Floats],
) -> Callable[[Labels, Floats, Floats], Floats]:
    """Take the second class of two, else the mean of each class against the rest."""

    def compute(labels: Labels, probabilities: Floats, weights: Floats) -> Floats:
        classes = probabilities.shape[1]
        chosen = [1] if classes == 2 else list(range(classes))
        values = [one(labels == k, probabilities[:, k], weights) for k in chosen]
        return np.asarray(np.mean(values, axis=0), np.float64)

    return compute


@_each_class
def _auroc(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Compute the chance that a positive scores above a negative, ties counted half."""
    order, ends = _ties(scores)
    ordered, is_positive = weights[:, order], positive[order]
    ups = _running(ordered * is_positive, ends)
    downs = _running(ordered * ~is_positive, ends)
    below = np.concatenate([np.zeros((len(weights), 1)), downs[:, :-1]], axis=1)
    gains = np.diff(ups, axis=1, prepend=0.0)
    return _ratio((gains * (below + downs)).sum(axis=1) / 2, ups[:, -1] * downs[:, -1])


@_each_class
def _auprc(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Average the precision at each threshold, weighted by the recall that it adds.

    Without knowledge it is the share of positives.
    """
    order, ends = _ties(-scores)
    ordered = weights[:, order]
    ups = _running(ordered * positive[order], ends)
    precision = np.nan_to_num(_ratio(ups, _running(ordered, ends)))
    gains = np.diff(ups, axis=1, prepend=0.0)
    return _ratio((gains * precision).sum(axis=1), ups[:, -1])


def _kappa(labels: Labels, probabilities: Floats, weights: Floats) -> Floats:
    """Compute the agreement beyond chance of ordered classes, with the grades' squared distance."""
    classes = probabilities.shape[1]
    cells = np.eye(classes * classes)[labels * classes + probabilities.argmax(axis=1)]
    table = (weights @ cells).reshape(-1, classes, classes)
    penalty = np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2.0
    total = table.sum(axis=(1, 2))
    chance = table.sum(axis=2)[:, :, None] * table.sum(axis=1)[:, None, :]
    disagreement = _ratio((table * penalty).sum(axis=(1, 2)), total)
    return 1 - _ratio(disagreement, _ratio((chance * penalty).sum(axis=(1, 2)), total**2))


def _brier(labels: Labels, probabilities: Floats, weights: Floats) -> Floats:
    """Average the squared error: of the second class of two, else summed over the classes."""
    target = np.eye(probabilities.shape[1])[labels]
    errors = ((probabilities - target) ** 2).sum(axis=1)
    if probabilities.shape[1] == 2:
        errors = (probabilities[:, 1] - labels) ** 2
    return _ratio(weights @ errors, weights.sum(axis=1))


def _calibration_gaps(labels: Labels, probabilities: Floats, weights: Floats) -> Floats:
    """Gaps of accuracy and confidence in bins of equal width over the confidence, (B, bins).

    Each is weighted by the share of rows in its bin.
    """
    confidence = probabilities.max(axis=1)
    bins = np.ceil(confidence * CALIBRATION_BINS).astype(np.int64).clip(1, CALIBRATION_BINS) - 1
    gap = (probabilities.argmax(axis=1) == labels) - confidence
    surplus = weights @ (np.eye(CALIBRATION_BINS)[bins] * gap[:, None])
    return _ratio(surplus, np.broadcast_to(weights.sum(axis=1, keepdims=True), surplus.shape))


def _calibration_error(labels: Labels, probabilities: Floats, weights: Floats) -> Floats:
    """Sum the absolute gaps: the expected calibration error, above 0 even of a calibrated model."""
    return np.asarray(np.abs(_calibration_gaps(labels, probabilities, weights)).sum(axis=1))


_ALL = (
    ClassifierMetric("accuracy", "accuracy", "higher", "%", bounds=(0, 100), compute=_accuracy),
    ClassifierMetric(
        "balanced_accuracy",
        "balanced accuracy",
        "higher",
        "%",
        bounds=(0, 100),
        compute=_recall,
        by_class=True,
    ),
    ClassifierMetric(
        "auroc", "AUROC", "higher", chance=0.5, bounds=(0, 1), compute=_auroc, by_class=True
    ),
    ClassifierMetric("auprc", "AUPRC", "higher", bounds=(0, 1), compute=_auprc),
    ClassifierMetric("brier", "Brier score", "lower", bounds=(0, 2), compute=_brier),
    ClassifierMetric(
        "calibration_error",
        "calibration error",
        "lower",
        bounds=(0, 1),
        compute=_calibration_error,
        parts=_calibration_gaps,
    ),
    ClassifierMetric(
        "quadratic_kappa", "quadratic kappa", "higher", chance=0.0, bounds=(-1, 1), compute=_kappa
    ),
)
METRICS: Mapping[str, ClassifierMetric] = MappingProxyType({entry.name: entry for entry in _ALL})


def list_metrics() -> list[str]:
    """List the names of all metrics."""
    return list(METRICS)


def metric(name: str) -> ClassifierMetric:
    """Look up a metric; "mean_per_class_recall" is the study's word for balanced accuracy.

    Raises:
        UnknownNameError: No metric has the name; close ones are named.
    """
    name = "balanced_accuracy" if name == "mean_per_class_recall" else name
    if name not in METRICS:
        hint = did_you_mean(name, METRICS, close_only=True)
        message = f"metric {name!r} is unknown{hint} (there are {', '.join(METRICS)})"
        raise UnknownNameError(message)
    return METRICS[name]


def evaluate_metrics(
    labels: ArrayLike, probabilities: ArrayLike, *, names: Sequence[str] | None = None
) -> dict[str, Measurement]:
    """Compute several metrics of the same predictions; errors as in `ClassifierMetric`.

    Args:
        labels: As in `ClassifierMetric`.
        probabilities: As there.
        names: None takes all metrics.

    Example:
        >>> found = evaluate_metrics([0, 1, 1], [0.2, 0.4, 0.9], names=["accuracy", "brier"])
        >>> {name: round(measured.value, 3) for name, measured in found.items()}
        {'accuracy': 0.667, 'brier': 0.137}
    """
    chosen = list_metrics() if names is None else names
    return {name: metric(name)(labels, probabilities) for name in chosen}


def validation_score(name: str, labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Compute a metric as something to choose by: higher is better.

    Args:
        name: The metric.
        labels: As in `ClassifierMetric`.
        probabilities: As there.

    Raises:
        InfeasibleError: The metric has no value on this validation part.

    Example:
        >>> round(validation_score("brier", [0, 1, 1], [0.2, 0.4, 0.9]), 3)
        -0.137
    """
    chosen = metric(name)
    measured = chosen(labels, probabilities)
    if measured.value is None:
        message = (
            f"the validation part has no {name} to choose by: {measured.reason}; choose by another "
            "metric or take a larger validation part"
        )
        raise InfeasibleError(message)
    return chosen.sign * measured.value
