"""How alike two sets of features are: cosines, distances, and ranks in a gallery.

Pure arithmetic on arrays. What is undefined, such as the cosine of a vector of zeros, is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medssl_invariance.whitening import Whitening

    Values = NDArray[np.float64]

__all__ = ["Gallery", "compare", "cosine"]

_SAME = 1e-6
"""Copies of one image differ in the last bits: cosines that are so near count as equal."""


def cosine(first: NDArray[np.floating], second: NDArray[np.floating]) -> Values:
    """Compute the cosines of rows; 1 is the same direction, 0 no relation.

    Args:
        first: `(N, R)`.
        second: `(N, R)`, or `(1, R)` for all.

    Returns:
        `(N,)` float64 in [-1, 1]; NaN where a row is zero.

    Example:
        >>> cosine(np.array([[3.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 0.0]])).tolist()
        [1.0, nan]
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    products = (first * second).sum(axis=1)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    out = np.full(len(products), np.nan)
    return np.asarray(np.divide(products, norms, out=out, where=norms > 0))


def compare(
    first: NDArray[np.floating], second: NDArray[np.floating], whitening: Whitening
) -> Values:
    """Compare features row by row.

    Args:
        first: `(N, D)`.
        second: The same.
        whitening: Of the space.

    Returns:
        `(3, N)`: cosine of the whitened deviations, raw cosine, Mahalanobis distance.

    Example:
        >>> from medssl_invariance.whitening import fit_whitening
        >>> rows = np.random.default_rng(0).normal(size=(50, 3))
        >>> compare(rows[:2], rows[:2], fit_whitening(rows)).round(6).tolist()
        [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    """
    whitened = cosine(whitening.deviations(first), whitening.deviations(second))
    return np.stack([whitened, cosine(first, second), whitening.distances(first, second)])


@dataclass(frozen=True)
class Gallery:
    """Images among which the nearest is looked for.

    Args:
        directions: `(G, R)` float32, unit vectors; zero where a row is zero.

    Example:
        >>> gallery = Gallery.of(np.eye(3))
        >>> gallery.ranks(np.array([[0.1, 0.9, 0.0]]), np.array([0])).tolist()
        [2.0]
    """

    directions: NDArray[np.float32]

    @classmethod
    def of(cls, vectors: NDArray[np.floating]) -> Gallery:
        """Make a gallery of vectors `(G, R)`."""
        return cls(_unit(vectors))

    def ranks(self, queries: NDArray[np.floating], own: NDArray[np.int64]) -> Values:
        """Find the place of each query's own image when the gallery is sorted by cosine.

        Args:
            queries: `(N, R)`.
            own: `(N,)` places of their own images in the gallery.

        Returns:
            `(N,)` float64, 1 is the nearest; images as near as the own share their places evenly.
            NaN where a query is zero.
        """
        nearer, equal = self._count(queries, own)
        return 1.0 + nearer + equal / 2

    def found(self, queries: NDArray[np.floating], own: NDArray[np.int64]) -> Values:
        """Compute how often a query finds its own image: 1 where that is the nearest, `(N,)`.

        Where others are as near it is the chance to draw the own one; NaN as in `ranks`.
        """
        nearer, equal = self._count(queries, own)
        return np.where(np.isnan(nearer), np.nan, (nearer == 0) / (1.0 + equal))

    def _count(
        self, queries: NDArray[np.floating], own: NDArray[np.int64]
    ) -> tuple[Values, Values]:
        """Count the images that are nearer than the own one, and those that are as near."""
        units = _unit(queries)
        cosines = units @ self.directions.T
        mine = cosines[np.arange(len(units)), own][:, None]
        nearer = (cosines > mine + _SAME).sum(axis=1)
        equal = (np.abs(cosines - mine) <= _SAME).sum(axis=1) - 1
        defined = np.any(units, axis=1)
        return np.where(defined, nearer, np.nan), equal.astype(np.float64)


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    safe = np.where(norms > 0, norms, 1.0)
    return np.asarray(vectors / safe, dtype=np.float32)
