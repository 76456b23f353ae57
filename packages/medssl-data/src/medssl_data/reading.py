"""How files become pixels, as data: limits, windows and slices that a card or a user sets."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["PIXEL_LIMIT", "Reading"]

PIXEL_LIMIT = 89_478_485
"""Pillow's own limit: 1 GiB / 4 / 3 bytes, about 9,459 x 9,459 RGB pixels."""


class Reading(BaseModel):
    """Frozen rules of decoding; part of the images' fingerprint.

    Args:
        pixel_limit: pictures with more pixels are refused before they are decoded.
        exif_orientation: turn the picture upright as its EXIF tag says; TIFFs are always turned.
        reduced: side in pixels that is enough: JPEGs decode at 1/2, 1/4 or 1/8 scale where both
            sides stay at least this large. Off by default, because it changes pixels.
        axis: axis of a volume (x 0, y 1, z 2) that is cut.
        position: fraction of the axis in [0, 1], or an index.
        window: values of a volume or DICOM that become black and white; None is the file's own
            window, else its range.
        transposed: keep (x, y) as (row, column), the picture of the 2022 study.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pixel_limit: int = Field(default=PIXEL_LIMIT, gt=0)
    exif_orientation: bool = True
    reduced: int | None = Field(default=None, gt=0)
    axis: Literal[0, 1, 2] = 2
    position: float | int = 0.5
    window: tuple[float, float] | None = None
    transposed: bool = False
