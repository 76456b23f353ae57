"""Truncated Newton for L2-regularised logistic models: one C from one start.

Each step is solved by preconditioned conjugate gradients. Here the parameters are coefficients and
the rows are passed one by one; in `gram` they are weights of the rows. Paths over C are
`logistic`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from medssl_eval.solver.preconditioner import FACTOR_BYTES, Preconditioner, cholesky

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "Design",
    "Objective",
    "Point",
    "Problem",
    "RowObjective",
    "SolverSettings",
    "evaluate",
    "evaluate_all",
    "losses_and_residuals",
    "minimise",
    "relative_floor",
]

TINY = float(np.finfo(float).tiny)
ROUNDING = 8 * float(np.finfo(float).eps)  # a probability is good to a few units of rounding
MAX_HALVINGS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverSettings:
    """When a solution counts as converged, and what it may cost.

    Args:
        tolerance: Bound on the relative gradient (see `Point`). The objective is 1-strongly convex
            in the coefficients, so their relative error is about this at most.
        max_iterations: Newton steps for each C.
        max_inner: Conjugate-gradient steps for each Newton step.
        copy_limit: Largest float64 copy of the features that is kept, in bytes. Beyond it every
            pass converts anew: about three times slower (measured), and no memory.
    """

    tolerance: float = 1e-6
    max_iterations: int = 100
    max_inner: int = 500
    copy_limit: int = 2**31


class Design:
    """Rows of features, centred, served in float64 blocks.

    Args:
        features: Rows, shape (N, D), float32 or float64.
        mean: What is subtracted from each row, shape (D,), float64.
        copy_limit: See `SolverSettings`.
    """

    BLOCK_BYTES = 2**21  # measured: the block is still in the cache when it is used again

    def __init__(
        self, features: NDArray[np.floating], mean: Floats, *, copy_limit: int = 2**31
    ) -> None:
        self.rows, self.columns = features.shape
        self._step = max(64, self.BLOCK_BYTES // (8 * max(1, self.columns)))
        self._mean = mean
        self._centred: Floats | None = None
        self._features = features
        if 8 * features.size <= copy_limit:
            self._centred = np.subtract(features, mean, dtype=np.float64)
        self.squares = np.concatenate([np.einsum("nd,nd->n", b, b) for _, b in self.blocks()])

    @property
    def centred(self) -> Floats:
        """Return all centred rows, shape (N, D)."""
        kept = self._centred
        return kept if kept is not None else self._features - self._mean

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Yield slices of the rows, each with its centred block, shape (n, D)."""
        for start in range(0, self.rows, self._step):
            rows = slice(start, min(start + self._step, self.rows))
            if self._centred is None:
                yield rows, np.subtract(self._features[rows], self._mean, dtype=np.float64)
            else:
                yield rows, self._centred[rows]


@dataclass(frozen=True, slots=True)
class Problem:
    """A design with its targets.

    Args:
        design: The centred rows.
        targets: Shape (N, K) in [0, 1]. K = 1 is the binary form (probability of the second
            class), K > 1 the multinomial one (rows sum to one).
        weights: Shape (N,), not negative.
    """

    design: Design
    targets: Floats
    weights: Floats


@dataclass(frozen=True, slots=True)
class Point:
    """Objective and derivatives at one vector of parameters.

    Args:
        theta: Coefficients with the intercepts as last row, shape (D + 1, K).
        objective: C * sum(loss) + 0.5 * ||coefficients||^2.
        gradient: Shape (D + 1, K).
        probabilities: Shape (N, K).
        residuals: Probabilities minus targets, times the weights, shape (N, K).
        relative: The gradient divided by the size of the terms that cancel in it: coefficients
            against C times the pull of the data, and residuals among themselves (intercepts).
        floor: The relative gradient that rounding alone can leave.
    """

    theta: Floats
    objective: float
    gradient: Floats
    probabilities: Floats
    residuals: Floats
    relative: float
    floor: float


def _binary(logits: Floats, targets: Floats) -> tuple[Floats, Floats, Floats]:
    """Compute losses, residuals and probabilities without cancellation where a prediction is sure.

    All have the shape of the logits, whose columns need not belong together.
    """
    tail = np.exp(-np.abs(logits))
    positive = logits > 0
    losses = np.log1p(tail) + np.where(positive, (1 - targets) * logits, -targets * logits)
    low, high = tail / (1 + tail), 1 / (1 + tail)
    probabilities = np.where(positive, high, low)
    residuals = (1 - targets) * probabilities - targets * np.where(positive, low, high)
    return losses, residuals, probabilities


def _multinomial(logits: Floats, targets: Floats) -> tuple[Floats, Floats, Floats]:
    """Do the same for the softmax; the likeliest class is kept apart, so that 1 - p stays exact."""
    rows, top = np.arange(len(logits)), logits.argmax(axis=1)
    shifted = logits - logits[rows, top][:, None]
    exponentials = np.exp(shifted)
    exponentials[rows, top] = 0
    others = exponentials.sum(axis=1)
    probabilities = exponentials / (1 + others)[:, None]
    residuals = probabilities - targets
    chosen = targets[rows, top]
    probabilities[rows, top] = 1 / (1 + others)
    residuals[rows, top] = ((1 - chosen) - chosen * others) / (1 + others)
    losses = np.log1p(others) - np.einsum("nk,nk->n", targets, shifted)
    return losses, residuals, probabilities


def losses_and_residuals(logits: Floats, targets: Floats) -> tuple[Floats, Floats, Floats]:
    """Compute losses (N,), residuals (N, K) and probabilities (N, K) of logits (N, K)."""
    if logits.shape[1] > 1:
        return _multinomial(logits, targets)
    losses, residuals, probabilities = _binary(logits, targets)
    return losses[:, 0], residuals, probabilities


def evaluate(problem: Problem, theta: Floats, c: float) -> Point:
    """Evaluate the objective and its gradient at `theta`, in one pass over the rows."""
    pull = np.zeros_like(theta)
    probabilities, residuals = np.empty_like(problem.targets), np.empty_like(problem.targets)
    loss = 0.0
    for rows, block in problem.design.blocks():
        logits = block @ theta[:-1] + theta[-1]
        losses, remains, probabilities[rows] = losses_and_residuals(logits, problem.targets[rows])
        remains *= problem.weights[rows, None]
        loss += float(losses @ problem.weights[rows])
        pull[:-1] += block.T @ remains
        residuals[rows] = remains
    return _point(problem, theta, c, loss, pull[:-1], probabilities, residuals)


def evaluate_all(problem: Problem, thetas: Sequence[Floats], cs: Sequence[float]) -> list[Point]:
    """Evaluate at many vectors of parameters, each with its C, in one pass together."""
    classes = problem.targets.shape[1]
    owns = [slice(start, start + classes) for start in range(0, classes * len(thetas), classes)]
    stacked = np.concatenate(thetas, axis=1)
    losses = np.zeros(len(thetas))
    pulls = np.zeros((stacked.shape[1], problem.design.columns))  # a parameter vector is contiguous
    residuals = np.empty((problem.design.rows, stacked.shape[1]))
    probabilities = np.empty_like(residuals)
    for rows, block in problem.design.blocks():
        logits, targets = block @ stacked[:-1] + stacked[-1], problem.targets[rows]
        if classes == 1:
            found = [_binary(logits, targets)]
        else:
            found = [_multinomial(logits[:, own], targets) for own in owns]
        losses += problem.weights[rows] @ np.column_stack([each[0] for each in found])
        remains = np.concatenate([each[1] for each in found], axis=1)
        residuals[rows] = remains * problem.weights[rows, None]
        probabilities[rows] = np.concatenate([each[2] for each in found], axis=1)
        pulls += residuals[rows].T @ block
    return [
        _point(problem, theta, c, loss, pulls[own].T, probabilities[:, own], residuals[:, own])
        for theta, c, loss, own in zip(thetas, cs, losses.tolist(), owns, strict=True)
    ]


def _point(
    problem: Problem,
    theta: Floats,
    c: float,
    loss: float,
    pull: Floats,
    probabilities: Floats,
    residuals: Floats,
) -> Point:
    """Put together what a pass over the rows has summed."""
    tilt, size = residuals.sum(axis=0), float(np.abs(residuals).sum())
    gradient = np.vstack([theta[:-1] + c * pull, c * tilt])
    norm = float(np.linalg.norm(theta[:-1]))
    scale = max(norm, c * float(np.linalg.norm(pull)), TINY)
    slope = float(np.linalg.norm(gradient[:-1])) / scale
    noise = float(np.sqrt(problem.weights**2 @ problem.design.squares))
    return Point(
        theta=theta,
        objective=c * loss + norm**2 / 2,
        gradient=gradient,
        probabilities=probabilities,
        residuals=residuals,
        relative=max(slope, float(np.abs(tilt).max()) / max(size, TINY)),
        floor=relative_floor(c * noise / scale, problem.weights, size),
    )


def relative_floor(noise: float, weights: Floats, size: float) -> float:
    """Compute the relative gradient that rounding alone can leave.

    Args:
        noise: What one unit of rounding in each residual adds to the gradient, against its scale.
        weights: Of the rows, shape (N,).
        size: Sum of the absolute residuals.
    """
    return ROUNDING * max(noise, float(weights.sum()) / max(size, TINY))


def forcing_term(point: Point, settings: SolverSettings) -> float:
    """Compute how far a Newton step must reduce its residual: near the optimum it pays to be exact.

    References:
        Dembo, Eisenstat and Steihaug, Inexact Newton methods, 1982.
    """
    return min(0.1, max(point.relative, 0.3 * settings.tolerance / point.relative))


def _residual_change(probabilities: Floats, change: Floats) -> Floats:
    """Compute the change of the residuals that a change of the logits brings, shape (n, K)."""
    weighted: Floats = probabilities * change
    if probabilities.shape[1] == 1:
        return np.asarray(weighted * (1 - probabilities), np.float64)
    return np.asarray(weighted - probabilities * weighted.sum(axis=1, keepdims=True), np.float64)


def _hessian_product(problem: Problem, point: Point, direction: Floats, c: float) -> Floats:
    """Multiply the Hessian at `point` by `direction`, shape (D + 1, K), in one pass."""
    product = np.zeros_like(direction)
    for rows, block in problem.design.blocks():
        change = block @ direction[:-1] + direction[-1]
        residuals = _residual_change(point.probabilities[rows], change)
        residuals *= problem.weights[rows, None]
        product[:-1] += block.T @ residuals
        product[-1] += residuals.sum(axis=0)
    product *= c
    product[:-1] += direction[:-1]
    return product


class Objective(Protocol):
    """What is minimised over some parameters, and its Newton steps."""

    def evaluate(self, theta: Floats, c: float) -> Point:
        """Evaluate the objective and its derivatives at `theta`."""

    def step(self, point: Point, c: float, settings: SolverSettings) -> Floats:
        """Solve Hessian x step = -gradient as accurately as the distance from the optimum asks."""


@dataclass(frozen=True, slots=True)
class RowObjective:
    """The objective over coefficients with the intercepts as last row, shape (D + 1, K).

    Args:
        problem: Rows and targets.
        spectrum: Squared singular values of the design where its columns are principal axes, shape
            (D,). Then the first preconditioner is diagonal; it takes the curvature as equal for
            all rows.
    """

    problem: Problem
    spectrum: Floats | None = None
    _preconditioner: Preconditioner[np.float64] = field(default_factory=Preconditioner)

    def evaluate(self, theta: Floats, c: float) -> Point:
        """Evaluate the objective and its derivatives at `theta`."""
        return evaluate(self.problem, theta, c)

    def step(self, point: Point, c: float, settings: SolverSettings) -> Floats:
        """Compute a Newton step by conjugate gradients."""
        preconditioner, spectrum = self._preconditioner, self.spectrum
        diagonal = None if spectrum is None else lambda: self._diagonal(point, c, spectrum)
        preconditioner.prepare(self._cost(), lambda: self._factors(point, c), diagonal)
        step, residual = np.zeros_like(point.theta), -point.gradient
        solved = preconditioner.solve(residual.T).T
        direction, inner = solved.copy(), float(np.vdot(residual, solved))
        goal = inner * forcing_term(point, settings) ** 2
        count = 0
        while count < settings.max_inner:
            count += 1
            product = _hessian_product(self.problem, point, direction, c)
            curvature = float(np.vdot(direction, product))
            if not curvature > 0:
                break
            length = inner / curvature
            step += length * direction
            residual -= length * product
            solved = preconditioner.solve(residual.T).T
            previous, inner = inner, float(np.vdot(residual, solved))
            if inner <= goal:
                break
            direction = solved + inner / previous * direction
        preconditioner.account(count)
        return step if step.any() else direction

    def _cost(self) -> float:
        """Estimate new factors in conjugate-gradient steps (measured on 1 core: 30 to 100)."""
        size, classes = self.problem.design.columns, int(self.problem.targets.shape[1])
        return float((size + size**2 / self.problem.design.rows) / 20 * min(classes, 2))

    def _curvature(self, point: Point) -> Floats:
        spread = point.probabilities * (1 - point.probabilities)
        return np.asarray(spread * self.problem.weights[:, None], np.float64)

    def _diagonal(self, point: Point, c: float, spectrum: Floats) -> list[Floats]:
        curvature = self._curvature(point)
        scaled = 1 + c * np.outer(curvature.mean(axis=0), spectrum)
        last = c * curvature.sum(axis=0) + TINY**0.5
        return list(np.sqrt(np.column_stack([scaled, last])))

    def _factors(self, point: Point, c: float) -> list[Floats]:
        curvature = self._curvature(point)
        if 8 * curvature.shape[1] * self.problem.design.columns**2 > FACTOR_BYTES:
            curvature = curvature.mean(axis=1, keepdims=True)
        return [_factor(self.problem.design, column, c) for column in curvature.T]


def _factor(design: Design, weights: Floats, c: float) -> Floats:
    """Factorise I + c * X^T diag(weights) X with its border for the intercept."""
    size = design.columns
    hessian = np.zeros((size + 1, size + 1))
    root = np.sqrt(c * weights)
    for rows, block in design.blocks():
        scaled = block * root[rows, None]
        hessian[:size, :size] += scaled.T @ scaled
        hessian[size, :size] += root[rows] @ scaled
    hessian[:size, size] = hessian[size, :size]
    hessian[size, size] = c * weights.sum()
    diagonal = np.einsum("ii->i", hessian)
    diagonal[:size] += 1
    # the intercept has no penalty: where all predictions are sure nothing else keeps it positive
    diagonal[size] = diagonal[size] * (1 + 1e-10) + TINY**0.5
    return np.asarray(cholesky(hessian.T), np.float64)


def _line_search(objective: Objective, point: Point, step: Floats, c: float) -> Point | None:
    """Find the first halving of the step that lowers the objective; None when none does."""
    slope = float(np.vdot(point.gradient, step))
    slack = ROUNDING * abs(point.objective)
    length = 1.0
    for _ in range(MAX_HALVINGS):
        trial = objective.evaluate(point.theta + length * step, c)
        # where the objective drowns in rounding the gradient still says which point is nearer
        if trial.relative <= 0.5 * point.relative and length == 1:
            return trial
        if trial.objective <= point.objective + 1e-4 * length * slope + slack:
            return trial
        length /= 2
    return None


def minimise(
    objective: Objective, start: Floats, c: float, settings: SolverSettings
) -> tuple[Point, int, bool]:
    """Minimise C * sum(loss) + 0.5 * ||coefficients||^2 from `start`.

    Args:
        objective: What it keeps of one C serves the next.
        start: Its parameters, with the intercepts as last row.
        c: C of the loss.
        settings: Tolerance and limits.

    Returns:
        The last point, the Newton steps taken, and whether the tolerance (or the floor that
        rounding sets) was reached.
    """
    point = objective.evaluate(start, c)
    for iteration in range(settings.max_iterations + 1):
        if point.relative <= max(settings.tolerance, point.floor):
            return point, iteration, True
        if iteration == settings.max_iterations:
            break
        step = objective.step(point, c, settings)
        trial = _line_search(objective, point, step, c)
        if trial is None:
            return point, iteration, False
        point = trial
    return point, settings.max_iterations, False
