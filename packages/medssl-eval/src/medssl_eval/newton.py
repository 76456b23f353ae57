"""Truncated Newton for L2-regularised logistic models: one strength C from one start.

Curvature is met by conjugate gradients, preconditioned with a Cholesky factor that is renewed only
when it has become dear. Rows are centred float64; paths and classes are not known here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Design", "Point", "Preconditioner", "Problem", "SolverSettings", "evaluate", "minimise"]

TINY = float(np.finfo(float).tiny)
ROUNDING = 8 * float(np.finfo(float).eps)  # a probability is good to a few units of rounding
MAX_HALVINGS = 40
FACTOR_BYTES = 2**29  # above it all classes share one preconditioner of averaged curvature


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
        self.squares = np.concatenate([(b * b).sum(axis=1) for _, b in self.blocks()])

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
        relative: The gradient divided by the size of the terms that cancel in it: coefficients
            against C times the pull of the data, and residuals among themselves (intercepts).
        floor: The relative gradient that rounding alone can leave.
    """

    theta: Floats
    objective: float
    gradient: Floats
    probabilities: Floats
    relative: float
    floor: float


def _binary(logits: Floats, targets: Floats) -> tuple[Floats, Floats, Floats]:
    """Losses, residuals and probabilities, without cancellation where a prediction is sure."""
    tail = np.exp(-np.abs(logits))
    positive = logits > 0
    losses = np.log1p(tail) + np.where(positive, (1 - targets) * logits, -targets * logits)
    low, high = tail / (1 + tail), 1 / (1 + tail)
    probabilities = np.where(positive, high, low)
    residuals = (1 - targets) * probabilities - targets * np.where(positive, low, high)
    return losses[:, 0], residuals, probabilities


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


def evaluate(problem: Problem, theta: Floats, c: float) -> Point:
    """Objective and gradient at `theta`, in one pass over the rows."""
    family = _binary if theta.shape[1] == 1 else _multinomial
    pull, probabilities = np.zeros_like(theta), np.empty_like(problem.targets)
    loss = size = 0.0
    for rows, block in problem.design.blocks():
        weights = problem.weights[rows]
        logits = block @ theta[:-1] + theta[-1]
        losses, residuals, probabilities[rows] = family(logits, problem.targets[rows])
        residuals *= weights[:, None]
        loss += float(losses @ weights)
        size += float(np.abs(residuals).sum())
        pull[:-1] += block.T @ residuals
        pull[-1] += residuals.sum(axis=0)
    gradient = c * pull
    gradient[:-1] += theta[:-1]
    norm = float(np.linalg.norm(theta[:-1]))
    scale = max(norm, c * float(np.linalg.norm(pull[:-1])), TINY)
    slope = float(np.linalg.norm(gradient[:-1])) / scale
    tilt = float(np.abs(pull[-1]).max()) / max(size, TINY)
    noise = float(np.sqrt(problem.weights**2 @ problem.design.squares))
    floor = ROUNDING * max(c * noise / scale, float(problem.weights.sum()) / max(size, TINY))
    return Point(theta, c * loss + norm**2 / 2, gradient, probabilities, max(slope, tilt), floor)


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


@dataclass(slots=True)
class Preconditioner:
    """Inverses of the Hessian's diagonal blocks, one a class, taken at some earlier point.

    They are handed from one strength to the next and renewed by the rule of optimal replacement:
    when the last solve cost more than the average since the renewal, the renewal's price included.

    Attributes:
        spectrum: Squared singular values of the design where its columns are principal axes, shape
            (D,). Then the first preconditioner is diagonal and free; it takes the curvature as
            equal for all rows.
    """

    spectrum: Floats | None = None
    _inverses: list[Floats] = field(default_factory=list)
    _solves: int = 0
    _spent: float = 0.0
    _last: int = 0
    _diagonal: Floats | None = None

    def prepare(self, problem: Problem, point: Point, c: float) -> None:
        """Follow the point, by a new factor where it pays."""
        curvature = point.probabilities * (1 - point.probabilities) * problem.weights[:, None]
        first = not self._solves
        if not first:
            price = _price(problem) * (1 if curvature.shape[1] == 1 else 2)
            worn = self._last > (price + self._spent) / self._solves
        if self.spectrum is not None and (first or not (self._inverses or worn)):
            scaled = 1 + c * np.outer(self.spectrum, curvature.mean(axis=0))
            self._diagonal = 1 / np.vstack([scaled, c * curvature.sum(axis=0) + TINY**0.5])
        elif first or worn:
            self._renew(problem.design, curvature, c)

    def _renew(self, design: Design, curvature: Floats, c: float) -> None:
        if 8 * curvature.shape[1] * design.columns**2 > FACTOR_BYTES:
            curvature = curvature.mean(axis=1, keepdims=True)
        self._inverses = [_inverse(design, column, c) for column in curvature.T]
        self._solves, self._spent = 0, 0.0

    def solve(self, residual: Floats) -> Floats:
        """Apply the inverse to each column, shape (D + 1, K)."""
        if not self._inverses:
            return residual if self._diagonal is None else self._diagonal * residual
        columns = residual.shape[1]
        inverses = self._inverses if len(self._inverses) == columns else self._inverses * columns
        solved = [inverse @ residual[:, k] for k, inverse in enumerate(inverses)]
        return np.stack(solved, axis=1)

    def account(self, inner: int) -> None:
        """Note what a solve cost."""
        self._last, self._solves, self._spent = inner, self._solves + 1, self._spent + inner


def _price(problem: Problem) -> float:
    """What a renewal costs, in conjugate-gradient steps (measured on 1 core: 30 to 100)."""
    size = problem.design.columns
    return float((size + size**2 / problem.design.rows) / 20)


def _inverse(design: Design, weights: Floats, c: float) -> Floats:
    """Inverse of I + c * X^T diag(weights) X with its border for the intercept.

    Explicit, because a triangular solve with one right-hand side was measured to be eight times
    slower than a product, and a preconditioner need not be exact.
    """
    from scipy.linalg.lapack import dpotrf, dpotri  # noqa: PLC0415 - heavy, one caller

    size = design.columns
    hessian = np.zeros((size + 1, size + 1))
    root = np.sqrt(c * weights)
    for rows, block in design.blocks():
        scaled = block * root[rows, None]
        hessian[:size, :size] += scaled.T @ scaled
        hessian[size, :size] += root[rows] @ scaled
    hessian[size, size] = c * weights.sum()
    diagonal = np.einsum("ii->i", hessian)
    diagonal[:size] += 1
    # the intercept has no penalty: where all predictions are sure nothing else keeps it positive
    diagonal[size] = diagonal[size] * (1 + 1e-10) + TINY**0.5
    factor, failed = dpotrf(hessian, lower=True, clean=False)
    if failed:
        return np.diag(1 / np.maximum(diagonal, TINY**0.5))
    inverse = np.tril(dpotri(factor, lower=True)[0])
    return np.asarray(inverse + np.tril(inverse, -1).T, np.float64)


def _newton_step(
    problem: Problem, point: Point, c: float, memory: Preconditioner, settings: SolverSettings
) -> Floats:
    """Solve Hessian x step = -gradient so well as the distance from the optimum deserves."""
    memory.prepare(problem, point, c)
    target = min(0.1, max(point.relative, 0.3 * settings.tolerance / point.relative))
    step, residual = np.zeros_like(point.theta), -point.gradient
    solved = memory.solve(residual)
    direction, inner = solved.copy(), float(np.vdot(residual, solved))
    goal = inner * target**2
    for steps in range(1, settings.max_inner + 1):  # noqa: B007 - read after the loop
        product = _curvature(problem, point, direction, c)
        bend = float(np.vdot(direction, product))
        if not bend > 0:
            break
        length = inner / bend
        step += length * direction
        residual -= length * product
        solved = memory.solve(residual)
        previous, inner = inner, float(np.vdot(residual, solved))
        if inner <= goal:
            break
        direction = solved + inner / previous * direction
    memory.account(steps)
    return step if step.any() else direction


def _line_search(problem: Problem, point: Point, step: Floats, c: float) -> Point | None:
    """The first halving of the step that lowers the objective; None when none does."""
    slope = float(np.vdot(point.gradient, step))
    slack = ROUNDING * abs(point.objective)
    length = 1.0
    for _ in range(MAX_HALVINGS):
        trial = evaluate(problem, point.theta + length * step, c)
        # where the objective drowns in rounding the gradient still says which point is nearer
        if trial.relative <= 0.5 * point.relative and length == 1:
            return trial
        if trial.objective <= point.objective + 1e-4 * length * slope + slack:
            return trial
        length /= 2
    return None


def minimise(
    problem: Problem, start: Floats, c: float, memory: Preconditioner, settings: SolverSettings
) -> tuple[Point, int, bool]:
    """Minimise C * sum(loss) + 0.5 * ||coefficients||^2 from `start`.

    Arguments:
        problem: Centred rows and targets.
        start: Coefficients with intercepts as last row, shape (D + 1, K).
        c: The strength C.
        memory: Preconditioner of the path, changed in place.
        settings: Tolerance and limits.

    Returns:
        The last point, the Newton steps taken, and whether the tolerance (or the floor that
        rounding sets) was reached.
    """
    point = evaluate(problem, start, c)
    for iteration in range(settings.max_iterations + 1):
        if point.relative <= max(settings.tolerance, point.floor):
            return point, iteration, True
        if iteration == settings.max_iterations:
            break
        step = _newton_step(problem, point, c, memory, settings)
        trial = _line_search(problem, point, step, c)
        if trial is None:
            return point, iteration, False
        point = trial
    return point, settings.max_iterations, False
