"""The step of truncated Newton where rows are fewer than columns: all in the Gram matrix of rows.

The optimum is a weighted sum of the rows, w = X^T a, so one number a row and class is sought, and a
product with X and one with its transpose become one with the small matrix G = X X^T.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.newton import FACTOR_BYTES, TINY, Point, losses_and_residuals, rounding_floor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medssl_eval.newton import SolverSettings

    Floats = NDArray[np.float64]

__all__ = ["GramLandscape"]


@dataclass(slots=True)
class GramLandscape:
    """The objective over (a, intercepts), and its Newton steps.

    With W = R R^T the curvature of the losses, a step solves (I + c R^T G R) u = right-hand side by
    conjugate gradients under the constraint that the intercepts have no slope; then the change of
    a is R u - (a + c * residuals).

    Attributes:
        gram: Inner products of the centred rows, shape (N, N).
        targets: Shape (N, K), as in `newton.Problem`.
        weights: Shape (N,), not negative.

    References:
        Rasmussen and Williams, Gaussian processes for machine learning, 2006, chapter 3 (the
        symmetric form); Gould, Hribar and Nocedal, 2001 (constraints in conjugate gradients).
    """

    gram: Floats
    targets: Floats
    weights: Floats
    _memory: _Factors = field(init=False)

    def __post_init__(self) -> None:
        self._memory = _Factors(self.gram)

    def evaluate(self, theta: Floats, c: float) -> Point:
        """Objective and derivatives; `theta` is (N + 1, K), the intercepts as last row."""
        dual, intercepts = theta[:-1], theta[-1]
        image = self.gram @ dual
        losses, residuals, probabilities = losses_and_residuals(image + intercepts, self.targets)
        residuals *= self.weights[:, None]
        loss, size = float(losses @ self.weights), float(np.abs(residuals).sum())
        tilt = residuals.sum(axis=0)
        rest = dual + c * residuals
        slopes = self.gram @ rest
        # Squared norms of w, of its gradient, and of what pulls against w.
        square, steep = float(np.vdot(dual, image)), float(np.vdot(rest, slopes))
        pull = square - 2 * float(np.vdot(dual, slopes)) + steep
        scale = max(square, pull, TINY) ** 0.5
        slope = max(steep, 0.0) ** 0.5 / scale
        floor = rounding_floor(c / scale, self.weights, np.einsum("ii->i", self.gram), size)
        relative = max(slope, float(np.abs(tilt).max()) / max(size, TINY))
        gradient = np.vstack([slopes, c * tilt])
        objective = c * loss + square / 2
        return Point(theta, objective, gradient, probabilities, residuals, relative, floor)

    def step(self, point: Point, c: float, settings: SolverSettings) -> Floats:
        """Solve for a Newton step so well as the distance from the optimum deserves."""
        root = _Root(point.probabilities, self.weights)
        self._memory.prepare(root.diagonal, c)
        residuals = point.residuals
        right = c * root.transposed(point.gradient[:-1])
        solution = root.transposed(np.ones_like(right) * (root.inner @ (c * residuals.sum(axis=0))))
        image = c * root.transposed(self.gram @ root(solution))
        residual = right - solution - image
        target = min(0.1, max(point.relative, 0.3 * settings.tolerance / point.relative))
        project = _Constraint(root, self._memory)
        solved = project(residual)
        direction, inner = solved.copy(), float(np.vdot(residual, solved))
        goal, steps = inner * target**2, 0
        while inner > goal and steps < settings.max_inner:
            product = direction + c * root.transposed(self.gram @ root(direction))
            bend = float(np.vdot(direction, product))
            if not bend > 0:
                break
            length = inner / bend
            solution += length * direction
            residual -= length * product
            solved = project(residual)
            previous, inner = inner, float(np.vdot(residual, solved))
            direction = solved + inner / previous * direction
            steps += 1
        self._memory.account(steps)
        tilt = root.inner @ root(residual).sum(axis=0) / c
        return np.vstack([root(solution) - (point.theta[:-1] + c * residuals), tilt])


class _Root:
    """R of the curvature W = R R^T, row by row: W_i = weight * (diag(p) - p p^T)."""

    def __init__(self, probabilities: Floats, weights: Floats) -> None:
        spread = probabilities * (1 - probabilities) * weights[:, None]
        self.diagonal = spread
        self._scale = np.sqrt(weights)[:, None] * np.sqrt(probabilities)
        self._axis = np.sqrt(probabilities)
        self._single = probabilities.shape[1] == 1
        if self._single:
            self._scale = np.sqrt(spread)
            total = spread.sum(keepdims=True)
        else:
            weighted = probabilities * weights[:, None]
            total = np.diag(weighted.sum(axis=0)) - probabilities.T @ weighted
        self.inner = np.linalg.pinv(total, hermitian=True)

    def __call__(self, columns: Floats) -> Floats:
        return self._scale * self._across(columns)

    def transposed(self, columns: Floats) -> Floats:
        return self._across(self._scale * columns)

    def _across(self, columns: Floats) -> Floats:
        """Take away what the softmax cannot see."""
        if self._single:
            return columns
        shift = (self._axis * columns).sum(axis=1, keepdims=True)
        return np.asarray(columns - self._axis * shift, np.float64)


class _Constraint:
    """The preconditioner, kept to steps under which the intercepts stay balanced."""

    def __init__(self, root: _Root, memory: _Factors) -> None:
        rows, classes = root.diagonal.shape
        self._root, self._memory = root, memory
        ones = [np.zeros((rows, classes)) for _ in range(classes)]
        for k, one in enumerate(ones):
            one[:, k] = 1
        self._solved = [memory.solve(root.transposed(one)) for one in ones]
        self._inner = np.linalg.pinv(np.stack([root(s).sum(axis=0) for s in self._solved], axis=1))

    def __call__(self, residual: Floats) -> Floats:
        solved = self._memory.solve(residual)
        amounts = self._inner @ self._root(solved).sum(axis=0)
        for amount, direction in zip(amounts, self._solved, strict=True):
            solved = solved - amount * direction
        return solved


@dataclass(slots=True)
class _Factors:
    """Cholesky factors of I + c D^(1/2) G D^(1/2), one a class, taken at some earlier point.

    They are handed from one strength to the next and renewed by the rule of optimal replacement, as
    in `newton.Preconditioner`; before the first there is none, as weak strengths need none.
    """

    gram: Floats
    _factors: list[Floats] = field(default_factory=list)
    _solves: int = 0
    _spent: float = 0.0
    _last: int = 0

    def prepare(self, diagonal: Floats, c: float) -> None:
        price = len(self.gram) / 10 * (1 if diagonal.shape[1] == 1 else 2)
        if self._solves and self._last > (price + self._spent) / self._solves:
            if 8 * diagonal.shape[1] * self.gram.size > FACTOR_BYTES:
                diagonal = diagonal.mean(axis=1, keepdims=True)
            self._factors = [self._factor(column, c) for column in diagonal.T]
            self._solves, self._spent = 0, 0.0

    def _factor(self, column: Floats, c: float) -> Floats:
        from scipy.linalg.lapack import dpotrf  # noqa: PLC0415 - heavy, one caller

        scale = np.sqrt(c * column)
        matrix = np.asfortranarray(self.gram * scale[:, None] * scale)
        np.einsum("ii->i", matrix)[:] += 1
        factor, failed = dpotrf(matrix, lower=True, overwrite_a=True, clean=False)
        if failed:  # rounding: the smallest eigenvalue is 1 by its making
            return np.asfortranarray(np.eye(len(self.gram)))
        return np.asarray(factor, np.float64)

    def solve(self, residual: Floats) -> Floats:
        """Apply the inverse to each column, shape (N, K)."""
        from scipy.linalg.blas import dtrsv  # noqa: PLC0415 - heavy, one caller

        if not self._factors:
            return residual
        columns = residual.shape[1]
        factors = self._factors if len(self._factors) == columns else self._factors * columns
        solved = [
            dtrsv(factor, dtrsv(factor, residual[:, k], lower=1), lower=1, trans=1)
            for k, factor in enumerate(factors)
        ]
        return np.stack(solved, axis=1)

    def account(self, inner: int) -> None:
        """Note what a solve cost."""
        self._last, self._solves, self._spent = inner, self._solves + 1, self._spent + inner
