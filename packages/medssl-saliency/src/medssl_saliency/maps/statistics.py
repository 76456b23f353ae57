"""How concentrated a saliency map is, and where its mass lies: pure numbers of one map or two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medssl_saliency.engine.correlation import pearson
from medssl_saliency.errors import MapError, MaskError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = [
    "agreement",
    "attentive_diffusion",
    "border_mass",
    "centre_of_mass",
    "corner_mass",
    "describe",
    "entropy",
    "gini",
    "mask_mass",
    "pointing_game",
    "rank_accuracy",
]

FLAT = 1e-9
"""A map whose values differ by less than this share of the largest is constant."""


def attentive_diffusion(values: NDArray[np.floating]) -> float:
    """Compute the share of pixels strictly above the map's mean, in percent.

    Args:
        values: `(H, W)` map, not negative.

    Returns:
        0 to 100; 0 for a constant map, near 0 for one bright point, 50 for a symmetric spread.

    Raises:
        MapError: The map is empty, not finite or negative somewhere; so for all functions here.

    Example:
        >>> attentive_diffusion(np.array([[0.0, 0.0], [0.0, 1.0]]))
        25.0
    """
    checked = _checked(values)
    if np.ptp(checked) <= FLAT * checked.max():
        return 0.0
    return float(100 * np.mean(checked > checked.mean()))


def gini(values: NDArray[np.floating]) -> float:
    """Compute the Gini coefficient of the pixels.

    Args:
        values: `(H, W)` map, not negative.

    Returns:
        0 when all pixels are equal, near 1 when one holds all mass; 0 too for a map of zeros.

    Example:
        >>> gini(np.array([[0.0, 0.0], [0.0, 1.0]]))
        0.75
    """
    ordered = np.sort(_checked(values), axis=None)
    total, number = ordered.sum(), ordered.size
    if total == 0:
        return 0.0
    ranks = np.arange(1, number + 1)
    return float(2 * (ranks @ ordered) / (number * total) - (number + 1) / number)


def entropy(values: NDArray[np.floating]) -> float:
    """Compute the entropy of the map as a distribution over pixels, divided by its maximum.

    Args:
        values: `(H, W)` map, not negative.

    Returns:
        0 when one pixel holds all mass, 1 when all are equal; 1 too for a map of zeros.

    Example:
        >>> entropy(np.ones((4, 4)))
        1.0
    """
    share = _shares(values).ravel()
    positive = share[share > 0]
    if share.size == 1:
        return 0.0
    return float(-(positive * np.log(positive)).sum() / np.log(share.size))


def centre_of_mass(values: NDArray[np.floating]) -> tuple[float, float]:
    """Compute the centre of mass as shares of height and width.

    Args:
        values: `(H, W)` map, not negative.

    Returns:
        Row and column, 0 to 1: (0.5, 0.5) is the middle of the image.

    Example:
        >>> centre_of_mass(np.ones((4, 8)))
        (0.5, 0.5)
    """
    share = _shares(values)
    height, width = share.shape
    rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    return float(share.sum(axis=1) @ rows), float(share.sum(axis=0) @ columns)


def border_mass(values: NDArray[np.floating], *, width: float = 0.1) -> float:
    """Compute the share of the mass in a frame along the border, where burnt-in text lies.

    Args:
        values: `(H, W)` map.
        width: Of the frame, as a share of each side.

    Returns:
        0 to 1. Of a constant map it is the frame's share of the area, 0.36 for `width` 0.1.

    Example:
        >>> round(border_mass(np.ones((10, 10))), 2)
        0.36
    """
    edges = [max(round(width * side), 1) for side in values.shape]
    inner = _shares(values)[edges[0] : -edges[0], edges[1] : -edges[1]]
    return float(1 - inner.sum())


def corner_mass(values: NDArray[np.floating], *, width: float = 0.2) -> float:
    """Compute the share of the mass in the four corner squares, where side markers lie.

    Args:
        values: `(H, W)` map.
        width: Side of a corner, as a share of each side.

    Returns:
        0 to 1. Of a constant map it is the corners' share of the area, 0.16 for `width` 0.2.

    Example:
        >>> round(corner_mass(np.ones((10, 10))), 2)
        0.16
    """
    share = _shares(values)
    height, width_ = (max(round(width * side), 1) for side in share.shape)
    rows = np.r_[share[:height], share[-height:]]
    return float(rows[:, :width_].sum() + rows[:, -width_:].sum())


def mask_mass(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Compute the share of the mass inside a mask (relevance mass accuracy).

    Args:
        values: `(H, W)` map, not negative.
        mask: `(H, W)`.

    Returns:
        0 to 1; of a constant map the mask's share of the area.

    Raises:
        MaskError: The mask is empty or of another shape; so for all functions with a mask.

    Example:
        >>> mask_mass(np.ones((2, 2)), np.array([[True, False], [False, False]]))
        0.25
    """
    return float(_shares(values)[_matching(values, mask)].sum())


def rank_accuracy(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Compute the share of the k brightest pixels that lie in a mask of k pixels.

    Args:
        values: `(H, W)` map, not negative.
        mask: `(H, W)`.

    Returns:
        0 to 1.

    Example:
        >>> rank_accuracy(np.array([[0.9, 0.8], [0.1, 0.2]]), np.array([[True, False]] * 2))
        0.5
    """
    inside = _matching(values, mask)
    number = int(inside.sum())
    brightest = np.argsort(-_checked(values), axis=None, kind="stable")[:number]
    return float(inside.ravel()[brightest].mean())


def pointing_game(
    values: NDArray[np.floating], mask: NDArray[np.bool_], *, tolerance: int = 15
) -> bool:
    """Tell whether the brightest pixel lies in a mask or near it.

    Args:
        values: `(H, W)` map, not negative.
        mask: `(H, W)`.
        tolerance: Pixels that count as near.

    Example:
        >>> pointing_game(np.array([[0.9, 0.1]]), np.array([[False, True]]), tolerance=0)
        False
    """
    from scipy.ndimage import distance_transform_edt

    inside = _matching(values, mask)
    brightest = np.unravel_index(int(np.argmax(_checked(values))), values.shape)
    return bool(distance_transform_edt(~inside)[brightest] <= tolerance)


def agreement(one: NDArray[np.floating], other: NDArray[np.floating]) -> dict[str, float]:
    """Compare two maps of one image.

    Args:
        one: `(H, W)`.
        other: `(H, W)`.

    Returns:
        `pearson` and `spearman` (-1 to 1, 0 where a map is constant), and `overlap`: of the
        brightest tenth of each, the share that both have (0 to 1; 0.1 by chance).

    Raises:
        MapError: The maps have different shapes.

    Example:
        >>> round(agreement(np.array([[1.0, 2.0]]), np.array([[2.0, 1.0]]))["spearman"], 6)
        -1.0
    """
    from scipy.stats import rankdata

    if one.shape != other.shape:
        message = f"maps of {one.shape} and {other.shape} pixels cannot be compared"
        raise MapError(message)
    number = max(one.size // 10, 1)
    tops = [set(np.argsort(-m, axis=None, kind="stable")[:number].tolist()) for m in (one, other)]
    return {
        "pearson": pearson(one.ravel(), other.ravel()),
        "spearman": pearson(rankdata(one), rankdata(other)),
        "overlap": len(tops[0] & tops[1]) / number,
    }


def describe(values: NDArray[np.floating]) -> Mapping[str, float]:
    """Compute every number of one map, by metric.

    Args:
        values: `(H, W)` map, not negative.

    Example:
        >>> list(describe(np.ones((4, 4))))[:3]
        ['attentive_diffusion', 'gini', 'entropy']
    """
    row, column = centre_of_mass(values)
    return {
        "attentive_diffusion": attentive_diffusion(values),
        "gini": gini(values),
        "entropy": entropy(values),
        "centre_of_mass_row": row,
        "centre_of_mass_column": column,
        "border_mass": border_mass(values),
        "corner_mass": corner_mass(values),
    }


def _checked(values: NDArray[np.floating]) -> NDArray[np.float64]:
    if values.ndim != 2 or not values.size:
        message = f"a map has two dimensions, not the shape {values.shape}"
        raise MapError(message)
    exact = values.astype(np.float64)
    if not np.isfinite(exact).all() or exact.min() < 0:
        message = "a map must be finite and not negative; take the absolute value of a signed one"
        raise MapError(message)
    return exact


def _shares(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the map as a distribution; a map of zeros counts as uniform."""
    exact = _checked(values)
    total = exact.sum()
    return exact / total if total > 0 else np.full(exact.shape, 1 / exact.size)


def _matching(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if mask.shape != values.shape:
        message = f"the mask has {mask.shape} pixels, the map {values.shape}"
        raise MaskError(message)
    inside = mask.astype(bool)
    if not inside.any():
        message = "the mask is empty: no pixel lies in it"
        raise MaskError(message)
    return inside
