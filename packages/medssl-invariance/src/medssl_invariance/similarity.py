"""How alike two sets of features are: cosines, distances, ranks; and intervals over images.

Pure arithmetic on arrays. What is undefined, such as the cosine of a vector of zeros, is NaN, and
every mean comes with the number of values that were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medssl_invariance.whitening import Whitening

    Values = NDArray[np.float64]

__all__ = [
    "METRICS",
    "Gallery",
    "Mean",
    "bootstrap_mean",
    "compare",
    "cosine",
]

METRICS = (
    "whitened cosine",
    "raw cosine",
    "Mahalanobis distance",
    "retrieval",
    "raw retrieval",
)
"""What is measured between two images, in the order of `compare` and `Gallery.found`."""


def cosine(first: NDArray[np.floating], second: NDArray[np.floating]) -> Values:
    """Give the cosines of rows; 1 is the same direction, 0 no relation.

    Args:
        first: `(N, R)`.
        second: `(N, R)`, or `(1, R)` for all.

    Returns:
        `(N,)` float64 in [-1, 1]; NaN where a row is zero.
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
    """
    whitened = cosine(whitening.deviations(first), whitening.deviations(second))
    return np.stack([whitened, cosine(first, second), whitening.distances(first, second)])


_SAME = 1e-6


@dataclass(frozen=True)
class Gallery:
    """Images among which the nearest is looked for.

    Args:
        directions: `(G, R)` float32, unit vectors; zero where a row is zero.
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
        """Give 1 where a query's own image is the nearest, `(N,)`.

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
        # Copies of one image differ in the last bits: they count as equally near.
        nearer = (cosines > mine + _SAME).sum(axis=1)
        equal = (np.abs(cosines - mine) <= _SAME).sum(axis=1) - 1
        defined = np.any(units, axis=1)
        return np.where(defined, nearer, np.nan), equal.astype(np.float64)


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    safe = np.where(norms > 0, norms, 1.0)
    return np.asarray(vectors / safe, dtype=np.float32)


@dataclass(frozen=True)
class Mean:
    """A mean over images with its 95 % interval.

    Args:
        value: NaN where nothing is defined.
        low: Lower end; NaN with fewer than two images.
        high: Upper end.
        images: How many images have a value.
        undefined: How many single values were NaN.
    """

    value: float
    low: float
    high: float
    images: int
    undefined: int

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """Both ends; None where there are none."""
        if math.isnan(self.low):
            return None, None
        return self.low, self.high


def bootstrap_mean(values: Values, *, resamples: int = 2000, seed: int = 0) -> list[Mean]:
    """Average columns over images, with percentile intervals from resampled images.

    Args:
        values: `(N, M)`, one row for an image; NaN is left out and counted.
        resamples: How often the images are drawn anew.
        seed: Of the draws; all columns, and all calls with as many images, share them.

    Returns:
        M means.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    defined = ~np.isnan(values)
    filled = np.where(defined, values, 0.0)
    means = _ratio(np.asarray(filled.sum(axis=0)), np.asarray(defined.sum(axis=0)))
    draws = np.random.default_rng(seed).multinomial(
        len(values), np.full(len(values), 1 / len(values)), size=resamples
    )
    counts = np.asarray(draws @ defined.astype(np.int64), dtype=np.int64)
    resampled = _ratio(np.asarray(draws @ filled), counts)
    return [
        _mean(float(means[place]), resampled[:, place], defined[:, place])
        for place in range(values.shape[1])
    ]


def _mean(value: float, resampled: Values, defined: NDArray[np.bool_]) -> Mean:
    images = int(defined.sum())
    low, high = math.nan, math.nan
    if images > 1:
        low, high = (float(end) for end in np.nanpercentile(resampled, [2.5, 97.5]))
        low, high = min(low, value), max(high, value)
    return Mean(value, low, high, images, len(defined) - images)


def _ratio(sums: Values, counts: NDArray[np.int64]) -> Values:
    return np.asarray(np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0))
