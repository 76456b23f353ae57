"""`medmnist:FILE.npz`: any two-dimensional MedMNIST or MedMNIST+ file, read picture by picture.

The file is neither loaded as a whole nor unpickled. Its train, val and test parts become splits.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from medssl_data.errors import LabelError, ManifestError, MissingDatasetError, SettingError
from medssl_data.images.archives import ArrayHeader, member_headers, open_member
from medssl_data.manifest import Manifest, Row

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_medmnist"]

_MOST_CLASSES = 10_000
_PARTS = ("train", "val", "test")


def read_medmnist(path: Path, target: str | None = None) -> Manifest:
    """List the pictures of a MedMNIST file.

    Args:
        path: `NAME.npz` or `NAME_224.npz` and the like.
        target: Finding to predict, by name or number, where a picture has several labels.

    Returns:
        A manifest of train, val and test in this order, items `train_images/0` and so on.

    Raises:
        MissingDatasetError: There is no such file.
        ManifestError: Arrays are missing, do not fit, or hold volumes.
        LabelError: A label is not a class of this set.
        SettingError: `target` is needed, or is not a finding.
    """
    if not path.is_file():
        message = f"{path} is not there; the files are at https://zenodo.org/records/10519652"
        raise MissingDatasetError(message)
    headers = member_headers(path)
    parts = [part for part in _PARTS if f"{part}_images" in headers]
    if not parts:
        message = (
            f"{path} holds no train_images, val_images or test_images and is not a MedMNIST file"
        )
        raise ManifestError(message)
    for part in parts:
        _check(path, part, headers)
    labels = {part: np.asarray(open_member(path, f"{part}_labels")) for part in parts}
    classes, columns, finding = _columns(path, labels, target)
    rows = [
        Row(f"{part}/{index}", path.name, label, split=part, item=f"{part}_images/{index}")
        for part in parts
        for index, label in enumerate(columns[part])
    ]
    return Manifest.from_rows(
        path.stem,
        path.parent,
        classes,
        rows,
        split_policy="official",
        selection={"target": finding} if finding else {},
    )


def _check(path: Path, part: str, headers: dict[str, ArrayHeader]) -> None:
    images, labels = headers[f"{part}_images"], headers.get(f"{part}_labels")
    if labels is None or labels.shape[:1] != images.shape[:1] or len(labels.shape) != 2:
        message = f"{path}: {part}_labels does not fit {part}_images {images.shape}; fetch it again"
        raise ManifestError(message)
    if not np.issubdtype(labels.dtype, np.integer):
        message = f"{path}: {part}_labels are {labels.dtype}, not whole numbers"
        raise ManifestError(message)
    grey, colour = len(images.shape) == 3, len(images.shape) == 4 and images.shape[3] == 3
    if not (grey or colour) or images.dtype != np.uint8:
        message = f"{path}: {part}_images are {images.dtype} {images.shape}, no 8-bit 2-D pictures"
        raise ManifestError(message)


def _columns(
    path: Path, labels: dict[str, np.ndarray], target: str | None
) -> tuple[list[str], dict[str, list[int]], str]:
    """Return class names, labels of each part, and the chosen finding where there are several."""
    width = {array.shape[1] for array in labels.values()}
    if len(width) != 1:
        message = f"{path}: the parts have different numbers of labels"
        raise ManifestError(message)
    known = _names(path.stem)
    if width == {1}:
        if target is not None:
            message = f"{path} has one label for each picture; leave target={target} out"
            raise SettingError(message)
        columns = {part: array[:, 0].astype(int).tolist() for part, array in labels.items()}
        found = {label for column in columns.values() for label in column}
        last = max(found, default=-1)
        if last >= _MOST_CLASSES:
            message = f"{path}: label {last} is beyond the limit of {_MOST_CLASSES:,} classes"
            raise LabelError(message)
        classes = known or [str(label) for label in range(last + 1)]
        strange = sorted(found - set(range(len(classes))))
        if strange:
            message = (
                f"{path}: label {strange[-1]} is outside the {len(classes)} classes of this set"
            )
            raise LabelError(message)
        return classes, columns, ""
    findings = known or [str(index) for index in range(width.pop())]
    chosen = _finding(path, findings, target)
    columns = {part: (array[:, chosen] > 0).astype(int).tolist() for part, array in labels.items()}
    return [f"no {findings[chosen]}", findings[chosen]], columns, findings[chosen]


def _finding(path: Path, findings: list[str], target: str | None) -> int:
    if target in findings:
        return findings.index(target)
    if target is not None and target.isdecimal() and int(target) < len(findings):
        return int(target)
    listed = ", ".join(findings)
    message = (
        f"{path} has {len(findings)} labels for each picture; choose one of {listed}: "
        f"medmnist:{path},target={findings[0]}"
    )
    raise SettingError(message)


def _names(stem: str) -> list[str]:
    return _known_sets().get(stem.split("_", maxsplit=1)[0].casefold(), [])


@cache
def _known_sets() -> dict[str, list[str]]:
    file = resources.files("medssl_data") / "readers" / "medmnist.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))
