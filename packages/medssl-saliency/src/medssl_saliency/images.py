"""The pictures that are looked at: files and rows of data sets, named so that folders can be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medssl_saliency.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from medssl_data import ImageDataset
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = ["Subject", "from_dataset", "from_files", "image_name"]


@dataclass(frozen=True)
class Subject:
    """A picture that is read when it is needed.

    Attributes:
        name: Unique among its fellows; its results lie in a folder of this name.
        read: Gives the picture, mode RGB.
        dataset: Name of its data set; "" for a file.
        group: Its patient; "" where unknown.
        label: Its class; -1 where unknown.
        notes: What every number made from it must carry.
    """

    name: str
    read: Callable[[], Image]
    dataset: str = ""
    group: str = ""
    label: int = -1
    notes: tuple[str, ...] = ()


def from_files(paths: Sequence[Path]) -> list[Subject]:
    """Name picture files; none is opened.

    Raises:
        medssl_data.errors.MissingFileError: A file is not there.
    """
    from medssl_data.errors import MissingFileError
    from medssl_data.images import read_rgb

    for path in paths:
        if not path.exists():
            message = f"{path} is not there; check the name"
            raise MissingFileError(message)
    names = _distinct(image_name(path.name) for path in paths)
    return [
        Subject(name, lambda path=path: read_rgb(path)[0])  # type: ignore[misc] # one for each
        for name, path in zip(names, paths, strict=True)
    ]


def from_dataset(data: ImageDataset, *, limit: int | None = None, seed: int = 0) -> list[Subject]:
    """Take pictures of a data set; none is opened.

    Args:
        data: The data set.
        limit: How many to draw at random, each class with its share; None takes all.
        seed: Of the draw.

    Raises:
        SettingsError: The limit is not positive.
    """
    if limit is not None and limit < 1:
        message = f"limit is {limit}; it must be at least 1"
        raise SettingsError(message)
    rows = _drawn(data.labels, limit, seed)
    names = _distinct(image_name(data.ids[row]) for row in rows)
    return [
        Subject(
            name,
            lambda row=row: data.image(row),  # type: ignore[misc] # one for each
            dataset=data.name,
            group=data.groups[row],
            label=int(data.labels[row]),
            notes=data.notes,
        )
        for name, row in zip(names, rows, strict=True)
    ]


def image_name(text: str) -> str:
    """Make a file or row name fit for a folder: no separators, no suffix.

    Example:
        >>> image_name("p1/scan 3.png")
        'p1-scan-3'
    """
    stem = re.sub(r"\.[A-Za-z]{2,5}$", "", text)
    return re.sub(r"[^\w.+-]+", "-", stem).strip(".-") or "image"


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
