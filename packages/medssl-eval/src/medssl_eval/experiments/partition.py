"""Which images train, which choose and which test: for experiments that fit something.

Splits come from the manifest. What is decided here is the validation part where there is none, the
folds of cross-validation, and which images remain when only a fraction of the labels is to be used.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.errors import InfeasibleError
from medssl_eval.experiments.features import patients_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from medssl_data import ImageDataset
    from medssl_data.manifest import Manifest
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

__all__ = [
    "LEAST_FOLDS",
    "VALIDATION_SHARE",
    "Partition",
    "assign_folds",
    "bootstrap_times",
    "check_folds",
    "keep_fraction",
    "partition",
    "truncate_targets",
]

VALIDATION_SHARE = 0.2
"""Of the training images, where the data set brings no validation part: the study's share."""

LEAST_FOLDS = 3
"""Of nested cross-validation: one asks, one chooses, one trains."""

ATTEMPTS = 1000
"""Samples in a row that may fail to serve."""

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
            parts[name] = keep_fraction(
                data.labels, parts[name], fraction, groups=groups, seed=seed
            )
    if readable is not None:
        parts = {name: rows[np.isin(rows, readable)] for name, rows in parts.items()}
    _check(data, parts)
    notes = _shared_patients(data.groups, parts)
    return Partition(parts["train"], parts["val"], parts["test"], notes)


def assign_folds(
    labels: Rows,
    folds: int,
    *,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> Rows:
    """Deal rows into folds, stratified by class.

    Args:
        labels: (N,) int64.
        folds: Number of folds, at least 2.
        seed: Decides who meets whom.
        groups: N patient names; all images of one are in one fold.
        names: Class names, for messages.

    Returns:
        (N,) int64 in 0..folds-1, the fold in which a row is a question.

    Raises:
        InfeasibleError: Fewer than two classes, or a class with fewer images or patients than
            folds.

    Example:
        >>> assign_folds(np.array([0, 0, 0, 1, 1, 1]), 3).tolist()
        [2, 1, 0, 2, 0, 1]
    """
    from sklearn.model_selection import (
        StratifiedGroupKFold,
        StratifiedKFold,
    )

    check_folds(labels, folds, groups=groups, names=names)
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(n_splits=folds, shuffle=True, random_state=seed)
    fold_of = np.empty(len(labels), dtype=np.int64)
    for fold, (_, asked) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
        fold_of[asked] = fold
    return fold_of


def check_folds(
    labels: Rows,
    folds: int,
    *,
    groups: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Say whether folds can be dealt; arguments and errors as in `assign_folds`."""
    present = np.unique(labels)
    if len(present) < 2:
        message = "all images are of one class; folds need images of at least two"
        raise InfeasibleError(message)
    who = _owners(len(labels), groups)
    noun = "images" if groups is None else "patients"
    for label in present.tolist():
        size = len(np.unique(who[labels == label]))
        if size < folds:
            name = names[label] if names is not None else str(label)
            counted = noun if size != 1 else noun[:-1]
            message = f"class {name!r} has {size} {counted} for {folds} folds; " + (
                f"use {size} folds or fewer" if size >= 2 else "add images, or leave the class out"
            )
            raise InfeasibleError(message)


def keep_fraction(
    labels: Rows,
    part: Rows,
    fraction: float,
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    folds: Rows | None = None,
) -> Rows:
    """Keep a share of the patients of each class; a patient counts for his rarest class.

    Args:
        labels: (N,) int64, of all rows.
        part: (M,) int64, the rows to keep some of.
        fraction: In (0, 1]; what it keeps is part of what a larger one keeps.
        groups: N patient names; None counts images.
        seed: Decides who stays.
        folds: (N,) int64, the fold of each row: each class then loses patients of all folds alike,
            and keeps one in each of three folds at least.

    Returns:
        (K,) int64, the rows that stay, of each class at least one, in the order of `part`.
    """
    owners = _owners(len(labels), groups)[part]
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
        least = 1
        if folds is not None:
            members = _in_turns(members, folds[part][order[first]])
            least = LEAST_FOLDS
        count = max(least, int(np.ceil(fraction * len(members) - 1e-9)))
        kept += patients[members[:count]].tolist()
    return part[np.isin(owners, kept)]


def bootstrap_times(
    groups: Sequence[str],
    parts: Sequence[Rows],
    *,
    count: int,
    seed: int,
    serves: Callable[[Rows], bool],
) -> Iterator[Rows]:
    """Draw the patients of training parts with replacement.

    Args:
        groups: N patient names, "" where unknown: such an image is drawn alone.
        parts: Rows whose patients are drawn, each part for itself.
        count: How many samples.
        seed: Decides which.
        serves: Tells whether something can be learnt from a sample; others are drawn anew.

    Yields:
        (N,) int64, how often each row stands in a sample; 0 outside the parts.

    Raises:
        InfeasibleError: Hardly any sample serves.

    References:
        Field and Welsh, Bootstrapping clustered data, 2007 (patients drawn as a whole).

    Example:
        >>> draws = bootstrap_times(
        ...     ["anna", "anna", "ben"], [np.arange(3)], count=1, seed=2, serves=lambda _: True
        ... )
        >>> next(draws).tolist()
        [0, 0, 2]
    """
    generator = np.random.default_rng([seed, 2])
    who = _owners(len(groups), [group or f"\0{row}" for row, group in enumerate(groups)])
    for _ in range(count):
        for _ in range(ATTEMPTS):
            times = np.zeros(len(groups), np.int64)
            for part in parts:
                patients, own = np.unique(who[part], return_inverse=True)
                drawn = generator.integers(0, len(patients), len(patients))
                times[part] += np.bincount(drawn, minlength=len(patients))[own]
            if serves(times):
                break
        else:
            message = (
                f"{ATTEMPTS} samples of the training patients in a row lack a class: they are too "
                "few for refits"
            )
            raise InfeasibleError(message)
        yield times


def _in_turns(members: Rows, fold_of: Rows) -> Rows:
    """Order members so that one of each fold comes before a second of any."""
    by_fold = np.argsort(fold_of[members], kind="stable")
    _, first, folds = np.unique(fold_of[members][by_fold], return_index=True, return_inverse=True)
    turn = np.empty(len(members), np.int64)
    turn[by_fold] = np.arange(len(members)) - first[folds]
    return np.asarray(members[np.argsort(turn, kind="stable")], np.int64)


def _owners(rows: int, groups: Sequence[str] | None) -> Rows:
    """Number the patient of each row, or the row itself."""
    if groups is None:
        return np.arange(rows)
    return np.unique(np.array(groups), return_inverse=True)[1].astype(np.int64)


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
