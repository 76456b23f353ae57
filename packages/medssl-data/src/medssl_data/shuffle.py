"""The study's shuffles, number for number. Imports nothing of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["STUDY_SEED", "VALIDATION_SEED", "shuffle_order", "validation_order"]

STUDY_SEED = 42
"""Seed of the order of rows."""

VALIDATION_SEED = 0
"""Seed of the choice of validation rows."""


def shuffle_order(rows: int, *, seed: int = STUDY_SEED) -> npt.NDArray[np.int64]:
    """The study's shuffle: row i of the result is original row `order[i]`.

    The legacy generator of NumPy is used because it is frozen: the same numbers for ever.

    Args:
        rows: number of rows, N.
        seed: 42 in the study.

    Returns:
        (N,) int64 permutation.

    Example:
        >>> shuffle_order(138)[:5].tolist()
        [89, 105, 12, 26, 64]
    """
    return np.random.RandomState(seed).permutation(rows).astype(np.int64)


def validation_order(rows: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The study's cut of its training part into validation and training for linear evaluation.

    Args:
        rows: number of training rows, N.

    Returns:
        floor(0.2 N) validation positions and the rest, both int64, in the study's order.
    """
    order = shuffle_order(rows, seed=VALIDATION_SEED)
    cut = rows * 2 // 10
    return order[:cut], order[cut:]
