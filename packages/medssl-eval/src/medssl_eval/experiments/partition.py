"""Which images train, which choose and which test: for experiments that fit something.

Splits come from the manifest. What is decided here is the validation part where there is none, and
which images remain when only a fraction of the labels is to be used.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.errors import InfeasibleError
from medssl_eval.experiments.features import patients_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_data import ImageDataset
    from medssl_data.manifest import Manifest
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

__all__ = ["VALIDATION_SHARE", "Partition", "partition", "truncate_targets"]

VALIDATION_SHARE = 0.2
"""Of the training images, where the data set brings no validation part: the study's share."""

_PARTS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True, eq=False)
class Partition:
    """Row numbers of the three parts, each in the order of the data set.

    Args:
        train: (N,) int64.
        validation: (V,) int64.
        test: (T,) int64.
        notes: What a record must say, such as patients that stand on two sides.
    """

    train: Rows
    validation: Rows
    test: Rows
    notes: tuple[str, ...] = ()

    def among(self, rows: Rows) -> Partition:
        """The same parts as positions in `rows`, (M,) int64, which holds all of them, ascending."""
        train, validation, test = (
            np.searchsorted(rows, part) for part in (self.train, self.validation, self.test)
        )
        return Partition(train, validation, test, self.notes)


def partition(
    data: ImageDataset,
    *,
    separate: bool = True,
    fraction: float = 1.0,
    seed: int = 0,
    readable: Rows | None = None,
) -> Partition:
    """Cut a data set into training, validation and test parts, and check that each can serve.

    The manifest's splits are kept. Without validation images a fifth of the training images becomes
    them: with `separate` by patient, with each class's share, else the study's own draw.

    A fraction keeps that share of the training and of the validation patients (images where
    patients are unknown or not kept together), of each class at least one. Fractions are nested:
    a smaller one is part of a larger one with the same seed. The test part stays whole.

    Args:
        data: Images with splits; those of other splits than train, val and test take no part.
        separate: Whether images of a patient stay together.
        fraction: In (0, 1].
        seed: Decides who validates and who belongs to a fraction.
        readable: Row numbers of the images that could be read; the others leave their part. None
            is all of them.

    Raises:
        InfeasibleError: A part is missing or holds one class only, or the test part holds a class
            that the training part lacks.
    """
    splits = _with_validation(data.manifest, separate=separate, seed=seed)
    parts = {name: np.flatnonzero(np.array(splits) == name) for name in _PARTS}
    groups = patients_of(data.groups, separate=separate)
    if fraction < 1:
        for name in ("train", "val"):
            parts[name] = _fraction(data.labels, groups, parts[name], fraction, seed)
    if readable is not None:
        parts = {name: rows[np.isin(rows, readable)] for name, rows in parts.items()}
    _check(data, parts)
    notes = _shared_patients(data.groups, parts)
    return Partition(parts["train"], parts["val"], parts["test"], notes)


def truncate_targets(data: ImageDataset) -> ImageDataset:
    """Cut soft targets down to whole labels, as the study did without meaning to (I-2)."""
    from medssl_data import ImageDataset as Images

    manifest = data.manifest
    if manifest.targets is None:
        return data
    hard = replace(
        manifest,
        labels=tuple(int(target) for target in manifest.targets),
        targets=None,
        label_policy=f"{manifest.label_policy}, truncated",
    )
    return Images(hard, data.card, data.cache)


def _with_validation(manifest: Manifest, *, separate: bool, seed: int) -> Sequence[str]:
    """Name the split of each row; a validation part is cut off where there is none."""
    from medssl_data.splits import patient_split, with_validation

    _demand(manifest, "train")
    _demand(manifest, "test")
    if "val" in manifest.splits:
        return manifest.splits
    if not separate:
        return with_validation(manifest).splits
    splits = list(manifest.splits)
    train = [row for row, split in enumerate(splits) if split == "train"]
    shares = {"train": 1 - VALIDATION_SHARE, "val": VALIDATION_SHARE}
    cut = patient_split(manifest.select(train), seed=seed, fractions=shares)
    for row, split in zip(train, cut.splits, strict=True):
        splits[row] = split
    return splits


def _demand(manifest: Manifest, split: str) -> None:
    if split in manifest.splits:
        return
    present = ", ".join(sorted({name for name in manifest.splits if name})) or "none"
    message = (
        f"{manifest.name} has no {_PARTS[split]} images (splits: {present}); choose the split "
        "patient, or a CSV file with columns id and split of train, val and test"
    )
    raise InfeasibleError(message)


def _fraction(
    labels: Rows, groups: list[str] | None, part: Rows, fraction: float, seed: int
) -> Rows:
    """Keep a share of the patients of each class; a patient counts for his rarest class."""
    owners = part if groups is None else np.unique(np.array(groups), return_inverse=True)[1][part]
    sizes = np.bincount(labels[part])
    rarity = sizes[labels[part]]
    # One row stands for each patient: one of his rarest class.
    order = np.lexsort((labels[part], rarity, owners))
    patients, first = np.unique(owners[order], return_index=True)
    strata = labels[part][order[first]]
    shuffled = np.random.default_rng([seed, len(part)]).permutation(len(patients))
    kept: list[int] = []
    for label in np.unique(strata):
        members = shuffled[strata[shuffled] == label]
        kept += patients[members[: int(np.ceil(fraction * len(members) - 1e-9))]].tolist()
    return part[np.isin(owners, kept)]


def _check(data: ImageDataset, parts: dict[str, Rows]) -> None:
    held = {name: set(data.labels[rows].tolist()) for name, rows in parts.items()}
    for name, present in held.items():
        if len(present) < 2:
            what = f"only class {data.classes[present.pop()]!r}" if present else "no image"
            message = (
                f"{data.name}: the {_PARTS[name]} part holds {what}; at least two classes are "
                "needed in each part: choose another split or a larger fraction"
            )
            raise InfeasibleError(message)
    unseen = sorted((held["test"] | held["val"]) - held["train"])
    if unseen:
        names = ", ".join(repr(data.classes[label]) for label in unseen)
        message = (
            f"{data.name}: no training image of class {names}, which validation or test images "
            "have; choose another split or a larger fraction, or leave the class out"
        )
        raise InfeasibleError(message)


def _shared_patients(groups: Sequence[str], parts: dict[str, Rows]) -> tuple[str, ...]:
    """Say how many patients stand in the test part and in a part that the model learns from."""
    counts = Counter(groups[row] for row in parts["test"] if groups[row])
    learnt = {groups[row] for name in ("train", "val") for row in parts[name]}
    shared = [name for name in counts if name in learnt]
    if not shared:
        return ()
    images = sum(counts[name] for name in shared)
    return (f"leak: {len(shared)} patients of {images} test images are in the training images too",)
