"""Which images train and which test: the 2022 study's split, by patient, the owner's, or a file.

Splits only name rows; nothing is dropped here.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from medssl_data.errors import SplitError
from medssl_data.files import sha256_of, write_atomically
from medssl_data.tables.text import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from medssl_data.card import DatasetCard, ProtocolName, PublishedSplit
    from medssl_data.manifest import Manifest

__all__ = [
    "FRACTIONS",
    "PUBLISHED_SEED",
    "VALIDATION_SEED",
    "patient_split",
    "published_split",
    "read_split",
    "shuffle_order",
    "split_digest",
    "split_manifest",
    "validation_order",
    "with_validation",
    "write_split",
]

PUBLISHED_SEED = 42
"""Seed of the order of rows."""

VALIDATION_SEED = 0
"""Seed of the choice of validation rows."""

Split = Literal["published", "patient", "official", "none"]

FRACTIONS: Mapping[str, float] = {"train": 0.64, "val": 0.16, "test": 0.2}
"""The study's 80/20, with a fifth of the training part for validation."""


def shuffle_order(rows: int, *, seed: int = PUBLISHED_SEED) -> npt.NDArray[np.int64]:
    """Draw the study's order of rows: row i of the result is original row `order[i]`.

    The legacy generator of NumPy is used because it is frozen: the same numbers for ever.

    Args:
        rows: Number of rows, N.
        seed: 42 in the study.

    Returns:
        (N,) int64 permutation.

    Example:
        >>> shuffle_order(138)[:5].tolist()
        [89, 105, 12, 26, 64]
    """
    return np.random.RandomState(seed).permutation(rows).astype(np.int64)


def validation_order(rows: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draw the study's validation rows among its training rows.

    Args:
        rows: Number of training rows, N.

    Returns:
        floor(0.2 N) validation positions and the rest, both int64, in the study's order.

    Example:
        >>> validation, training = validation_order(10)
        >>> validation.tolist(), len(training)
        ([2, 8], 8)
    """
    order = shuffle_order(rows, seed=VALIDATION_SEED)
    cut = rows * 2 // 10
    return order[:cut], order[cut:]


def split_manifest(
    manifest: Manifest,
    card: DatasetCard | None,
    split: str | Path | None,
    *,
    protocol: ProtocolName = "corrected",
    seed: int = 0,
) -> Manifest:
    """Split the rows by the name of a rule.

    Args:
        manifest: All rows in file order.
        card: The data set's card, where it has one.
        split: A rule or a file, as for `load_dataset`.
        protocol: Decides what None means.
        seed: Of the patient split.

    Raises:
        SplitError: This data set has no such split.
    """
    rule = split or _default_split(manifest, card, protocol)
    if rule == "published":
        if card is None or card.published_split is None:
            message = f"{manifest.name} has no published split: use split patient or a CSV file"
            raise SplitError(message)
        return published_split(manifest, card.published_split)
    if rule == "patient":
        return patient_split(manifest, seed=seed)
    if rule == "official":
        if not any(manifest.splits):
            message = f"{manifest.name} has no official split here: use patient or a CSV file"
            raise SplitError(message)
        return replace(manifest, split_policy="official")
    if rule == "none":
        return replace(manifest, splits=(), split_policy="")
    if not Path(rule).is_file():
        rules = ", ".join(get_args(Split))
        message = f"split {rule!r} is not one of {rules}, and no CSV file of that name is there"
        raise SplitError(message)
    return read_split(manifest, Path(rule))


def _default_split(manifest: Manifest, card: DatasetCard | None, protocol: ProtocolName) -> Split:
    if card is not None and card.published_split is not None and protocol == "published":
        return "published"
    if card is not None and card.groups:
        return "patient"
    if any(manifest.splits):
        return "official"
    patients = set(manifest.groups) - {""}
    known = len(patients) + manifest.groups.count("")
    return "patient" if known >= len(FRACTIONS) else "none"


def with_validation(manifest: Manifest) -> Manifest:
    """Rename the fifth of the training rows that the study validated on to "val".

    Args:
        manifest: Rows with a split "train", in their present order.

    Raises:
        SplitError: No training rows, or validation rows already.
    """
    train = [index for index, split in enumerate(manifest.splits) if split == "train"]
    if not train or "val" in manifest.splits:
        message = (
            f"{manifest.name}: validation rows are taken from training rows; it has none, or has "
            "validation rows already"
        )
        raise SplitError(message)
    chosen, _ = validation_order(len(train))
    splits = list(manifest.splits)
    for position in chosen.tolist():
        splits[train[position]] = "val"
    policy = f"{manifest.split_policy}, validation by seed {VALIDATION_SEED}"
    return replace(manifest, splits=tuple(splits), split_policy=policy)


def published_split(manifest: Manifest, recipe: PublishedSplit) -> Manifest:
    """Order and split the rows as the study did: by image, never by patient.

    Args:
        manifest: All rows in file order, those without a label included; for the rule "files"
            their `splits` say train or test.
        recipe: Rule and counts of the card. Copies with another number of rows are cut at its
            share, and a note says so.

    Returns:
        The shuffled training rows followed by the shuffled test rows.

    Raises:
        SplitError: The rule "files" and rows without a split.
    """
    if recipe.rule == "files":
        parts = [_shuffled_part(manifest, name) for name in ("train", "test")]
        order = np.concatenate(parts)
        if len(order) != len(manifest):
            message = f"{manifest.name}: the published split takes rows of train and test only"
            raise SplitError(message)
        splits = tuple(manifest.splits[i] for i in order)
    elif recipe.rule == "official":
        return replace(manifest, split_policy="published")
    else:
        rows = len(manifest)
        order = shuffle_order(rows)
        whole = rows == recipe.rows
        train = recipe.train_rows if whole else int(recipe.share * rows)
        splits = ("train",) * train + ("test",) * (rows - train)
    cut = replace(manifest.select(order.tolist()), splits=splits, split_policy="published")
    if len(manifest) == recipe.rows:
        return cut
    note = f"published split of {len(manifest)} rows; the study had {recipe.rows}"
    return cut.noted(f"{note}, so it is another cut")


def _shuffled_part(manifest: Manifest, name: str) -> npt.NDArray[np.int64]:
    part = np.array([i for i, split in enumerate(manifest.splits) if split == name], np.int64)
    return part[shuffle_order(len(part))]


def patient_split(
    manifest: Manifest, *, seed: int = 0, fractions: Mapping[str, float] = FRACTIONS
) -> Manifest:
    """Split so that no patient is in two splits and every split has its share of each class.

    Patients are dealt in a seeded order, those with the rarest class and the most images first,
    each to the split that lacks most of what the patient brings. Images of unknown patients count
    as patients of their own. The order of the rows stays.

    Args:
        manifest: Any rows; those without a label are dealt too.
        seed: Another seed is another split.
        fractions: Share of each split, in sum 1.

    Raises:
        SplitError: Fractions that do not sum to 1, or fewer patients than splits.

    Example:
        >>> from medssl_data import load_dataset
        >>> whole = load_dataset("phantom:chest-xray,count=60", split="none").manifest
        >>> halves = patient_split(whole, fractions={"train": 0.5, "test": 0.5})
        >>> halves.splits.count("train"), halves.splits.count("test")
        (30, 30)
    """
    if abs(sum(fractions.values()) - 1) > 1e-9 or min(fractions.values()) <= 0:
        message = f"fractions {dict(fractions)} must be positive and sum to 1"
        raise SplitError(message)
    members = _members(manifest)
    if len(members) < len(fractions):
        message = (
            f"{manifest.name} has {len(members)} patients for {len(fractions)} splits; "
            "each split needs one: add patients or take fewer splits"
        )
        raise SplitError(message)
    owners = _deal(manifest.labels, members, seed, fractions)
    splits = [""] * len(manifest)
    for name, indices in zip(owners, members, strict=True):
        for index in indices:
            splits[index] = name
    shares = "/".join(f"{name} {share:g}" for name, share in fractions.items())
    return replace(manifest, splits=tuple(splits), split_policy=f"patient, seed {seed}, {shares}")


def _members(manifest: Manifest) -> list[list[int]]:
    """List the rows of each patient, sorted by name: the order of rows does not matter."""
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
    """Compute the SHA-256 of id and split of every row, whatever the order of the rows."""
    lines = sorted(f"{i}\t{split}" for i, split in zip(manifest.ids, manifest.splits, strict=True))
    return sha256_of("\n".join(lines).encode())


def write_split(manifest: Manifest, path: Path) -> str:
    """Write id, split, group and class of every row as CSV, and return the digest.

    Args:
        manifest: Rows with splits.
        path: File to write.

    Example:
        >>> from medssl_data import load_dataset
        >>> data = load_dataset("phantom:chest-xray,count=20")
        >>> digest = write_split(data.manifest, Path("split.csv"))
        >>> load_dataset("phantom:chest-xray,count=20", split="split.csv").splits == data.splits
        True
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
    """Read the splits from a CSV file with columns id and split.

    Rows that the file does not name get no split.

    Args:
        manifest: The rows.
        path: The file, as `write_split` makes it.

    Raises:
        SplitError: An id is unknown or occurs twice.
        TableError: No such columns.
    """
    table = read_table(path)
    ids, names = table.required("id"), table.required("split")
    known = set(manifest.ids)
    found: dict[str, str] = {}
    for index, (ident, name) in enumerate(zip(ids, names, strict=True)):
        if ident not in known or ident in found:
            fault = "occurs twice" if ident in found else f"is not an image of {manifest.name}"
            message = f"{table.where(index)}: id {ident!r} {fault}; correct the file"
            raise SplitError(message)
        found[ident] = name
    splits = tuple(found.get(ident, "") for ident in manifest.ids)
    return replace(manifest, splits=splits, split_policy=f"file {path.name}")
