"""Which images train and which test: the study's own cut, by patient, the owner's, or a file.

Splits only name rows; nothing is dropped here.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medssl_data.errors import SplitError
from medssl_data.files import write_atomically
from medssl_data.tables.text import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from medssl_data.card import StudySplit
    from medssl_data.manifest import Manifest

__all__ = [
    "FRACTIONS",
    "STUDY_SEED",
    "VALIDATION_SEED",
    "patient_split",
    "published_split",
    "read_split",
    "shuffle_order",
    "split_digest",
    "validation_order",
    "with_validation",
    "write_split",
]

STUDY_SEED = 42
"""Seed of the order of rows."""

VALIDATION_SEED = 0
"""Seed of the choice of validation rows."""

FRACTIONS: Mapping[str, float] = {"train": 0.64, "val": 0.16, "test": 0.2}
"""The study's 80/20, with a fifth of the training part for validation."""


def shuffle_order(rows: int, *, seed: int = STUDY_SEED) -> npt.NDArray[np.int64]:
    """The study's shuffle: row i of the result is original row `order[i]`.

    The legacy generator of NumPy is used because it is frozen: the same numbers for ever.

    Args:
        rows: number of rows, N.
        seed: 42 in the study.

    Returns:
        (N,) int64 permutation.

    Example:
        >>> shuffle_order(138)[:5].tolist()
        [89, 105, 12, 26, 64]
    """
    return np.random.RandomState(seed).permutation(rows).astype(np.int64)


def validation_order(rows: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The study's cut of its training part into validation and training for linear evaluation.

    Args:
        rows: number of training rows, N.

    Returns:
        floor(0.2 N) validation positions and the rest, both int64, in the study's order.
    """
    order = shuffle_order(rows, seed=VALIDATION_SEED)
    cut = rows * 2 // 10
    return order[:cut], order[cut:]


def with_validation(manifest: Manifest) -> Manifest:
    """Call the study's fifth of the training rows, in their present order, "val".

    Args:
        manifest: rows with a split "train".

    Raises:
        SplitError: no training rows, or validation rows already.
    """
    train = [index for index, split in enumerate(manifest.splits) if split == "train"]
    if not train or "val" in manifest.splits:
        msg = f"{manifest.name} needs training rows and no validation rows for this"
        raise SplitError(msg)
    chosen, _ = validation_order(len(train))
    splits = list(manifest.splits)
    for position in chosen.tolist():
        splits[train[position]] = "val"
    policy = f"{manifest.split_policy}, validation by seed {VALIDATION_SEED}"
    return replace(manifest, splits=tuple(splits), split_policy=policy)


def published_split(manifest: Manifest, study: StudySplit) -> Manifest:
    """Order and cut the rows as the study did: by image, never by patient.

    Args:
        manifest: all rows in file order, those without a label included; for the rule "files"
            their `splits` say train or test.
        study: rule and counts of the card. Copies with another number of rows are cut at the same
            fraction, and a note says so.

    Returns:
        The shuffled training rows followed by the shuffled test rows.

    Raises:
        SplitError: the rule "files" and rows without a split.
    """
    if study.rule == "files":
        parts = [_shuffled_part(manifest, name) for name in ("train", "test")]
        order = np.concatenate(parts)
        if len(order) != len(manifest):
            msg = f"{manifest.name}: the published split takes rows of train and test only"
            raise SplitError(msg)
        splits = tuple(manifest.splits[i] for i in order)
    elif study.rule == "official":
        return replace(manifest, split_policy="published")
    else:
        rows = len(manifest)
        order = shuffle_order(rows)
        train = study.train_rows if rows == study.rows else rows * study.train_rows // study.rows
        splits = ("train",) * train + ("test",) * (rows - train)
    cut = replace(manifest.select(order.tolist()), splits=splits, split_policy="published")
    if len(manifest) == study.rows:
        return cut
    return cut.noted(
        f"published split of {len(manifest)} rows; the study had {study.rows}, so it is another cut"
    )


def _shuffled_part(manifest: Manifest, name: str) -> npt.NDArray[np.int64]:
    part = np.array([i for i, split in enumerate(manifest.splits) if split == name], np.int64)
    return part[shuffle_order(len(part))]


def patient_split(
    manifest: Manifest, *, seed: int = 0, fractions: Mapping[str, float] = FRACTIONS
) -> Manifest:
    """Cut so that no patient stands on two sides and every split has its share of each class.

    Patients are dealt in a seeded order, those with the rarest class and the most images first,
    each to the split that lacks most of what the patient brings. Images of unknown patients count
    as patients of their own. The order of the rows stays.

    Args:
        manifest: any rows; those without a label are dealt too.
        seed: another seed is another cut.
        fractions: share of each split, in sum 1.

    Raises:
        SplitError: fractions that do not sum to 1, or fewer patients than splits.
    """
    if abs(sum(fractions.values()) - 1) > 1e-9 or min(fractions.values()) <= 0:
        msg = f"fractions {dict(fractions)} must be positive and sum to 1"
        raise SplitError(msg)
    members = _members(manifest)
    if len(members) < len(fractions):
        msg = (
            f"{manifest.name} has {len(members)} patients for {len(fractions)} splits; "
            "each split needs one: give more patients or fewer splits"
        )
        raise SplitError(msg)
    owners = _deal(manifest.labels, members, seed, fractions)
    splits = [""] * len(manifest)
    for name, indices in zip(owners, members, strict=True):
        for index in indices:
            splits[index] = name
    shares = "/".join(f"{name} {share:g}" for name, share in fractions.items())
    return replace(manifest, splits=tuple(splits), split_policy=f"patient, seed {seed}, {shares}")


def _members(manifest: Manifest) -> list[list[int]]:
    """Rows of each patient, sorted by name, so that the order of rows does not matter."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, (group, ident) in enumerate(zip(manifest.groups, manifest.ids, strict=True)):
        found[group, "" if group else ident].append(index)
    return [found[key] for key in sorted(found)]


def _deal(
    labels: Sequence[int],
    members: list[list[int]],
    seed: int,
    fractions: Mapping[str, float],
) -> list[str]:
    total = Counter(labels)
    names = list(fractions)
    lack = {name: {label: fractions[name] * total[label] for label in total} for name in names}
    brought = [Counter([labels[index] for index in indices]) for indices in members]
    order = np.random.default_rng(seed).permutation(len(members)).tolist()
    rarity = [min(total[label] for label in counts) for counts in brought]
    order.sort(key=lambda i: (rarity[i], -len(members[i])))
    owners = [""] * len(members)
    for index in order:
        counts = brought[index]
        best = max(names, key=lambda name: _need(lack[name], counts, total))
        for label, number in counts.items():
            lack[best][label] -= number
        owners[index] = best
    return owners


def _need(lack: Mapping[int, float], counts: Mapping[int, int], total: Mapping[int, int]) -> float:
    return sum(number * lack[label] / total[label] for label, number in counts.items())


def split_digest(manifest: Manifest) -> str:
    """SHA-256 over id and split of every row, whatever the order of the rows."""
    lines = sorted(f"{i}\t{split}" for i, split in zip(manifest.ids, manifest.splits, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_split(manifest: Manifest, path: Path) -> str:
    """Write id, split, group and class of every row as CSV, and return the digest.

    Args:
        manifest: rows with splits.
        path: file to write.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("id", "split", "group", "label"))
    for row in manifest.rows:
        label = manifest.classes[row.label] if row.label >= 0 else ""
        writer.writerow((row.id, row.split, row.group, label))
    write_atomically(path, buffer.getvalue().encode())
    return split_digest(manifest)


def read_split(manifest: Manifest, path: Path) -> Manifest:
    """Take the splits from a CSV with columns id and split.

    Rows that the file does not name get no split.

    Args:
        manifest: the rows.
        path: the file, as `write_split` makes it.

    Raises:
        SplitError: an id is unknown or occurs twice.
        TableError: no such columns.
    """
    table = read_table(path)
    ids, names = table.required("id"), table.required("split")
    known = set(manifest.ids)
    found: dict[str, str] = {}
    for index, (ident, name) in enumerate(zip(ids, names, strict=True)):
        if ident not in known or ident in found:
            fault = "occurs twice" if ident in found else f"is no image of {manifest.name}"
            msg = f"{table.where(index)}: id {ident!r} {fault}; correct the file"
            raise SplitError(msg)
        found[ident] = name
    splits = tuple(found.get(ident, "") for ident in manifest.ids)
    return replace(manifest, splits=splits, split_policy=f"file {path.name}")
