"""Masks that say where a lung or a lesion is, brought to the pixels of a map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from medssl_data.images.decoding import read_image
from PIL import Image

from medssl_saliency.engine.occlusion import cut_margin
from medssl_saliency.errors import MaskError
from medssl_saliency.images import image_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from medssl_saliency.images import ImageItem
    from medssl_saliency.maps.preparation import FeatureExtractor

__all__ = ["find_masks", "mask_on_map"]

SUFFIXES = ("", "_mask", "-mask", "_seg", "-seg")


def find_masks(folder: Path, items: Sequence[ImageItem]) -> dict[str, Path]:
    """Find the mask of each picture by its name, with or without `_mask` or `_seg` behind it.

    Args:
        folder: Mask files, in sub-folders like the pictures' or all in one.
        items: The pictures.

    Returns:
        The masks by picture; pictures without one are left out.

    Raises:
        MaskError: The folder is not there, or no mask bears the name of a picture.
    """
    if not folder.is_dir():
        message = f"{folder} is no folder; masks are looked for in one, a file for each picture"
        raise MaskError(message)
    by_name: dict[str, Path] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        by_name.setdefault(image_name(path.name), path)
        by_name[image_name(path.relative_to(folder).as_posix())] = path
    found = {
        item.name: by_name[item.name + suffix]
        for item in items
        for suffix in reversed(SUFFIXES)
        if item.name + suffix in by_name
    }
    if not found:
        message = (
            f"{folder} holds no mask of these pictures; "
            f"{items[0].name}.png or {items[0].name}_mask.png would be one"
        )
        raise MaskError(message)
    return found


def mask_on_map(
    path: Path, picture: tuple[int, int], extractor: FeatureExtractor
) -> NDArray[np.bool_]:
    """Read a mask and resize, crop and cut it as the picture was.

    Args:
        path: An image; every pixel above 0 belongs to the mask.
        picture: Width and height of the picture that it belongs to.
        extractor: Of the map.

    Returns:
        `(H, W)` bool, as large as the map.

    Raises:
        MaskError: It has another size than the picture.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    pixels = read_image(path).pixels
    inside = (pixels.max(axis=2) if pixels.ndim == 3 else pixels) > 0
    if inside.shape[::-1] != tuple(picture):
        high, wide = inside.shape
        message = f"{path} has {wide} x {high} pixels, its picture {picture[0]} x {picture[1]}"
        raise MaskError(message)
    preprocessing, settings = extractor.preprocessing, extractor.settings
    resize = preprocessing.resize
    size = [resize] if isinstance(resize, int) else list(resize)
    grey = Image.fromarray(inside.astype(np.uint8) * 255)
    resized = functional.resize(grey, size, InterpolationMode.NEAREST)
    cropped = np.asarray(functional.center_crop(resized, [preprocessing.crop] * 2)) > 0
    window = (settings.window, settings.window)
    return cut_margin(cropped, window) if settings.margin == "cut" else cropped
