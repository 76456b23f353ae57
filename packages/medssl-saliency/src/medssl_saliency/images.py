"""The images that are looked at: files and rows of data sets, named as folders can be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.errors import did_you_mean
from medssl_models.experiments.experiment import ImageFiles

from medssl_saliency.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from medssl_data import ImageDataset
    from medssl_data.images.reading import Reading
    from medssl_models.experiments.settings import ProtocolName
    from numpy.typing import NDArray
    from PIL.Image import Image

    from medssl_saliency.maps.settings import PicturesSettings

__all__ = ["ImageItem", "from_dataset", "from_files", "image_name", "items_of"]


@dataclass(frozen=True)
class ImageItem:
    """An image that is read when it is needed.

    Args:
        name: Unique among its fellows; its results lie in a folder of this name.
        read: Returns the image, mode RGB.
        dataset: Name of its data set; "" for a file.
        group: Its patient; "" where unknown.
        label: Its class; -1 where unknown.
    """

    name: str
    read: Callable[[], Image]
    dataset: str = ""
    group: str = ""
    label: int = -1


def items_of(data: ImageDataset | ImageFiles, settings: PicturesSettings) -> list[ImageItem]:
    """List the images that an experiment looks at; none is opened.

    Args:
        data: A data set, of which as many are drawn as the settings say, or picture files.
        settings: Names or number of pictures, the seed of the draw, and how volumes are read.

    Raises:
        medssl_data.errors.MissingFileError: A file is not there.

    Example:
        >>> from medssl_data import load_dataset
        >>> from medssl_saliency.maps.settings import PicturesSettings
        >>> data = load_dataset("phantom:chest-xray,count=8")
        >>> len(items_of(data, PicturesSettings(pictures=3)))
        3
    """
    if isinstance(data, ImageFiles):
        return from_files(data.paths, reading=settings.reading, protocol=settings.labels)
    names, limit = settings.named, settings.pictures
    if limit == "published":
        names, limit = names or data.published_pictures[:1], 1
    return from_dataset(data, names=names, limit=limit, seed=settings.seed)


def from_files(
    paths: Sequence[Path | str],
    *,
    reading: Reading | None = None,
    protocol: ProtocolName = "corrected",
) -> list[ImageItem]:
    """List picture files; none is opened.

    Args:
        paths: The files.
        reading: Slice and window of volumes; None is the file's own.
        protocol: `published` opens them as the study opened files.

    Raises:
        medssl_data.errors.MissingFileError: A file is not there.

    Example:
        >>> from PIL import Image
        >>> Image.new("L", (4, 3)).save("scan.png")
        >>> [item.name for item in from_files(["scan.png"])]
        ['scan']
    """
    from medssl_data.errors import MissingFileError
    from medssl_data.images.decoding import read_named

    files = [Path(path) for path in paths]
    for path in files:
        if not path.exists():
            message = f"{path} is not there; check the name"
            raise MissingFileError(message)
    names = _distinct(image_name(path.name) for path in files)
    return [
        ImageItem(name, lambda path=path: read_named(path, reading, protocol)[0])  # type: ignore[misc] # one for each
        for name, path in zip(names, files, strict=True)
    ]


def from_dataset(
    data: ImageDataset,
    *,
    names: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
) -> list[ImageItem]:
    """List images of a data set; none is opened.

    Args:
        data: The data set.
        names: Ids, or the file names that they end in, with or without a suffix; none are drawn.
        limit: How many to draw at random, each class with its share; None takes all.
        seed: Of the draw.

    Raises:
        SettingsError: The limit is not positive, or no image has one of the names.

    Example:
        >>> from medssl_data import load_dataset
        >>> items = from_dataset(load_dataset("phantom:chest-xray,count=8"), limit=2)
        >>> sorted(item.label for item in items)
        [0, 1]
    """
    if limit is not None and limit < 1:
        message = f"limit is {limit}; it must be at least 1"
        raise SettingsError(message)
    rows = [_row_of(data, name) for name in names] or _drawn(data.labels, limit, seed)
    unique = _distinct(image_name(data.ids[row]) for row in rows)
    return [
        ImageItem(
            name,
            lambda row=row: data.image(row),  # type: ignore[misc] # one for each
            dataset=data.name,
            group=data.groups[row],
            label=int(data.labels[row]),
        )
        for name, row in zip(unique, rows, strict=True)
    ]


def image_name(text: str) -> str:
    """Make a file or row name fit for a folder: no separators, no suffix.

    Example:
        >>> image_name("p1/scan 3.png")
        'p1-scan-3'
    """
    stem = re.sub(r"\.[A-Za-z]{2,5}$", "", text)
    return re.sub(r"[^\w.+-]+", "-", stem).strip(".-") or "image"


def _row_of(data: ImageDataset, name: str) -> int:
    """Find an image by its id, or by the end of it."""
    ids = data.ids
    for row, known in enumerate(ids):
        end = known.rpartition("/")[2]
        if name in {known, end, end.rpartition(".")[0]}:
            return row
    message = f"{data.name} has no picture {name!r}{did_you_mean(name, ids[:5000])}"
    raise SettingsError(message)


def _drawn(labels: NDArray[np.int64], limit: int | None, seed: int) -> list[int]:
    """Draw rows evenly over the classes: in order of class, shuffled within, every k-th."""
    if limit is None or limit >= len(labels):
        return list(range(len(labels)))
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    places = ((np.arange(limit) + 0.5) * len(labels) / limit).astype(int)
    return sorted(by_class[places].tolist())


def _distinct(names: Iterable[str]) -> list[str]:
    """Number names that occur more than once."""
    given: set[str] = set()
    unique = []
    for name in names:
        number, candidate = 1, name
        while candidate in given:
            number += 1
            candidate = f"{name}-{number}"
        given.add(candidate)
        unique.append(candidate)
    return unique
