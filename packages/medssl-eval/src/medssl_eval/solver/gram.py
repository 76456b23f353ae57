"""Two classes, fewer rows than columns: Newton's method on the rows' Gram matrix alone.

The optimum is a weighted sum of the rows, w = X^T a, so one number a row is sought, and a
product with X and one with its transpose become one with the small matrix G = X X^T.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.solver.newton import (
    TINY,
    Point,
    forcing_term,
    losses_and_residuals,
    relative_floor,
)
from medssl_eval.solver.preconditioner import Preconditioner, cholesky

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medssl_eval.solver.newton import SolverSettings

    Floats = NDArray[np.float64]
    Singles = NDArray[np.float32]

__all__ = ["GramObjective"]


@dataclass(slots=True)
class GramObjective:
    """The objective over (a, intercept), and its Newton steps.

    With c W = R R^T the curvature of the losses, a step moves a to R y - c * residuals, where
    (I + R^T G R) y = R^T (G (a + c * residuals) - intercept's change), and the intercept's change
    is what keeps its slope at zero. That system is solved in float32 by preconditioned conjugate
    gradients, which is half the memory to read; objective and gradient are float64, so its rounding
    costs a step at most and no accuracy.

    Args:
        gram: Inner products of the centred rows, shape (N, N).
        targets: Shape (N, 1), as in `newton.Problem`.
        weights: Shape (N,), not negative.

    References:
        Rasmussen and Williams, Gaussian processes for machine learning, 2006, chapter 3 (the
        symmetric form); Gould, Hribar and Nocedal, 2001 (constraints in conjugate gradients).
    """

    gram: Floats
    targets: Floats
    weights: Floats
    _unit: float = field(init=False)
    _single: Singles = field(init=False)
    _noise: float = field(init=False)
    _preconditioner: Preconditioner[np.float32] = field(init=False, default_factory=Preconditioner)

    def __post_init__(self) -> None:
        squares = self.gram.diagonal()
        mean = float(squares.mean())
        self._unit = mean if mean > 1e-20 else 1.0  # rows all alike but for rounding
        self._single = (self.gram / self._unit).astype(np.float32)
        self._noise = float(np.sqrt(self.weights**2 @ squares))

    @property
    def easy_c(self) -> float:
        """A C at which float32 solves the system from a start at zero."""
        return 1e3 / (self._unit * len(self.gram))

    def evaluate(self, theta: Floats, c: float) -> Point:
        """Evaluate the objective; `theta` is (N + 1, 1), the intercept as last row."""
        dual = theta[:-1]
        image = self.gram @ dual
        losses, residuals, probabilities = losses_and_residuals(image + theta[-1], self.targets)
        residuals *= self.weights[:, None]
        size, tilt = float(np.abs(residuals).sum()), residuals.sum(axis=0)
        rest = dual + c * residuals
        slopes = self.gram @ rest
        # Squared norms of w, of its gradient, and of what pulls against w.
        square, steep = float(np.vdot(dual, image)), float(np.vdot(rest, slopes))
        pull = square - 2 * float(np.vdot(dual, slopes)) + steep
        scale = max(square, pull, TINY) ** 0.5
        relative = max(max(steep, 0.0) ** 0.5 / scale, float(np.abs(tilt).max()) / max(size, TINY))
        return Point(
            theta=theta,
            objective=c * float(losses @ self.weights) + square / 2,
            gradient=np.concatenate([slopes, c * tilt[None]]),
            probabilities=probabilities,
            residuals=residuals,
            relative=relative,
            floor=relative_floor(c * self._noise / scale, self.weights, size),
        )

    @np.errstate(over="ignore", invalid="ignore")  # float32: seen by the line search
    def step(self, point: Point, c: float, settings: SolverSettings) -> Floats:
        """Compute a Newton step as accurately as the distance from the optimum asks."""
        root = _Root(point.probabilities, self.weights, c * self._unit)
        new = self._preconditioner.prepare(self._cost(), lambda: [self._factor(root.diagonal[0])])
        slopes, tilt = point.gradient[:-1] / self._unit, point.gradient[-1]
        size = max(float(np.abs(slopes).max()), float(np.abs(tilt).max()), TINY)
        slopes, tilt = slopes / size, tilt / size
        rest = (point.theta[:-1] + c * point.residuals) / size
        right = root(slopes.T.astype(np.float32))
        constraint = _Constraint(root, self._preconditioner)
        solution, balance = constraint.project(right, tilt.astype(np.float32))
        if not new:  # a new factor is the whole system's
            energy = float(np.vdot(slopes, rest - root(solution).T))
            energy = max(energy, 1e-4 * float(np.vdot(slopes, rest)))
            goal = energy * forcing_term(point, settings) ** 2
            balance = self._improve(solution, right, constraint, goal, settings.max_inner)
        change = root(solution).T - rest
        return np.asarray(size * np.concatenate([change, self._unit * balance[None]]), np.float64)

    def _improve(
        self, solution: Singles, right: Singles, constraint: _Constraint, goal: float, limit: int
    ) -> Singles:
        """Conjugate gradients from `solution`, in place, until the energy left is below `goal`.

        Returns:
            The change of the intercept that goes with it, shape (1,).
        """
        residual = right - self._product(constraint.root, solution)
        balance = np.zeros(len(right), np.float32)
        direction, previous = np.zeros_like(right), 1.0
        for count in range(limit + 1):  # noqa: B007 # read after the loop
            balance += constraint.balance(residual)
            solved = self._preconditioner.solve(residual)
            inner = float(np.vdot(residual, solved))
            if float(np.vdot(residual, residual)) - inner <= goal:
                break
            direction = solved + np.float32(inner / previous) * direction
            previous = inner
            product = self._product(constraint.root, direction)
            curvature = float(np.vdot(direction, product))
            if not curvature > 0:
                break
            length = np.float32(inner / curvature)
            solution += length * direction
            residual -= length * product
        self._preconditioner.account(count)
        return balance

    def _product(self, root: _Root, columns: Singles) -> Singles:
        """Multiply (I + R^T G R) by columns, shape (1, N)."""
        return np.asarray(columns + root(root(columns) @ self._single), np.float32)

    def _cost(self) -> float:
        """Estimate a new factor in conjugate-gradient steps (measured: 0.4 for 110 rows, 28)."""
        rows = len(self.gram)
        return float(rows**3 / (rows**2 + 300**2) / 33)

    def _factor(self, scale: Singles) -> Singles:
        matrix = (self._single * scale[:, None] * scale).T
        diagonal = np.einsum("ii->i", matrix)
        diagonal += 1 + 1e-6 * diagonal.max()  # as much as rounding may have taken away
        return np.asarray(cholesky(matrix), np.float32)


class _Root:
    """R of the curvature R R^T, row by row: c * weight * p (1 - p).

    Args:
        probabilities: Shape (N, 1).
        weights: Shape (N,).
        c: C of the loss, times the unit of the Gram matrix.
    """

    def __init__(self, probabilities: Floats, weights: Floats, c: float) -> None:
        across = probabilities.T
        self.diagonal: Singles = np.sqrt(c * weights * across * (1 - across)).astype(np.float32)

    def __call__(self, columns: Singles) -> Singles:
        return np.asarray(self.diagonal * columns, np.float32)


class _Constraint:
    """The preconditioner, restricted to steps under which the intercept stays balanced."""

    def __init__(self, root: _Root, preconditioner: Preconditioner[np.float32]) -> None:
        self.root, self._preconditioner = root, preconditioner
        self._ones = root.diagonal
        self._flat = preconditioner.solve(root.diagonal)
        self._inverse = 1 / np.maximum((self._ones @ self._flat.T).astype(np.float64), TINY)

    def project(self, right: Singles, tilt: Singles) -> tuple[Singles, Singles]:
        """Solve with the preconditioner so that the intercept's slope falls by `tilt`.

        Returns:
            The solution (1, N), and the change of the intercept that goes with it, shape (1,).
        """
        solved = self._preconditioner.solve(right)
        change = (self._inverse @ (self._flat @ right.ravel() - tilt)).astype(np.float32)
        return solved - (change @ self._flat).reshape(solved.shape), change

    def balance(self, residual: Singles) -> Singles:
        """Take from `residual` what a change of the intercept makes good; return that change."""
        amounts: Singles = (self._inverse @ (self._flat @ residual.ravel())).astype(np.float32)
        residual -= (amounts @ self._ones).reshape(residual.shape)
        return amounts
