"""The images that are reconstructed: files and images of data sets, read to 8-bit RGB."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from medssl_models.errors import did_you_mean
from medssl_models.experiments.experiment import ImageFiles

from medssl_dip.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from medssl_data import ImageDataset
    from medssl_data.images.reading import Reading
    from medssl_models.experiments.settings import ProtocolName
    from PIL import Image

    from medssl_dip.settings import ReconstructionSettings

__all__ = ["ImageItem", "check_names", "from_dataset", "from_files", "items_of"]


_OF_VOLUMES = {"axis", "position", "window", "transposed"}


@dataclass(frozen=True)
class ImageItem:
    """An image to reconstruct.

    Args:
        name: For folders and captions.
        image: 8-bit RGB.
        id: What tells it from the other images of its data set; empty takes the name.
        suffix: Of its file; the format of a result that is not kept losslessly.
        dataset: The data set that it comes from; empty for a file.
        notes: What was done to read it.
    """

    name: str
    image: Image.Image
    id: str = ""
    suffix: str = ".png"
    dataset: str = ""
    notes: tuple[str, ...] = ()


def items_of(data: ImageDataset | ImageFiles, settings: ReconstructionSettings) -> list[ImageItem]:
    """Read the images that the settings choose.

    Args:
        data: A data set, or picture files.
        settings: Names of images, and how volumes are read.

    Raises:
        SettingsError: No image has one of the names.
        MissingFileError: A file is not there.
        UnreadableImageError: A file is no picture.

    Example:
        >>> from medssl_data import load_dataset
        >>> from medssl_dip.settings import settings_for
        >>> data = load_dataset("phantom:chest-xray,count=8")
        >>> len(items_of(data, settings_for(pictures=data.ids[2:4])))
        2
    """
    if isinstance(data, ImageFiles):
        return from_files(data.paths, reading=settings.reading, protocol=settings.labels)
    return from_dataset(data, _names_in(data, settings), reading=settings.reading)


def check_names(data: ImageDataset | ImageFiles, settings: ReconstructionSettings) -> None:
    """Refuse names that no image has; no image is opened.

    Raises:
        SettingsError: No image has one of the names, or files were given.
    """
    if not isinstance(data, ImageFiles):
        for name in _names_in(data, settings):
            _row_of(data, name)
    elif settings.pictures not in ((), "published"):
        message = "picture names an image of a data set, not a file; name the data set too"
        raise SettingsError(message)


def from_files(
    paths: Iterable[Path | str],
    *,
    reading: Reading | None = None,
    protocol: ProtocolName = "corrected",
) -> list[ImageItem]:
    """Read picture files.

    Args:
        paths: PNG, JPEG, TIFF, DICOM, volumes and what else `medssl_data.read_rgb` takes.
        reading: Slice and window of volumes; None is the file's own.
        protocol: `published` opens them as the study opened files.

    Raises:
        MissingFileError: A file is not there.
        UnreadableImageError: A file is no picture.

    Example:
        >>> from PIL import Image
        >>> Image.new("L", (40, 30)).save("scan.png")
        >>> [item.name for item in from_files(["scan.png"])]
        ['scan']
    """
    from medssl_data.images.decoding import read_named

    items = []
    for path in map(Path, paths):
        image, rule = read_named(path, reading, protocol)
        notes = () if rule in {"", "RGB"} else (f"read as: {rule}",)
        items.append(ImageItem(path.stem, image, suffix=path.suffix, notes=notes))
    return items


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
        cut = data.manifest.reading.model_copy(update=reading.model_dump(include=_OF_VOLUMES))
        data = dataclasses.replace(data, manifest=dataclasses.replace(data.manifest, reading=cut))
    return [
        ImageItem(
            PurePosixPath(data.ids[row]).stem,
            data.image(row),
            id=data.ids[row],
            suffix=PurePosixPath(data.manifest.paths[row]).suffix,
            dataset=data.name,
            notes=data.notes,
        )
        for row in rows
    ]


def _names_in(data: ImageDataset, settings: ReconstructionSettings) -> tuple[str, ...]:
    if settings.pictures == "published":
        return tuple(data.published_pictures[:1])
    return settings.pictures


def _row_of(data: ImageDataset, name: str) -> int:
    ids = data.ids
    fitting = [row for row, known in enumerate(ids) if name in {known, known.rpartition("/")[2]}]
    if not fitting:
        message = f"picture: {data.name} has no {name!r}" + did_you_mean(name, ids[:5000])
        raise SettingsError(message)
    return fitting[0]
