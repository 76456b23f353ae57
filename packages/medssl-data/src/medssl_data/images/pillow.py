"""PNG, JPEG, TIFF, BMP, PNM and WebP through Pillow, upright and of mode L, RGB or I;16."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from medssl_data.errors import DECODER_FAULTS, UnreadableImageError
from medssl_data.images.parallel import alone, quietly

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
        reading: Limit of pixels, orientation, reduction, damage and deep grey.

    Returns:
        A picture of mode L, RGB or I;16 and the rule.

    Raises:
        UnreadableImageError: No picture, damaged, or beyond the pixel limit.
    """
    try:
        return _open(path, reading)
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


def _open(path: Path, reading: Reading) -> tuple[Image.Image, str]:
    try:
        return _decode(path, reading)
    except (UnidentifiedImageError, UnreadableImageError, PermissionError):
        raise
    except DECODER_FAULTS as error:
        if not reading.truncated:
            raise
        fault = error
    with alone():  # Pillow's switch is for the whole process
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            image, rule = _decode(path, reading)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before
    return image, f"damaged, read as far as it goes ({fault}); {rule}"


def _decode(path: Path, reading: Reading) -> tuple[Image.Image, str]:
    # Our own limit speaks, and faults of EXIF harm no pixel.
    with quietly(), Image.open(path, formats=_FORMATS) as image:
        reading.check_size(path, image.size)
        note = _reduce(image, reading)
        turn = _orientation(image)
        image.load()
        upright, turned = _upright(image, turn, reading)
        plain, rule = _plain_mode(upright, reading)
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


def _plain_mode(image: Image.Image, reading: Reading) -> tuple[Image.Image, str]:
    """Reduce Pillow's modes to L, RGB and I;16."""
    mode = image.mode
    if mode in _PLAIN:
        target, rule = _PLAIN[mode]
        return image if mode == target else image.convert(target), rule
    if mode == "LA":
        return image.getchannel(0), "alpha dropped"
    if mode.startswith(("I", "F")):
        return _deep(np.asarray(image), clipped=reading.deep_grey == "clipped")
    return image.convert("RGB"), f"{mode} -> RGB"


def _deep(pixels: npt.NDArray[np.generic], *, clipped: bool) -> tuple[Image.Image, str]:
    """Keep 16-bit grey, stretch wider integers and floats to 16 bit; or clip all of them to 8."""
    values = pixels.astype(np.float64)
    if not np.isfinite(values).all():
        message = "NaN or infinite pixels"
        raise ValueError(message)
    low, high = float(values.min()), float(values.max())
    if clipped:
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)), f"{low:g}..{high:g} clipped"
    if low >= 0 and high <= 65535 and np.issubdtype(pixels.dtype, np.integer):
        return Image.fromarray(pixels.astype(np.uint16)), "16-bit grey"
    scaled = np.rint((values - low) * (65535.0 / ((high - low) or 1.0)))
    return Image.fromarray(scaled.astype(np.uint16)), f"{low:g}..{high:g} -> 16-bit grey"
