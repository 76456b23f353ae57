"""L2-regularised logistic regression over a whole path of strengths, solved to convergence.

The objective is scikit-learn's: C * sum(loss) + 0.5 * ||coefficients||^2, intercepts free. What to
feed it (standardised or raw features, which split) is the business of `linear`.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.errors import FeatureError, LabelError, SettingsError
from medssl_eval.solver.gram import GramLandscape
from medssl_eval.solver.newton import (
    Design,
    Problem,
    RowLandscape,
    SolverSettings,
    evaluate_all,
    minimise,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    from medssl_eval.solver.newton import Landscape, Point

    Floats = NDArray[np.float64]

__all__ = [
    "LogisticSolution",
    "SolverSettings",
    "ascending",
    "checked_features",
    "checked_targets",
    "choose_strength",
    "published_strengths",
    "solve",
    "solve_path",
]

ONE_THREAD_ROWS = 2048
"""Measured on 2 cores: 0.41 s with one thread against 0.49 s with two for 1,000 rows."""


@dataclass(frozen=True, slots=True, eq=False)
class LogisticSolution:
    """One fitted model and how well it was fitted.

    Attributes:
        c: The strength C of the loss; its inverse is the weight decay.
        coefficients: Shape (K, D), float64; K = 1 for two classes (log-odds of the second).
        intercepts: Shape (K,).
        objective: C * sum(loss) + 0.5 * ||coefficients||^2 at the solution.
        gradient_norm: Euclidean norm of its gradient.
        relative_gradient: That norm against the terms that cancel in it; compare with the
            tolerance of `SolverSettings`.
        iterations: Newton steps (L-BFGS iterations for the published variant).
        converged: Whether the tolerance was reached; if not, the solution is the best seen.
    """

    c: float
    coefficients: Floats
    intercepts: Floats
    objective: float
    gradient_norm: float
    relative_gradient: float
    iterations: int
    converged: bool

    def probabilities(self, features: ArrayLike) -> Floats:
        """Class probabilities, shape (N, classes), rows summing to one."""
        logits = np.asarray(features) @ self.coefficients.T + self.intercepts
        if logits.shape[1] == 1:
            logits = np.concatenate([-logits / 2, logits / 2], axis=1)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float64)

    def predict(self, features: ArrayLike) -> NDArray[np.int64]:
        """The likeliest class of each row, shape (N,)."""
        return np.asarray(self.probabilities(features).argmax(axis=1), np.int64)


def published_strengths() -> tuple[float, ...]:
    """The study's 45 values of C in its order: 1 / 10^(-6 + 0.25 i) in float32, 1e6 to 1e-5."""
    decays = np.power(10.0, -6 + 0.25 * np.arange(45)).astype(np.float32)
    return tuple(1 / float(decay) for decay in decays)


def solve_path(
    features: ArrayLike,
    targets: ArrayLike,
    *,
    strengths: Sequence[float],
    weights: ArrayLike | None = None,
    classes: int | None = None,
    settings: SolverSettings | None = None,
) -> list[LogisticSolution]:
    """Fit one model for each C, each from where the next weaker one ended.

    With fewer rows than columns all is done in their own span, which loses nothing: the optimum has
    no part outside it. Memory is one float64 copy of the features plus (classes x D^2) numbers,
    of the lesser side.

    Arguments:
        features: Shape (N, D), float32 or float64, finite.
        targets: Labels 0 .. classes-1, shape (N,), or soft targets, shape (N, classes), rows
            summing to one.
        strengths: Values of C, positive, in any order.
        weights: One non-negative weight for each row, shape (N,).
        classes: How many classes the labels may take (default: the highest label plus one).
        settings: Tolerance and limits.

    Returns:
        The solutions in the order of `strengths`.

    Raises:
        FeatureError: Features of a wrong shape or not finite.
        LabelError: Labels or targets that cannot be fitted: one class only, a class without rows.
        SettingsError: A strength or a weight that is not positive.
    """
    rows = checked_features(features)
    row_weights = _checked_weights(weights, len(rows))
    soft = checked_targets(targets, row_weights, classes)
    ascending(strengths)
    columns = soft[:, 1:] if soft.shape[1] == 2 else soft
    options = settings or SolverSettings()
    mean = rows.mean(axis=0, dtype=np.float64)
    if len(rows) < rows.shape[1]:
        with _blas_threads(len(rows)):
            return _solve_in_span(rows, mean, columns, row_weights, strengths, options)
    design = Design(rows, mean, copy_limit=options.copy_limit)
    walked = _walk_rows(Problem(design, columns, row_weights), strengths, options)
    return [walk.solution(walk.point, mean) for walk in walked]


def _solve_in_span(
    rows: NDArray[np.floating],
    mean: Floats,
    targets: Floats,
    weights: Floats,
    strengths: Sequence[float],
    settings: SolverSettings,
) -> list[LogisticSolution]:
    """By way of the Gram matrix; strengths at which its rounding shows by an orthogonal way."""
    design = Design(rows, mean, copy_limit=8 * rows.size)
    centred, whole = design.centred, Problem(design, targets, weights)
    gram = centred @ centred.T
    if targets.shape[1] == 1:  # of more classes the principal axes were measured to be faster
        landscape = GramLandscape(gram, targets, weights)
        walked = _walk(landscape, targets.shape, strengths, _brief(settings), landscape.easy)
        certified = _certified(walked, centred.T, whole, mean, settings)
    else:
        values, vectors = np.linalg.eigh(gram)
        kept = values > max(values[-1], 0) * len(gram) * np.finfo(float).eps
        spectrum, axes = values[kept], vectors[:, kept] / np.sqrt(values[kept])
        rotated = Problem(_axes(axes * spectrum), targets, weights)
        walked = _walk_rows(rotated, strengths, settings, spectrum)
        certified = _certified(walked, centred.T @ axes, whole, mean, settings)
    missed = [index for index, solution in enumerate(certified) if not solution.converged]
    if missed:
        axes, triangle = np.linalg.qr(centred.T)
        vectors = np.linalg.eigh(triangle @ triangle.T)[1]
        turned = triangle.T @ vectors
        rotated = Problem(_axes(turned), targets, weights)
        left = [strengths[index] for index in missed]
        walked = _walk_rows(rotated, left, settings, (turned**2).sum(axis=0))
        again = _certified(walked, axes @ vectors, whole, mean, settings)
        for index, solution in zip(missed, again, strict=True):
            certified[index] = solution
    return certified


def _axes(rotated: Floats) -> Design:
    return Design(rotated, np.zeros(rotated.shape[1]))


def _brief(settings: SolverSettings) -> SolverSettings:
    """Limits within which float32 either succeeds or should give up: the other way is sure."""
    inner, steps = min(settings.max_inner, 100), min(settings.max_iterations, 25)
    return replace(settings, max_inner=inner, max_iterations=steps)


def _certified(
    walked: Sequence[_Walked], axes: Floats, whole: Problem, mean: Floats, settings: SolverSettings
) -> list[LogisticSolution]:
    """Solutions with objective and gradient as the features themselves give them."""
    duals = np.concatenate([walk.point.theta[:-1].T for walk in walked])
    parts = np.split(duals @ axes.T, len(walked))
    thetas = [
        np.vstack([part.T, walk.point.theta[-1]]) for part, walk in zip(parts, walked, strict=True)
    ]
    points = evaluate_all(whole, thetas, [walk.c for walk in walked])
    solutions = []
    for walk, point in zip(walked, points, strict=True):
        close = point.relative <= 2 * max(settings.tolerance, point.floor)
        solution = replace(walk, converged=walk.converged and close).solution(point, mean)
        solutions.append(solution)
    return solutions


@dataclass(frozen=True, slots=True, eq=False)
class _Walked:
    """Where the path came to at one strength."""

    c: float
    point: Point
    iterations: int
    converged: bool

    def solution(self, point: Point, mean: Floats) -> LogisticSolution:
        """Give it for features as they came; `point` is over all their centred columns."""
        coefficients = point.theta[:-1]
        return LogisticSolution(
            c=self.c,
            coefficients=np.ascontiguousarray(coefficients.T),
            intercepts=point.theta[-1] - mean @ coefficients,
            objective=point.objective,
            gradient_norm=float(np.linalg.norm(point.gradient)),
            relative_gradient=point.relative,
            iterations=self.iterations,
            converged=self.converged,
        )


def _walk_rows(
    problem: Problem,
    strengths: Sequence[float],
    settings: SolverSettings,
    spectrum: Floats | None = None,
) -> list[_Walked]:
    shape = problem.design.columns, problem.targets.shape[1]
    return _walk(RowLandscape(problem, spectrum), shape, strengths, settings, math.inf)


def _walk(
    landscape: Landscape,
    shape: tuple[int, int],
    strengths: Sequence[float],
    settings: SolverSettings,
    easy: float,
) -> list[_Walked]:
    """Solve from the smallest C to the largest.

    Arguments:
        landscape: The objective.
        shape: Of its parameters without the intercepts.
        strengths: Values of C.
        settings: Tolerance and limits.
        easy: A strength that can be solved from zero. Beyond it no stride is longer than a decade:
            rough solutions between lead on, and their steps count.
    """
    trail = _Trail((shape[0] + 1, shape[1]))
    found: dict[int, _Walked] = {}
    rough = replace(settings, tolerance=max(settings.tolerance, 1e-2))
    for index in ascending(strengths):
        c, steps = float(strengths[index]), 0
        for between in [easy][: not found and easy < c] + _between(easy, c):
            point, taken, _ = minimise(landscape, trail.guess(between), between, rough)
            trail.add(between, point.theta)
            steps += taken
        point, taken, converged = minimise(landscape, trail.guess(c), c, settings)
        trail.add(c, point.theta)
        found[index] = _Walked(c, point, steps + taken, converged)
        easy = max(easy, c)
    return [found[index] for index in range(len(strengths))]


def _between(start: float, end: float) -> list[float]:
    """Strengths that part the way from `start` to `end` into strides of at most ten."""
    strides = math.ceil(math.log10(end / start)) if end > start else 0
    return [start * (end / start) ** (stride / strides) for stride in range(1, strides)]


def _blas_threads(rows: int) -> AbstractContextManager[object]:
    """One thread for small matrices: to wake and await a second costs more than it brings."""
    if rows > ONE_THREAD_ROWS:
        return nullcontext()
    limited: AbstractContextManager[object] = _blas().limit(limits=1, user_api="blas")
    return limited


@cache
def _blas() -> ThreadpoolController:
    """The linear algebra libraries of numpy and scipy; to find them takes milliseconds."""
    import scipy.linalg.blas  # noqa: F401 - or its library would not be loaded yet
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def solve(
    features: ArrayLike,
    targets: ArrayLike,
    *,
    c: float,
    weights: ArrayLike | None = None,
    classes: int | None = None,
    settings: SolverSettings | None = None,
) -> LogisticSolution:
    """Fit one C from zero; arguments and errors as in `solve_path`."""
    return solve_path(
        features, targets, strengths=[c], weights=weights, classes=classes, settings=settings
    )[0]


class _Trail:
    """The solutions so far, continued along log C to guess the next one.

    Measured on 45 strengths: 158 Newton steps from the last solution, 107 from a line through the
    last two, 76 from a parabola through three, 72 through four.
    """

    ORDER = 4

    def __init__(self, shape: tuple[int, int]) -> None:
        self._first = np.zeros(shape)
        self._past: list[tuple[float, Floats]] = []

    def guess(self, c: float) -> Floats:
        guess = self._first.copy()
        for strength, theta in self._past:
            others = [other for other, _ in self._past if other != strength]
            share = math.prod(math.log(c / o) / math.log(strength / o) for o in others)
            guess += share * theta
        return guess

    def add(self, c: float, theta: Floats) -> None:
        if not any(math.isclose(c, past) for past, _ in self._past):
            self._past = [*self._past, (c, theta)][-self.ORDER :]


def checked_features(features: ArrayLike) -> NDArray[np.floating]:
    """Features as float32 or float64 rows.

    Raises:
        FeatureError: A wrong shape, or rows that are not finite.
    """
    rows = np.asarray(features)
    if rows.ndim != 2 or not rows.size:
        message = f"features: shape {rows.shape}; give (rows, columns), at least one of each"
        raise FeatureError(message)
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float64)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        message = f"features: {len(bad)} rows are not finite, first row {bad[0]}; leave them out"
        raise FeatureError(message)
    return rows


def _checked_weights(weights: ArrayLike | None, rows: int) -> Floats:
    if weights is None:
        return np.ones(rows)
    checked = np.asarray(weights, np.float64)
    if checked.shape != (rows,) or not np.isfinite(checked).all() or checked.min() < 0:
        message = f"weights: shape {checked.shape}; give {rows} finite numbers, none negative"
        raise SettingsError(message)
    return checked


def checked_targets(targets: ArrayLike, weights: Floats, classes: int | None) -> Floats:
    """Soft targets of shape (N, classes).

    Raises:
        LabelError: What cannot be fitted, such as a class without rows.
    """
    given = np.asarray(targets)
    soft = _one_hot(given, classes) if given.ndim == 1 else np.asarray(given, np.float64)
    if soft.shape[:1] != weights.shape or soft.ndim != 2:
        message = f"targets: shape {given.shape} for {len(weights)} rows of features"
        raise LabelError(message)
    if not np.isfinite(soft).all() or soft.min() < 0 or np.abs(soft.sum(axis=1) - 1).max() > 1e-6:
        message = "targets: rows of soft targets are probabilities, none negative, sum one"
        raise LabelError(message)
    empty = np.flatnonzero(weights @ soft <= 0)
    if soft.shape[1] < 2 or len(empty):
        missing = f"class {empty[0]} has no row" if len(empty) else "there is one class only"
        message = f"targets: {missing}; every class needs a row to be fitted"
        raise LabelError(message)
    return soft


def _one_hot(labels: NDArray[np.generic], classes: int | None) -> Floats:
    if labels.dtype.kind not in "iub" or not labels.size:
        message = f"labels: dtype {labels.dtype}; give integers 0 to classes - 1"
        raise LabelError(message)
    whole = labels.astype(np.int64)
    count = int(whole.max()) + 1 if classes is None else classes
    if whole.min() < 0 or whole.max() >= count:
        message = f"labels: from {whole.min()} to {whole.max()}; allowed are 0 to {count - 1}"
        raise LabelError(message)
    return np.asarray(np.eye(count)[whole], np.float64)


def ascending(strengths: Sequence[float]) -> list[int]:
    """Order from the smallest C, whose solution is nearest to zero.

    Raises:
        SettingsError: No strength, or one that is not positive.
    """
    if not len(strengths) or not all(np.isfinite(c) and c > 0 for c in strengths):
        message = f"strengths: {list(strengths)}; give at least one C, all positive and finite"
        raise SettingsError(message)
    return sorted(range(len(strengths)), key=lambda index: strengths[index])


def choose_strength(strengths: Sequence[float], scores: Sequence[float]) -> int:
    """Index of the best score (higher is better); ties keep the larger C, as in the study.

    Raises:
        SettingsError: Lists of different lengths, or no score that is a number.
    """
    if len(strengths) != len(scores) or not np.isfinite(scores).any():
        message = f"scores: {list(scores)} for {len(strengths)} strengths; give one number for each"
        raise SettingsError(message)
    numbers = np.where(np.isnan(scores), -np.inf, scores)
    return max(range(len(strengths)), key=lambda index: (numbers[index], strengths[index]))
