"""Nested subsets of a data set: each begins with the smaller one, and all classes are in each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["nested_order"]

FLOOR = 24
"""Images of a class that come before the classes' own shares count: enough for small episodes."""


def nested_order(
    labels: NDArray[np.int64], splits: Sequence[str], *, floor: int = FLOOR, seed: int = 0
) -> NDArray[np.int64]:
    """Order rows so that every beginning is a small copy of the whole.

    A beginning of `floor` images a class or less is balanced between classes; what follows has
    their shares. Within a class the splits have their shares throughout.

    Args:
        labels: (N,) int64.
        splits: N split names.
        floor: Images of each class that come first.
        seed: Decides who comes early.

    Returns:
        (N,) int64, a permutation of the rows.
    """
    generator = np.random.default_rng(seed)
    names = np.asarray(splits)
    places = np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        order = rows[np.argsort(_spread(names[rows], generator), kind="stable")]
        number = np.arange(len(order))
        later = len(labels) + (number - floor + 0.5) / max(1, len(order) - floor)
        places[order] = np.where(number < floor, number, later)
    return np.lexsort((generator.permutation(len(labels)), places)).astype(np.int64)


def _spread(names: NDArray[np.str_], generator: np.random.Generator) -> NDArray[np.float64]:
    """Assign each row a place in (0, 1) so that the members of each name are spread evenly."""
    places = np.empty(len(names))
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        places[generator.permutation(rows)] = (np.arange(len(rows)) + 0.5) / len(rows)
    return places
