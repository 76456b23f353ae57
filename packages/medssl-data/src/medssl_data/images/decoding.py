"""Any supported image file -> pixels, with the rule that was applied in words.

Decides by content, never by suffix: `pillow` reads pictures, `dicom` and `volumes` need the extras,
`archives` and `cifar` find one picture among many. Resizing and normalisation belong to the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from medssl_data.errors import MissingFileError, NotAFileError, UnreadableImageError
from medssl_data.files import open_plain
from medssl_data.images.pillow import read_pillow
from medssl_data.images.reading import Reading, read_slice_name

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Picture", "is_volume", "read_image", "read_named", "read_rgb", "to_rgb"]


@dataclass(frozen=True)
class Picture:
    """Decoded pixels.

    Args:
        pixels: (H, W) grey or (H, W, 3) RGB, uint8 or uint16.
        rule: How the file became these pixels, such as "palette -> RGB".
    """

    pixels: npt.NDArray[np.uint8 | np.uint16]
    rule: str


def read_image(path: Path | str, *, item: str = "", reading: Reading | None = None) -> Picture:
    """Decode one picture.

    Args:
        path: The file.
        item: Name of the picture inside a file that holds several; "" is the file itself.
        reading: Limits, window and slice; the defaults of `Reading` when None.

    Returns:
        (H, W) or (H, W, 3) pixels, uint8 or uint16 as the file has them, and the rule.

    Raises:
        MissingFileError: There is no such file.
        UnreadableImageError: Empty, truncated, no picture, or beyond the pixel limit.

    Example:
        >>> Image.new("L", (4, 3), 7).save("seven.png")
        >>> read_image("seven.png").pixels.shape
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
        path: The file.
        item: Name of the picture inside a file that holds several.
        reading: Limits, window and slice.

    Returns:
        A PIL image of mode RGB and the rule. 16-bit grey is stretched from its own minimum and
        maximum to 0..255; 8-bit grey is repeated.

    Raises:
        MissingFileError: There is no such file.
        UnreadableImageError: As `read_image`.

    Example:
        >>> Image.new("P", (4, 3)).save("palette.png")
        >>> image, rule = read_rgb("palette.png")
        >>> image.mode, rule
        ('RGB', 'palette -> RGB')
    """
    image, rule = _decode(Path(path), item, reading or Reading())
    return to_rgb(image, rule)


def read_named(
    path: Path,
    volumes: Reading | None = None,
    protocol: Literal["published", "corrected"] = "corrected",
) -> tuple[Image.Image, str]:
    """Decode a file that a person named, outside any data set, to 8-bit RGB.

    Args:
        path: The file.
        volumes: Slice and window, where the file is a volume; None is the file's own.
        protocol: `published` opens it as the study opened files; see `Reading.as_published`.

    Returns:
        A PIL image of mode RGB and the rule, as `read_rgb`.

    Raises:
        MissingFileError: There is no such file.
        UnreadableImageError: As `read_image`.

    Example:
        >>> Image.new("L", (4, 3)).save("scan.png")
        >>> read_named(Path("scan.png"))[0].size
        (4, 3)
    """
    reading = volumes if volumes is not None and is_volume(path) else Reading()
    return read_rgb(path, reading=reading.as_published() if protocol == "published" else reading)


def to_rgb(image: Image.Image, rule: str = "") -> tuple[Image.Image, str]:
    """Convert a picture of mode L, RGB or I;16 to 8-bit RGB.

    Args:
        image: The picture.
        rule: What was done before.

    Returns:
        A PIL image of mode RGB and the rule, as `read_rgb`.
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


def is_volume(path: Path) -> bool:
    """Tell whether a file is a volume by its suffix: MHA, NRRD or NIfTI."""
    name = path.name.casefold()
    return name.endswith((".mha", ".mhd", ".nrrd", ".nhdr", ".nii", ".nii.gz"))


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
    return read_pillow(path, reading)


def _slice_of(path: Path, item: str, reading: Reading) -> Reading:
    if not item:
        return reading
    chosen = read_slice_name(reading, item)
    if chosen is None:
        message = f"{path}: {item!r} names no slice; write an axis and its place: z=60 or z=0.5"
        raise UnreadableImageError(message)
    return chosen


def _decode_item(path: Path, item: str, *, is_zip: bool) -> tuple[Image.Image, str]:
    if is_zip:
        from medssl_data.images.archives import read_item as read
    else:
        from medssl_data.images.cifar import read_record as read
    return Image.fromarray(read(path, item)), f"item {item}"


def _head(path: Path) -> bytes:
    try:
        with open_plain(path) as stream:
            head = stream.read(132)
    except (FileNotFoundError, NotADirectoryError) as error:
        message = f"{path} is not there; check the table and the root"
        raise MissingFileError(message) from error
    except (IsADirectoryError, NotAFileError) as error:
        raise UnreadableImageError.of(path, "is a folder, a pipe or a device") from error
    if not head:
        raise UnreadableImageError.of(path, "is empty (0 bytes)")
    return head
