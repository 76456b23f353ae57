"""PNG, JPEG, TIFF, BMP, PNM and WebP through Pillow, upright and of mode L, RGB or I;16."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from medssl_data.errors import DECODER_FAULTS, UnreadableImageError
from medssl_data.images.parallel import quietly

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from medssl_data.images.reading import Reading

__all__ = ["read_pillow"]

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "PPM", "WEBP")
_PLAIN = {
    "L": ("L", "grey"),
    "RGB": ("RGB", "RGB"),
    "1": ("L", "bilevel -> grey"),
    "P": ("RGB", "palette -> RGB"),
    "RGBA": ("RGB", "alpha dropped"),
}
"""Pillow's mode -> the mode that is kept and the rule in words."""


def read_pillow(path: Path, reading: Reading) -> tuple[Image.Image, str]:
    """Decode one picture file.

    Args:
        path: The file.
        reading: Limit of pixels, orientation and reduction.

    Returns:
        A picture of mode L, RGB or I;16 and the rule.

    Raises:
        UnreadableImageError: No picture, damaged, or beyond the pixel limit.
    """
    try:
        # Our own limit speaks, and faults of EXIF harm no pixel.
        with quietly(), Image.open(path, formats=_FORMATS) as image:
            reading.check_size(path, image.size)
            note = _reduce(image, reading)
            turn = _orientation(image)
            image.load()
            upright, turned = _upright(image, turn, reading)
            plain, rule = _plain_mode(upright)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        reason = "is not a PNG, JPEG, TIFF, BMP, PNM or WebP picture"
        raise UnreadableImageError.of(path, reason) from error
    except PermissionError:
        raise
    except (*DECODER_FAULTS, Image.DecompressionBombError) as error:
        reason = f"cannot be decoded ({error or type(error).__name__})"
        raise UnreadableImageError.of(path, reason) from error
    return plain, "; ".join(part for part in (note, turned, rule) if part)


def _reduce(image: Image.Image, reading: Reading) -> str:
    if reading.reduced is None or image.format != "JPEG":
        return ""
    width, height = image.size
    image.draft(None, (min(width, reading.reduced), min(height, reading.reduced)))
    return "" if image.size == (width, height) else f"JPEG decoded at {image.size[0]}/{width}"


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation, 1 to 8, before loading: Pillow turns TIFFs while loading."""
    turn = 1 if image.format == "PPM" else image.getexif().get(ExifTags.Base.Orientation, 1)
    return turn if turn in range(1, 9) else 1


def _upright(image: Image.Image, turn: int, reading: Reading) -> tuple[Image.Image, str]:
    if turn == 1 or not (reading.exif_orientation or image.format == "TIFF"):
        return image, ""
    return ImageOps.exif_transpose(image), f"EXIF orientation {turn} turned upright"


def _plain_mode(image: Image.Image) -> tuple[Image.Image, str]:
    """Reduce Pillow's modes to L, RGB and I;16."""
    mode = image.mode
    if mode in _PLAIN:
        target, rule = _PLAIN[mode]
        return image if mode == target else image.convert(target), rule
    if mode == "LA":
        return image.getchannel(0), "alpha dropped"
    if mode.startswith(("I", "F")):
        return _deep(np.asarray(image))
    return image.convert("RGB"), f"{mode} -> RGB"


def _deep(pixels: npt.NDArray[np.generic]) -> tuple[Image.Image, str]:
    """Keep 16-bit grey; stretch wider integers and floats to 16 bit."""
    values = pixels.astype(np.float64)
    if not np.isfinite(values).all():
        message = "NaN or infinite pixels"
        raise ValueError(message)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 65535 and np.issubdtype(pixels.dtype, np.integer):
        return Image.fromarray(pixels.astype(np.uint16)), "16-bit grey"
    scaled = np.rint((values - low) * (65535.0 / ((high - low) or 1.0)))
    return Image.fromarray(scaled.astype(np.uint16)), f"{low:g}..{high:g} -> 16-bit grey"
