"""Cut a square out of turned, shifted or sheared pictures without turning the rest of them.

All pictures of a block share one map, so each place between pixels is found once, and the four
pixels around it are weighted for all pictures and channels together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as nn_functional

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from medssl_invariance.transforms.functions import Scene

    Warp = Callable[[Mapping[str, float], Scene], NDArray[np.float64]]
    """`warp(values, scene)`: `(2, 3)`, from a place in the result to its place in the picture."""

__all__ = ["Pictures", "affine_source", "rotation_source"]


def rotation_source(values: Mapping[str, float], scene: Scene) -> NDArray[np.float64]:
    """Compute where the pixels of a picture turned counter-clockwise by `angle` come from.

    Args:
        values: `angle` in degrees.
        scene: Unused: angles have no length.

    Returns:
        `(2, 3)` that takes (x, y, 1), in pixels from the centre, to (x, y) in the original.
    """
    del scene
    angle = math.radians(values["angle"])
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0]])


def affine_source(values: Mapping[str, float], scene: Scene) -> NDArray[np.float64]:
    """Compute the same for a picture that was sheared, then scaled, then shifted.

    Args:
        values: `x`, `y` in pixels of 224, `scale`, `shear_x` and `shear_y` in degrees.
        scene: Scales the shift.

    Returns:
        As `rotation_source`.
    """
    x, y = (math.tan(math.radians(values.get(name, 0.0))) for name in ("shear_x", "shear_y"))
    forwards = values.get("scale", 1.0) * np.array([[1.0, -x], [-y, 1.0 + x * y]])
    shift = scene.unit * np.array([values.get("x", 0.0), values.get("y", 0.0)])
    backwards = np.linalg.inv(forwards)
    return np.column_stack([backwards, -backwards @ shift])


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size, laid out so that the same pixel of all of them lies together.

    Args:
        pixels: `(H * W, B * C)` float32; C is 1 where all are grey.
        count: B.
        height: H.
        width: W.
    """

    pixels: Tensor
    count: int
    height: int
    width: int

    @classmethod
    def of(cls, batch: Tensor, *, grey: bool) -> Pictures:
        """Lay out a batch `(B, 3, H, W)`; of grey pictures one channel is enough."""
        count, _, height, width = batch.shape
        kept = batch[:, :1] if grey else batch
        table = kept.reshape(-1, height * width).t().contiguous()
        return cls(table, count, height, width)

    def cut(self, source: NDArray[np.float64], side: int) -> Tensor:
        """Resample the central square under a map, bilinearly; outside of a picture is black.

        Args:
            source: Out of `rotation_source` or `affine_source`.
            side: Of the square, pixels.

        Returns:
            `(B, 3, side, side)` float32.
        """
        places, weights = self._corners(source, side)
        flat = nn_functional.embedding_bag(
            places, self.pixels, per_sample_weights=weights, mode="sum"
        )
        # Picture by picture again, before grey is repeated: rows are copied, not single values.
        square = flat.t().contiguous().reshape(self.count, -1, side, side)
        return square.expand(-1, 3, -1, -1).contiguous()

    def _corners(self, source: NDArray[np.float64], side: int) -> tuple[Tensor, Tensor]:
        """Find the four pixels around each place, `(side ** 2, 4)`, and their weights."""
        ruler = np.arange(side) - (side - 1) / 2
        x, y = np.meshgrid(ruler, ruler)
        across, down = source @ np.stack([x.ravel(), y.ravel(), np.ones(side**2)])
        columns, of_columns = _neighbours(across + (self.width - 1) / 2, self.width)
        rows, of_rows = _neighbours(down + (self.height - 1) / 2, self.height)
        places = rows[:, :, None] * self.width + columns[:, None, :]
        weights = of_rows[:, :, None] * of_columns[:, None, :]
        return (
            torch.from_numpy(places.reshape(-1, 4)),
            torch.from_numpy(weights.reshape(-1, 4).astype(np.float32)),
        )


def _neighbours(
    places: NDArray[np.float64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the two pixels beside each place on a line, and their weights; 0 beyond the ends."""
    first = np.floor(places)
    share = places - first
    pixels = np.stack([first, first + 1], axis=1).astype(np.int64)
    weights = np.stack([1 - share, share], axis=1)
    inside = (pixels >= 0) & (pixels < size)
    return pixels.clip(0, size - 1), weights * inside
