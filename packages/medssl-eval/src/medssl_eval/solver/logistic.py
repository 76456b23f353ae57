"""L2-regularised logistic regression over a whole path of C, solved to convergence.

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
from medssl_eval.solver.gram import GramObjective
from medssl_eval.solver.newton import (
    Design,
    Problem,
    RowObjective,
    SolverSettings,
    evaluate_all,
    minimise,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    from medssl_eval.solver.newton import Objective, Point

    Floats = NDArray[np.float64]

__all__ = [
    "LogisticSolution",
    "SolverSettings",
    "ascending",
    "checked_features",
    "checked_targets",
    "choose_c",
    "published_cs",
    "solve",
    "solve_path",
]

ONE_THREAD_ROWS = 2048
"""Measured on 2 cores: 0.41 s with one thread against 0.49 s with two for 1,000 rows."""


@dataclass(frozen=True, slots=True, eq=False)
class LogisticSolution:
    """One fitted model and how well it was fitted.

    Args:
        c: Weight C of the loss; its inverse is the weight decay.
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

    @classmethod
    def at(
        cls, point: Point, mean: Floats, *, c: float, iterations: int, converged: bool
    ) -> LogisticSolution:
        """Turn a point over features less their mean, (D,), into a solution for features."""
        coefficients = point.theta[:-1]
        return cls(
            c=c,
            coefficients=np.ascontiguousarray(coefficients.T),
            intercepts=point.theta[-1] - mean @ coefficients,
            objective=point.objective,
            gradient_norm=float(np.linalg.norm(point.gradient)),
            relative_gradient=point.relative,
            iterations=iterations,
            converged=converged,
        )

    def probabilities(self, features: ArrayLike) -> Floats:
        """Compute class probabilities, shape (N, classes), rows summing to one."""
        logits = np.asarray(features) @ self.coefficients.T + self.intercepts
        if logits.shape[1] == 1:
            logits = np.concatenate([-logits / 2, logits / 2], axis=1)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float64)

    def predict(self, features: ArrayLike) -> NDArray[np.int64]:
        """Return the likeliest class of each row, shape (N,)."""
        return np.asarray(self.probabilities(features).argmax(axis=1), np.int64)


def published_cs() -> tuple[float, ...]:
    """Return the study's 45 values of C in its order: 1 / 10^(-6 + 0.25 i) in float32.

    Example:
        >>> [float(f"{c:.1e}") for c in published_cs()[::11]]
        [1000000.0, 1800.0, 3.2, 0.0056, 1e-05]
    """
    decays = np.power(10.0, -6 + 0.25 * np.arange(45)).astype(np.float32)
    return tuple(1 / float(decay) for decay in decays)


def solve_path(
    features: ArrayLike,
    targets: ArrayLike,
    *,
    cs: Sequence[float],
    weights: ArrayLike | None = None,
    classes: int | None = None,
    settings: SolverSettings | None = None,
) -> list[LogisticSolution]:
    """Fit one model for each C, each from where the next weaker one ended.

    With fewer rows than columns all is done in their own span, which loses nothing: the optimum has
    no part outside it. Memory is one float64 copy of the features plus (classes x D^2) numbers,
    of the lesser side.

    Args:
        features: Shape (N, D), float32 or float64, finite.
        targets: Labels 0 .. classes-1, shape (N,), or soft targets, shape (N, classes), rows
            summing to one.
        cs: Values of C, positive, in any order.
        weights: One non-negative weight for each row, shape (N,).
        classes: How many classes the labels may take (default: the highest label plus one).
        settings: Tolerance and limits.

    Returns:
        The solutions in the order of `cs`.

    Raises:
        FeatureError: Features of a wrong shape or not finite.
        LabelError: Labels or targets that cannot be fitted: one class only, a class without rows.
        SettingsError: A C that is not positive, or a weight that is negative.

    Example:
        >>> path = solve_path([[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1], cs=[0.1, 10.0])
        >>> [round(float(solution.coefficients[0, 0]), 3) for solution in path]
        [0.089, 0.815]
    """
    rows = checked_features(features)
    row_weights = _checked_weights(weights, len(rows))
    soft = checked_targets(targets, row_weights, classes)
    ascending(cs)
    columns = soft[:, 1:] if soft.shape[1] == 2 else soft
    options = settings or SolverSettings()
    mean = rows.mean(axis=0, dtype=np.float64)
    if len(rows) < rows.shape[1]:
        with _blas_threads(len(rows)):
            return _solve_in_span(rows, mean, columns, row_weights, cs, options)
    design = Design(rows, mean, copy_limit=options.copy_limit)
    fits = _path_over_rows(Problem(design, columns, row_weights), cs, options)
    return [fit.solution(fit.point, mean) for fit in fits]


def _solve_in_span(
    rows: NDArray[np.floating],
    mean: Floats,
    targets: Floats,
    weights: Floats,
    cs: Sequence[float],
    settings: SolverSettings,
) -> list[LogisticSolution]:
    """Solve by way of the Gram matrix, and by orthogonal axes where its rounding shows."""
    design = Design(rows, mean, copy_limit=8 * rows.size)
    centred, whole = design.centred, Problem(design, targets, weights)
    gram = centred @ centred.T
    if targets.shape[1] == 1:  # of more classes the principal axes were measured to be faster
        objective = GramObjective(gram, targets, weights)
        fits = _path(objective, targets.shape, cs, _limited(settings), objective.easy_c)
        solutions = _verified(fits, centred.T, whole, mean, settings)
    else:
        values, vectors = np.linalg.eigh(gram)
        kept = values > max(values[-1], 0) * len(gram) * np.finfo(float).eps
        spectrum, axes = values[kept], vectors[:, kept] / np.sqrt(values[kept])
        rotated = Problem(_axes(axes * spectrum), targets, weights)
        fits = _path_over_rows(rotated, cs, settings, spectrum)
        solutions = _verified(fits, centred.T @ axes, whole, mean, settings)
    missed = [index for index, solution in enumerate(solutions) if not solution.converged]
    if missed:
        axes, triangle = np.linalg.qr(centred.T)
        vectors = np.linalg.eigh(triangle @ triangle.T)[1]
        turned = triangle.T @ vectors
        rotated = Problem(_axes(turned), targets, weights)
        left = [cs[index] for index in missed]
        fits = _path_over_rows(rotated, left, settings, (turned**2).sum(axis=0))
        again = _verified(fits, axes @ vectors, whole, mean, settings)
        for index, solution in zip(missed, again, strict=True):
            solutions[index] = solution
    return solutions


def _axes(rotated: Floats) -> Design:
    return Design(rotated, np.zeros(rotated.shape[1]))


def _limited(settings: SolverSettings) -> SolverSettings:
    """Set limits within which float32 either succeeds or should give up: the other way is sure."""
    inner, steps = min(settings.max_inner, 100), min(settings.max_iterations, 25)
    return replace(settings, max_inner=inner, max_iterations=steps)


def _verified(
    fits: Sequence[_Fit], axes: Floats, whole: Problem, mean: Floats, settings: SolverSettings
) -> list[LogisticSolution]:
    """Make solutions with objective and gradient as the features themselves give them."""
    duals = np.concatenate([fit.point.theta[:-1].T for fit in fits])
    parts = np.split(duals @ axes.T, len(fits))
    thetas = [
        np.vstack([part.T, fit.point.theta[-1]]) for part, fit in zip(parts, fits, strict=True)
    ]
    points = evaluate_all(whole, thetas, [fit.c for fit in fits])
    solutions = []
    for fit, point in zip(fits, points, strict=True):
        close = point.relative <= 2 * max(settings.tolerance, point.floor)
        solutions.append(replace(fit, converged=fit.converged and close).solution(point, mean))
    return solutions


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """Where the path came to at one C."""

    c: float
    point: Point
    iterations: int
    converged: bool

    def solution(self, point: Point, mean: Floats) -> LogisticSolution:
        """Make the solution of `point`, which is over all centred columns."""
        return LogisticSolution.at(
            point, mean, c=self.c, iterations=self.iterations, converged=self.converged
        )


def _path_over_rows(
    problem: Problem,
    cs: Sequence[float],
    settings: SolverSettings,
    spectrum: Floats | None = None,
) -> list[_Fit]:
    shape = problem.design.columns, problem.targets.shape[1]
    return _path(RowObjective(problem, spectrum), shape, cs, settings, math.inf)


def _path(
    objective: Objective,
    shape: tuple[int, int],
    cs: Sequence[float],
    settings: SolverSettings,
    easy_c: float,
) -> list[_Fit]:
    """Solve from the smallest C to the largest.

    Args:
        objective: The objective.
        shape: Of its parameters without the intercepts.
        cs: Values of C.
        settings: Tolerance and limits.
        easy_c: A C that can be solved from zero. Beyond it no stride is longer than a decade:
            rough solutions between lead on, and their steps count.
    """
    known = _Extrapolation((shape[0] + 1, shape[1]))
    found: dict[int, _Fit] = {}
    rough = replace(settings, tolerance=max(settings.tolerance, 1e-2))
    for index in ascending(cs):
        c, steps = float(cs[index]), 0
        for between in [easy_c][: not found and easy_c < c] + _between(easy_c, c):
            point, taken, _ = minimise(objective, known.guess(between), between, rough)
            known.add(between, point.theta)
            steps += taken
        point, taken, converged = minimise(objective, known.guess(c), c, settings)
        known.add(c, point.theta)
        found[index] = _Fit(c, point, steps + taken, converged)
        easy_c = max(easy_c, c)
    return [found[index] for index in range(len(cs))]


def _between(start: float, end: float) -> list[float]:
    """List values of C that part the way from `start` to `end` into strides of at most ten."""
    strides = math.ceil(math.log10(end / start)) if end > start else 0
    return [start * (end / start) ** (stride / strides) for stride in range(1, strides)]


def _blas_threads(rows: int) -> AbstractContextManager[object]:
    """Take one thread for small matrices: waking a second costs more than it brings."""
    if rows > ONE_THREAD_ROWS:
        return nullcontext()
    limited: AbstractContextManager[object] = _blas().limit(limits=1, user_api="blas")
    return limited


@cache
def _blas() -> ThreadpoolController:
    """Find the linear algebra libraries of numpy and scipy, which takes milliseconds."""
    import scipy.linalg.blas  # noqa: F401 # or its library would not be loaded yet
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
    """Fit one C from zero; arguments and errors as in `solve_path`.

    Example:
        >>> solution = solve([[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1], c=1.0)
        >>> solution.converged, solution.predict([[-1.0], [4.0]]).tolist()
        (True, [0, 1])
    """
    return solve_path(
        features, targets, cs=[c], weights=weights, classes=classes, settings=settings
    )[0]


class _Extrapolation:
    """The solutions so far, continued along log C to guess the next one.

    Measured on 45 values of C: 158 Newton steps from the last solution, 107 from a line through the
    last two, 76 from a parabola through three, 72 through four.
    """

    ORDER = 4

    def __init__(self, shape: tuple[int, int]) -> None:
        self._first = np.zeros(shape)
        self._past: list[tuple[float, Floats]] = []

    def guess(self, c: float) -> Floats:
        guess = self._first.copy()
        for past, theta in self._past:
            others = [other for other, _ in self._past if other != past]
            share = math.prod(math.log(c / o) / math.log(past / o) for o in others)
            guess += share * theta
        return guess

    def add(self, c: float, theta: Floats) -> None:
        if not any(math.isclose(c, past) for past, _ in self._past):
            self._past = [*self._past, (c, theta)][-self.ORDER :]


def checked_features(features: ArrayLike) -> NDArray[np.floating]:
    """Return features as float32 or float64 rows.

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
    """Return soft targets of shape (N, classes).

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


def ascending(cs: Sequence[float]) -> list[int]:
    """Order from the smallest C, whose solution is nearest to zero.

    Raises:
        SettingsError: No C, or one that is not positive.
    """
    if not len(cs) or not all(np.isfinite(c) and c > 0 for c in cs):
        message = f"cs: {list(cs)}; give at least one C, all positive and finite"
        raise SettingsError(message)
    return sorted(range(len(cs)), key=lambda index: cs[index])


def choose_c(cs: Sequence[float], scores: Sequence[float]) -> int:
    """Find the index of the best score (higher is better); ties keep the larger C, as in the study.

    Raises:
        SettingsError: Lists of different lengths, or no score that is a number.

    Example:
        >>> choose_c([0.1, 1.0, 10.0], [0.7, 0.8, 0.8])
        2
    """
    if len(cs) != len(scores) or not np.isfinite(scores).any():
        message = f"scores: {list(scores)} for {len(cs)} values of C; give one number for each"
        raise SettingsError(message)
    numbers = np.where(np.isnan(scores), -np.inf, scores)
    return max(range(len(cs)), key=lambda index: (numbers[index], cs[index]))
