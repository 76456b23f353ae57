"""Cholesky factors that precondition conjugate gradients, refreshed when stale."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

T = TypeVar("T", np.float32, np.float64)

__all__ = ["FACTOR_BYTES", "Preconditioner", "cholesky"]

FACTOR_BYTES = 2**29  # above it all classes share one factor of averaged curvature


@dataclass(slots=True)
class Preconditioner(Generic[T]):
    """Factors of the Hessian's diagonal blocks, one a class, taken at some earlier point.

    They are handed from one C to the next and refreshed by the rule of optimal replacement: when
    the last solve cost more than the average since the refresh, the refresh itself included.
    """

    _factors: list[NDArray[T]] = field(default_factory=list)
    _solves: int = 0
    _spent: float = 0.0
    _last: int = 0

    def prepare(
        self,
        cost: float,
        dense: Callable[[], Sequence[NDArray[T]]],
        diagonal: Callable[[], Sequence[NDArray[T]]] | None = None,
    ) -> bool:
        """Compute new factors where it pays.

        Args:
            cost: Of `dense`, in conjugate-gradient steps.
            dense: Computes factors, shape (n, n) each.
            diagonal: Computes diagonal ones, shape (n,) each, at no cost; they serve until the
                first dense ones pay.

        Returns:
            Whether they are new.
        """
        stale = self._solves and self._last > (cost + self._spent) / self._solves
        are_dense = bool(self._factors) and self._factors[0].ndim == 2
        if diagonal is not None and not are_dense and not stale:
            self._factors = list(diagonal())
            return True
        if self._factors and cost >= 1 and not stale:
            return False
        self._factors = list(dense())
        self._solves, self._spent, self._last = 0, 0.0, 0
        return True

    def solve(self, residuals: NDArray[T]) -> NDArray[T]:
        """Apply the inverse to each row, shape (K, n), of the factors' type.

        Triangular solves want a factor in Fortran order: else they were measured to take 12 times
        as long.
        """
        from scipy.linalg.blas import dtrsv, strsv

        solver = strsv if residuals.dtype == np.float32 else dtrsv
        factors = self._factors if len(self._factors) > 1 else self._factors * len(residuals)
        solved = np.empty_like(residuals)
        for k, factor in enumerate(factors):
            if factor.ndim == 1:
                solved[k] = residuals[k] / factor**2
                continue
            half = solver(factor, residuals[k], lower=1)
            solved[k] = solver(factor, half, lower=1, trans=1, overwrite_x=1)
        return solved

    def account(self, steps: int) -> None:
        """Note how many conjugate-gradient steps a solve took."""
        self._last, self._solves, self._spent = steps, self._solves + 1, self._spent + steps


def cholesky(matrix: NDArray[T]) -> NDArray[T]:
    """Factorise a symmetric matrix in Fortran order, which is overwritten.

    Returns:
        The lower factor; where rounding has made the matrix indefinite, that of its diagonal: a
        preconditioner need not be exact.
    """
    from scipy.linalg.lapack import dpotrf, spotrf

    diagonal = matrix.diagonal().copy()
    factorise = spotrf if matrix.dtype == np.float32 else dpotrf
    factor, failed = factorise(matrix, lower=1, clean=0, overwrite_a=1)
    if failed:
        tiny = np.finfo(matrix.dtype).tiny
        factor = np.asfortranarray(np.diag(np.sqrt(np.maximum(diagonal, tiny))))
    return np.asarray(factor, matrix.dtype)
