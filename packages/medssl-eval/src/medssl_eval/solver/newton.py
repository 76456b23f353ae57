"""Truncated Newton for L2-regularised logistic models: one strength C from one start.

Curvature is met by preconditioned conjugate gradients. Here is the way over coefficients, row by
row; `gram` has the way over the rows' weights. Paths and classes are not known here.
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
    "Landscape",
    "Point",
    "Problem",
    "RowLandscape",
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

    Attributes:
        tolerance: Bound on the relative gradient (see `Point`). The objective is 1-strongly convex
            in the coefficients, so their relative error is about this at most.
        max_iterations: Newton steps for each strength.
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

    Arguments:
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
        """All centred rows, shape (N, D)."""
        kept = self._centred
        return kept if kept is not None else self._features - self._mean

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Slices of the rows, each with its centred block, shape (n, D)."""
        for start in range(0, self.rows, self._step):
            rows = slice(start, min(start + self._step, self.rows))
            if self._centred is None:
                yield rows, np.subtract(self._features[rows], self._mean, dtype=np.float64)
            else:
                yield rows, self._centred[rows]


@dataclass(frozen=True, slots=True)
class Problem:
    """A design with its targets.

    Attributes:
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

    Attributes:
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
    """Losses, residuals and probabilities, without cancellation where a prediction is sure.

    All of the shape of the logits, whose columns need not belong together.
    """
    tail = np.exp(-np.abs(logits))
    positive = logits > 0
    losses = np.log1p(tail) + np.where(positive, (1 - targets) * logits, -targets * logits)
    low, high = tail / (1 + tail), 1 / (1 + tail)
    probabilities = np.where(positive, high, low)
    residuals = (1 - targets) * probabilities - targets * np.where(positive, low, high)
    return losses, residuals, probabilities


def _multinomial(logits: Floats, targets: Floats) -> tuple[Floats, Floats, Floats]:
    """The same for the softmax; the likeliest class is kept apart, so that 1 - p stays exact."""
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
    """Losses (N,), residuals (N, K) and probabilities (N, K) of logits (N, K)."""
    if logits.shape[1] > 1:
        return _multinomial(logits, targets)
    losses, residuals, probabilities = _binary(logits, targets)
    return losses[:, 0], residuals, probabilities


def evaluate(problem: Problem, theta: Floats, c: float) -> Point:
    """Objective and gradient at `theta`, in one pass over the rows."""
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


def evaluate_all(
    problem: Problem, thetas: Sequence[Floats], strengths: Sequence[float]
) -> list[Point]:
    """The same at many vectors of parameters, each with its C, in one pass together."""
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
        for theta, c, loss, own in zip(thetas, strengths, losses.tolist(), owns, strict=True)
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
    """The relative gradient that rounding alone can leave.

    Arguments:
        noise: What one unit of rounding in each residual adds to the gradient, against its scale.
        weights: Of the rows, shape (N,).
        size: Sum of the absolute residuals.
    """
    return ROUNDING * max(noise, float(weights.sum()) / max(size, TINY))


def _bend(probabilities: Floats, change: Floats) -> Floats:
    """Change of the residuals that a change of the logits brings, shape (n, K)."""
    weighted: Floats = probabilities * change
    if probabilities.shape[1] == 1:
        return np.asarray(weighted * (1 - probabilities), np.float64)
    return np.asarray(weighted - probabilities * weighted.sum(axis=1, keepdims=True), np.float64)


def _curvature(problem: Problem, point: Point, direction: Floats, c: float) -> Floats:
    """The Hessian at `point` times `direction`, shape (D + 1, K), in one pass."""
    product = np.zeros_like(direction)
    for rows, block in problem.design.blocks():
        change = block @ direction[:-1] + direction[-1]
        bend = _bend(point.probabilities[rows], change) * problem.weights[rows, None]
        product[:-1] += block.T @ bend
        product[-1] += bend.sum(axis=0)
    product *= c
    product[:-1] += direction[:-1]
    return product


class Landscape(Protocol):
    """What is minimised: an objective over some parameters, and its Newton steps."""

    def evaluate(self, theta: Floats, c: float) -> Point:
        """Objective and derivatives at `theta`."""

    def step(self, point: Point, c: float, settings: SolverSettings) -> Floats:
        """Solve Hessian x step = -gradient so well as the distance from the optimum deserves."""


@dataclass(frozen=True, slots=True)
class RowLandscape:
    """The objective over coefficients with the intercepts as last row, shape (D + 1, K).

    Attributes:
        problem: Rows and targets.
        spectrum: Squared singular values of the design where its columns are principal axes, shape
            (D,). Then the first preconditioner is diagonal; it takes the curvature as equal for
            all rows.
    """

    problem: Problem
    spectrum: Floats | None = None
    _memory: Preconditioner[np.float64] = field(default_factory=Preconditioner)

    def evaluate(self, theta: Floats, c: float) -> Point:
        """Objective and derivatives at `theta`."""
        return evaluate(self.problem, theta, c)

    def step(self, point: Point, c: float, settings: SolverSettings) -> Floats:
        """A Newton step, by conjugate gradients."""
        memory = self._memory
        cheap = None if self.spectrum is None else lambda: self._diagonal(point, c)
        memory.prepare(self._price(), lambda: self._factors(point, c), cheap)
        target = min(0.1, max(point.relative, 0.3 * settings.tolerance / point.relative))
        step, residual = np.zeros_like(point.theta), -point.gradient
        solved = memory.solve(residual.T).T
        direction, inner = solved.copy(), float(np.vdot(residual, solved))
        goal = inner * target**2
        for steps in range(1, settings.max_inner + 1):  # noqa: B007 - read after the loop
            product = _curvature(self.problem, point, direction, c)
            bend = float(np.vdot(direction, product))
            if not bend > 0:
                break
            length = inner / bend
            step += length * direction
            residual -= length * product
            solved = memory.solve(residual.T).T
            previous, inner = inner, float(np.vdot(residual, solved))
            if inner <= goal:
                break
            direction = solved + inner / previous * direction
        memory.account(steps)
        return step if step.any() else direction

    def _price(self) -> float:
        """What a renewal costs, in conjugate-gradient steps (measured on 1 core: 30 to 100)."""
        size, classes = self.problem.design.columns, int(self.problem.targets.shape[1])
        return float((size + size**2 / self.problem.design.rows) / 20 * min(classes, 2))

    def _curvature(self, point: Point) -> Floats:
        spread = point.probabilities * (1 - point.probabilities)
        return np.asarray(spread * self.problem.weights[:, None], np.float64)

    def _diagonal(self, point: Point, c: float) -> list[Floats]:
        curvature, spectrum = self._curvature(point), self.spectrum
        assert spectrum is not None  # noqa: S101 - asked for only where there is one
        scaled = 1 + c * np.outer(curvature.mean(axis=0), spectrum)
        last = c * curvature.sum(axis=0) + TINY**0.5
        return list(np.sqrt(np.column_stack([scaled, last])))

    def _factors(self, point: Point, c: float) -> list[Floats]:
        curvature = self._curvature(point)
        if 8 * curvature.shape[1] * self.problem.design.columns**2 > FACTOR_BYTES:
            curvature = curvature.mean(axis=1, keepdims=True)
        return [_factor(self.problem.design, column, c) for column in curvature.T]


def _factor(design: Design, weights: Floats, c: float) -> Floats:
    """Cholesky factor of I + c * X^T diag(weights) X with its border for the intercept."""
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


def _line_search(landscape: Landscape, point: Point, step: Floats, c: float) -> Point | None:
    """The first halving of the step that lowers the objective; None when none does."""
    slope = float(np.vdot(point.gradient, step))
    slack = ROUNDING * abs(point.objective)
    length = 1.0
    for _ in range(MAX_HALVINGS):
        trial = landscape.evaluate(point.theta + length * step, c)
        # where the objective drowns in rounding the gradient still says which point is nearer
        if trial.relative <= 0.5 * point.relative and length == 1:
            return trial
        if trial.objective <= point.objective + 1e-4 * length * slope + slack:
            return trial
        length /= 2
    return None


def minimise(
    landscape: Landscape, start: Floats, c: float, settings: SolverSettings
) -> tuple[Point, int, bool]:
    """Minimise C * sum(loss) + 0.5 * ||coefficients||^2 from `start`.

    Arguments:
        landscape: The objective; what it keeps of one strength serves the next.
        start: Its parameters, with the intercepts as last row.
        c: The strength C.
        settings: Tolerance and limits.

    Returns:
        The last point, the Newton steps taken, and whether the tolerance (or the floor that
        rounding sets) was reached.
    """
    point = landscape.evaluate(start, c)
    for iteration in range(settings.max_iterations + 1):
        if point.relative <= max(settings.tolerance, point.floor):
            return point, iteration, True
        if iteration == settings.max_iterations:
            break
        step = landscape.step(point, c, settings)
        trial = _line_search(landscape, point, step, c)
        if trial is None:
            return point, iteration, False
        point = trial
    return point, settings.max_iterations, False
