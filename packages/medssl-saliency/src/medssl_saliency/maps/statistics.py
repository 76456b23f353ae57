"""How concentrated a saliency map is, and where its mass lies: pure numbers of one map or two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medssl_saliency.errors import MapError, MaskError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "agreement",
    "attentive_diffusion",
    "bootstrap_interval",
    "border_mass",
    "centre_of_mass",
    "corner_mass",
    "describe",
    "entropy",
    "gini",
    "mask_mass",
    "pearson",
    "pointing_game",
    "rank_accuracy",
]

FLAT = 1e-9
"""A map whose values differ by less than this share of the largest is constant."""


def attentive_diffusion(values: NDArray[np.floating]) -> float:
    """Share of pixels strictly above the map's mean, in percent.

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
    """Gini coefficient of the pixels: 0 when all are equal, near 1 when one holds all mass."""
    ordered = np.sort(_checked(values), axis=None)
    total, number = ordered.sum(), ordered.size
    if total == 0:
        return 0.0
    ranks = np.arange(1, number + 1)
    return float(2 * (ranks @ ordered) / (number * total) - (number + 1) / number)


def entropy(values: NDArray[np.floating]) -> float:
    """Entropy of the map as a distribution over pixels, divided by its maximum.

    Returns:
        0 when one pixel holds all mass, 1 when all are equal; 1 too for a map of zeros.
    """
    share = _shares(values).ravel()
    positive = share[share > 0]
    if share.size == 1:
        return 0.0
    return float(-(positive * np.log(positive)).sum() / np.log(share.size))


def centre_of_mass(values: NDArray[np.floating]) -> tuple[float, float]:
    """Centre of mass as shares of height and width: (0.5, 0.5) is the middle of the image."""
    share = _shares(values)
    height, width = share.shape
    rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    return float(share.sum(axis=1) @ rows), float(share.sum(axis=0) @ columns)


def border_mass(values: NDArray[np.floating], *, width: float = 0.1) -> float:
    """Share of the mass in a frame along the border: a shortcut alarm, burnt-in text lies there.

    Args:
        values: `(H, W)` map.
        width: Of the frame, as a share of each side.

    Returns:
        0 to 1. A constant map gives the frame's share of the area, 0.36 for `width` 0.1.
    """
    edges = [max(round(width * side), 1) for side in values.shape]
    inner = _shares(values)[edges[0] : -edges[0], edges[1] : -edges[1]]
    return float(1 - inner.sum())


def corner_mass(values: NDArray[np.floating], *, width: float = 0.2) -> float:
    """Share of the mass in the four corner squares: side markers and labels lie there.

    Args:
        values: `(H, W)` map.
        width: Side of a corner, as a share of each side.

    Returns:
        0 to 1. A constant map gives the corners' share of the area, 0.16 for `width` 0.2.
    """
    share = _shares(values)
    height, width_ = (max(round(width * side), 1) for side in share.shape)
    rows = np.r_[share[:height], share[-height:]]
    return float(rows[:, :width_].sum() + rows[:, -width_:].sum())


def mask_mass(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Share of the mass inside a mask (relevance mass accuracy), 0 to 1.

    Raises:
        MaskError: The mask is empty or of another shape; so for all functions with a mask.
    """
    return float(_shares(values)[_matching(values, mask)].sum())


def rank_accuracy(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Share of the k brightest pixels that lie in a mask of k pixels, 0 to 1."""
    inside = _matching(values, mask)
    number = int(inside.sum())
    brightest = np.argsort(-_checked(values), axis=None, kind="stable")[:number]
    return float(inside.ravel()[brightest].mean())


def pointing_game(
    values: NDArray[np.floating], mask: NDArray[np.bool_], *, tolerance: int = 15
) -> bool:
    """Tell whether the brightest pixel lies in a mask or within `tolerance` pixels of it."""
    from scipy.ndimage import distance_transform_edt

    inside = _matching(values, mask)
    brightest = np.unravel_index(int(np.argmax(_checked(values))), values.shape)
    return bool(distance_transform_edt(~inside)[brightest] <= tolerance)


def agreement(one: NDArray[np.floating], other: NDArray[np.floating]) -> dict[str, float]:
    """Compare two maps of one image.

    Returns:
        `pearson` and `spearman` (-1 to 1, 0 where a map is constant), and `overlap`: of the
        brightest tenth of each, the share that both have (0 to 1; 0.1 by chance).

    Raises:
        MapError: The maps have different shapes.
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


def pearson(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Give the correlation of two rows of numbers, -1 to 1; 0 where one is constant."""
    a, b = one.astype(np.float64) - one.mean(), other.astype(np.float64) - other.mean()
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale > 0 else 0.0


def describe(values: NDArray[np.floating]) -> Mapping[str, float]:
    """All numbers of one map by name; see the functions of these names."""
    row, column = centre_of_mass(values)
    return {
        "attentive diffusion": attentive_diffusion(values),
        "gini": gini(values),
        "entropy": entropy(values),
        "centre of mass, row": row,
        "centre of mass, column": column,
        "border mass": border_mass(values),
        "corner mass": corner_mass(values),
    }


def bootstrap_interval(
    values: NDArray[np.floating],
    *,
    seed: int,
    groups: Sequence[str] = (),
    draws: int = 2000,
) -> tuple[float, float] | None:
    """95 % percentile interval of the mean over images.

    Args:
        values: `(n,)`, one number an image.
        seed: Of the resampling.
        groups: The patient of each image, "" where unknown; images of one patient are drawn
            together. Empty draws images.
        draws: Number of resamples.

    Returns:
        Lower and upper end; None for fewer than two images or patients.
    """
    names = [group or f"\0{row}" for row, group in enumerate(groups or [""] * len(values))]
    _, members = np.unique(names, return_inverse=True)
    sums, counts = np.bincount(members, weights=values), np.bincount(members)
    if len(sums) < 2:
        return None
    picks = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


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
    """The map as a distribution; a map of zeros counts as uniform."""
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
