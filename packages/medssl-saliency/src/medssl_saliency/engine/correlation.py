"""Pearson's correlation, where a constant row correlates with nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["pearson"]


def pearson(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Compute the correlation of two rows of numbers, -1 to 1; 0 where one is constant.

    Example:
        >>> round(pearson(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])), 6)
        1.0
    """
    a, b = one.astype(np.float64) - one.mean(), other.astype(np.float64) - other.mean()
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale > 0 else 0.0
