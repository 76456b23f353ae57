"""Any supported picture file -> pixels, with the rule that was applied in words.

Decides by content, never by suffix. PNG, JPEG, TIFF, BMP, PNM and WebP come from Pillow; DICOM and
volumes from the extras. Resizing and normalisation belong to the model, not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from medssl_data.errors import DECODER_FAULTS, MissingFileError, UnreadableImageError
from medssl_data.images.parallel import quietly
from medssl_data.images.reading import Reading, read_slice_name

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Picture", "is_volume", "read_image", "read_rgb", "to_rgb"]

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "PPM", "WEBP")
_PLAIN = {
    "L": ("L", "grey"),
    "RGB": ("RGB", "RGB"),
    "1": ("L", "bilevel -> grey"),
    "P": ("RGB", "palette -> RGB"),
    "RGBA": ("RGB", "alpha dropped"),
}
"""Pillow's mode -> the mode that is kept and the rule in words."""


@dataclass(frozen=True)
class Picture:
    """Decoded pixels.

    Args:
        pixels: (H, W) grey or (H, W, 3) RGB, uint8 or uint16.
        rule: how the file became these pixels, such as "palette -> RGB".
    """

    pixels: npt.NDArray[np.uint8 | np.uint16]
    rule: str


def read_image(path: Path | str, *, item: str = "", reading: Reading | None = None) -> Picture:
    """Decode one picture.

    Args:
        path: the file.
        item: name of the picture inside a file that holds several; "" is the file itself.
        reading: limits, window and slice; the defaults of `Reading` when None.

    Returns:
        (H, W) or (H, W, 3) pixels, uint8 or uint16 as the file has them, and the rule.

    Raises:
        MissingFileError: there is no such file.
        UnreadableImageError: empty, truncated, no picture, or beyond the pixel limit.

    Example:
        >>> from PIL import Image
        >>> Image.new("L", (4, 3), 7).save("/tmp/seven.png")
        >>> read_image("/tmp/seven.png").pixels.shape
        (3, 4)
    """
    image, rule = _decode(Path(path), item, reading or Reading())
    pixels = np.array(image)
    return Picture(pixels.astype(np.uint16) if pixels.dtype != np.uint8 else pixels, rule)


def read_rgb(
    path: Path | str, *, item: str = "", reading: Reading | None = None
) -> tuple[Image.Image, str]:
    """Decode one picture to 8-bit RGB.

    Args:
        path: the file.
        item: name of the picture inside a file that holds several.
        reading: limits, window and slice.

    Returns:
        A PIL image of mode RGB and the rule. 16-bit grey is stretched from its own minimum and
        maximum to 0..255; 8-bit grey is repeated.

    Raises:
        MissingFileError: there is no such file.
        UnreadableImageError: as `read_image`.
    """
    image, rule = _decode(Path(path), item, reading or Reading())
    return to_rgb(image, rule)


def to_rgb(image: Image.Image, rule: str = "") -> tuple[Image.Image, str]:
    """Make 8-bit RGB of mode L, RGB or I;16.

    Args:
        image: a picture of mode L, RGB or I;16.
        rule: what was done before.
    """
    if image.mode == "RGB":
        return image, rule
    if image.mode == "L":
        return image.convert("RGB"), rule
    pixels = np.asarray(image).astype(np.float32)
    low, high = float(pixels.min()), float(pixels.max())
    grey = np.rint((pixels - low) * (255.0 / max(high - low, 1.0))).astype(np.uint8)
    stretched = f"{rule}; {low:.0f}..{high:.0f} -> 0..255"
    return Image.fromarray(grey).convert("RGB"), stretched


def _decode(path: Path, item: str, reading: Reading) -> tuple[Image.Image, str]:
    head = _head(path)
    if is_volume(path):
        from medssl_data.images.volumes import read_slice

        return read_slice(path, _slice_of(path, item, reading))
    if item:
        return _decode_item(path, item, is_zip=head.startswith(b"PK"))
    if head[128:132] == b"DICM":
        from medssl_data.images.dicom import read_dicom

        return read_dicom(path, reading)
    return _decode_pillow(path, reading)


def _slice_of(path: Path, item: str, reading: Reading) -> Reading:
    if not item:
        return reading
    chosen = read_slice_name(reading, item)
    if chosen is None:
        msg = f"{path}: {item!r} names no slice; write an axis and its place, as in z=60 or z=0.5"
        raise UnreadableImageError(msg)
    return chosen


def _decode_item(path: Path, item: str, *, is_zip: bool) -> tuple[Image.Image, str]:
    if is_zip:
        from medssl_data.images.archives import read_item as read
    else:
        from medssl_data.images.cifar import read_record as read
    return Image.fromarray(read(path, item)), f"item {item}"


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            head = stream.read(132)
    except (FileNotFoundError, NotADirectoryError) as error:
        msg = f"{path} is not there; check the table and the root"
        raise MissingFileError(msg) from error
    except IsADirectoryError as error:
        raise UnreadableImageError(_message(path, "is a folder")) from error
    if not head:
        raise UnreadableImageError(_message(path, "is empty (0 bytes)"))
    return head


def is_volume(path: Path) -> bool:
    """Whether a file is a volume by its suffix: MHA, NRRD or NIfTI."""
    name = path.name.casefold()
    return name.endswith((".mha", ".mhd", ".nrrd", ".nhdr", ".nii", ".nii.gz"))


def _decode_pillow(path: Path, reading: Reading) -> tuple[Image.Image, str]:
    try:
        # Our own limit speaks, and faults of EXIF harm no pixel.
        with quietly(), Image.open(path, formats=_FORMATS) as image:
            _check_size(path, image.size, reading)
            note = _reduce(image, reading)
            turn = _orientation(image)
            image.load()
            upright, turned = _upright(image, turn, reading)
            plain, rule = _plain_mode(upright)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        reason = "is no PNG, JPEG, TIFF, BMP, PNM or WebP picture"
        raise UnreadableImageError(_message(path, reason)) from error
    except PermissionError:
        raise
    except (*DECODER_FAULTS, Image.DecompressionBombError) as error:
        reason = f"cannot be decoded ({error or type(error).__name__})"
        raise UnreadableImageError(_message(path, reason)) from error
    return plain, "; ".join(part for part in (note, turned, rule) if part)


def _message(path: Path, reason: str) -> str:
    return f"{path} {reason}; replace the file or leave it out"


def _check_size(path: Path, size: tuple[int, int], reading: Reading) -> None:
    width, height = size
    if width * height > reading.pixel_limit:
        reason = f"has {width} x {height} pixels, more than the limit of {reading.pixel_limit:,}"
        raise UnreadableImageError(_message(path, reason))


def _reduce(image: Image.Image, reading: Reading) -> str:
    if reading.reduced is None or image.format != "JPEG":
        return ""
    width, height = image.size
    image.draft(None, (min(width, reading.reduced), min(height, reading.reduced)))
    return "" if image.size == (width, height) else f"JPEG decoded at {image.size[0]}/{width}"


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; asked before loading, because Pillow turns TIFFs while loading."""
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
    """16-bit grey stays; wider integers and floats are stretched to 16 bit."""
    values = pixels.astype(np.float64)
    if not np.isfinite(values).all():
        msg = "NaN or infinite pixels"
        raise ValueError(msg)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 65535 and np.issubdtype(pixels.dtype, np.integer):
        return Image.fromarray(pixels.astype(np.uint16)), "16-bit grey"
    scaled = np.rint((values - low) * (65535.0 / ((high - low) or 1.0)))
    return Image.fromarray(scaled.astype(np.uint16)), f"{low:g}..{high:g} -> 16-bit grey"
