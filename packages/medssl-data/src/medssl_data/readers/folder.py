"""`folder:DIR`: one sub-folder for each class, as torchvision's ImageFolder has it.

Folders called train, val, valid, validation and test above the class folders become splits.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from medssl_data.errors import EmptySourceError, MissingDatasetError
from medssl_data.manifest import Manifest, Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["SUFFIXES", "read_folder"]

SUFFIXES = frozenset([
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".pgm", ".ppm", ".webp",
    ".dcm", ".mha", ".nrrd", ".nii", ".nii.gz",
])  # fmt: skip
"""Files that count as images; all others in a class folder are left alone."""

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def read_folder(directory: Path) -> Manifest:
    """List the images of class sub-folders; symbolic links are followed.

    Args:
        directory: Holds one folder for each class, or train/val/test folders that do.

    Returns:
        A manifest in sorted order whose ids are the relative paths; patients are unknown.

    Raises:
        MissingDatasetError: There is no such folder.
        EmptySourceError: No class folder, or a class folder without images.
    """
    if not directory.is_dir():
        fault = "is a file" if directory.exists() else "is not there"
        message = f"folder {directory} {fault}; name the folder that holds the class folders"
        raise MissingDatasetError(message)
    top = _folders(directory)
    splits = {folder: _SPLITS[folder.casefold()] for folder in top if folder.casefold() in _SPLITS}
    if top and len(splits) == len(top):
        nested = {folder: _folders(directory / folder) for folder in top}
        classes = sorted({name for names in nested.values() for name in names})
        places = [(f, name, splits[f]) for f in top for name in nested[f]]
    else:
        classes, places = top, [("", name, "") for name in top]
    if not classes:
        message = (
            f"folder {directory} has no class folders; sort the images into one for each class"
        )
        raise EmptySourceError(message)
    rows = [row for place in places for row in _class_rows(directory, classes, *place)]
    return Manifest.from_rows(
        directory.resolve().name or "folder",
        directory,
        classes,
        rows,
        label_policy="the folder's name",
        split_policy="official" if splits and rows[0].split else "",
    )


def _folders(directory: Path) -> list[str]:
    names = (entry.name for entry in os.scandir(directory) if entry.is_dir())
    return sorted(name for name in names if not name.startswith((".", "__")))


def _class_rows(
    directory: Path, classes: list[str], above: str, name: str, split: str
) -> Iterator[Row]:
    label = classes.index(name)
    folder = directory / above / name
    found = False
    for file in _images(folder, seen=frozenset()):
        found = True
        path = file.relative_to(directory).as_posix()
        yield Row(path, path, label, split=split)
    if not found:
        message = (
            f"class folder {folder} holds no image ({', '.join(sorted(SUFFIXES))}); "
            "add images or remove the folder"
        )
        raise EmptySourceError(message)


def _images(folder: Path, seen: frozenset[Path]) -> Iterator[Path]:
    """Yield files in sorted order; a link that leads back to a folder above it ends there."""
    here = folder.resolve()
    if here in seen:
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _images(folder / entry.name, seen | {here})
        elif entry.name.casefold().endswith(tuple(SUFFIXES)):
            yield folder / entry.name
