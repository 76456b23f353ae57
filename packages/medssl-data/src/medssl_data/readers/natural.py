"""CIFAR-10 and CIFAR-100, from the binary or the Python archives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_data.errors import LabelError
from medssl_data.images.cifar import find_batches, read_labels
from medssl_data.manifest import Manifest, Row

if TYPE_CHECKING:
    from pathlib import Path

    from medssl_data.card import DatasetCard, Options

__all__ = ["read_cifar10", "read_cifar100"]

_TEN = {
    "cifar-10-batches-bin": [
        *((f"data_batch_{number}.bin", "train") for number in range(1, 6)),
        ("test_batch.bin", "test"),
    ],
    "cifar-10-batches-py": [
        *((f"data_batch_{number}", "train") for number in range(1, 6)),
        ("test_batch", "test"),
    ],
}
_HUNDRED = {
    "cifar-100-binary": [("train.bin", "train"), ("test.bin", "test")],
    "cifar-100-python": [("train", "train"), ("test", "test")],
}


def read_cifar10(card: DatasetCard, root: Path, options: Options) -> Manifest:
    """Read CIFAR-10 in the order of its batches."""
    del options
    return _read(card, root, _TEN)


def read_cifar100(card: DatasetCard, root: Path, options: Options) -> Manifest:
    """Read CIFAR-100 with its fine labels in the order of its files."""
    del options
    return _read(card, root, _HUNDRED)


def _read(card: DatasetCard, root: Path, layouts: dict[str, list[tuple[str, str]]]) -> Manifest:
    top, files = find_batches(root, layouts)
    rows: list[Row] = []
    for path, split in files:
        labels = read_labels(top / path)
        for index, label in enumerate(labels):
            if label >= len(card.classes):
                message = f"{top / path}, record {index}: label {label} is outside the classes"
                raise LabelError(message)
        start = len([row for row in rows if row.split == split]) if rows else 0
        rows += [
            Row(f"{split}/{start + index}", path, label, split=split, item=str(index))
            for index, label in enumerate(labels)
        ]
    return Manifest.from_rows(card.name, top, card.classes, rows, split_policy="official")
