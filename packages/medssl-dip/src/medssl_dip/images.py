"""The pictures that are reconstructed: files and images of data sets, read to 8-bit RGB."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from medssl_models.suggestions import did_you_mean

from medssl_dip.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from medssl_data import ImageDataset
    from medssl_data.images.reading import Reading
    from PIL import Image

__all__ = ["ImageItem", "from_dataset", "from_files"]


@dataclass(frozen=True)
class ImageItem:
    """A picture to reconstruct.

    Args:
        name: For folders, tables and records.
        image: 8-bit RGB.
        suffix: Of its file; the format of a result that is not kept losslessly.
        dataset: The data set that it comes from, where it is one.
        notes: What was done to read it.
    """

    name: str
    image: Image.Image
    suffix: str = ".png"
    dataset: str = ""
    notes: tuple[str, ...] = ()


def from_files(paths: Iterable[Path], *, reading: Reading | None = None) -> list[ImageItem]:
    """Read picture files.

    Args:
        paths: PNG, JPEG, TIFF, DICOM, volumes and what else `medssl_data.read_rgb` takes.
        reading: Slice and window of volumes; None is the file's own.

    Raises:
        MissingFileError: A file is not there.
        UnreadableImageError: A file is no picture.
    """
    from medssl_data.images.decoding import read_rgb

    pictures = []
    for path in paths:
        image, rule = read_rgb(path, reading=reading)
        notes = () if rule in {"", "RGB"} else (f"read as: {rule}",)
        pictures.append(ImageItem(path.stem, image, suffix=path.suffix, notes=notes))
    return pictures


def from_dataset(
    data: ImageDataset, names: Sequence[str] = (), *, reading: Reading | None = None
) -> list[ImageItem]:
    """Read images of a data set.

    Args:
        data: The data set.
        names: Ids of images, or the file names that they end in; nothing takes the first image.
        reading: Slice and window of volumes; None is the data set's own.

    Raises:
        SettingsError: No image has one of the names.
        UnreadableImageError: A file is no picture.
    """
    rows = [_row_of(data, name) for name in names] or [0]
    if reading is not None:
        manifest = dataclasses.replace(data.manifest, reading=reading)
        data = dataclasses.replace(data, manifest=manifest)
    return [
        ImageItem(
            PurePosixPath(data.ids[row]).stem,
            data.image(row),
            suffix=PurePosixPath(data.manifest.paths[row]).suffix,
            dataset=data.name,
            notes=data.notes,
        )
        for row in rows
    ]


def _row_of(data: ImageDataset, name: str) -> int:
    ids = data.ids
    fitting = [row for row, known in enumerate(ids) if name in {known, known.rpartition("/")[2]}]
    if not fitting:
        message = f"picture: {data.name} has no {name!r}" + did_you_mean(name, ids[:5000])
        raise SettingsError(message)
    return fitting[0]
