"""Fundus photographs: EyePACS, iChallenge-AMD and iChallenge-PM."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from medssl_data.errors import EmptySourceError, MissingFileError, TableError
from medssl_data.manifest import Manifest, Row
from medssl_data.tables.text import Table, blaming, read_table, where_among
from medssl_data.targets import levels_label, myopia_label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from medssl_data.card import DatasetCard, Options

__all__ = ["read_amd", "read_eyepacs", "read_pm"]

_LEVELS = {"N": 0, "H": 1, "P": 2}
"""Initials of the PALM files: normal, high myopia, pathological myopia."""


def read_eyepacs(card: DatasetCard, root: Path, options: Options) -> Manifest:
    """Read the training table, then the test table where it is here; eyes are views.

    Raises:
        TableError: A name does not end in _left or _right.
        LabelError: A level is not one of 0 to 4.
    """
    del options
    tables = [read_table(root / "trainLabels.csv")]
    tests = [root / name for name in ("testLabels.csv", "retinopathy_solution.csv")]
    tables += [read_table(path) for path in tests if path.is_file()][:1]
    rows = [
        row
        for table, split in zip(tables, ("train", "test"), strict=False)
        for row in _eyes(table, split, card)
    ]
    notes = () if len(tables) == 2 else (f"{card.name} was read without its test table",)
    with blaming(where_among(tables)):
        return Manifest.from_rows(
            card.name, root, card.classes, rows, split_policy="official", notes=notes
        )


def _eyes(table: Table, split: str, card: DatasetCard) -> Iterator[Row]:
    names, levels = table.required("image"), table.required("level")
    count = len(card.classes)
    for index, (name, level) in enumerate(zip(names, levels, strict=True)):
        patient, _, side = name.rpartition("_")
        if side not in {"left", "right"} or not patient:
            message = f"{table.where(index)}: {name!r} is not PATIENT_left or PATIENT_right"
            raise TableError(message)
        label = levels_label(level, count, table.where(index))
        yield Row(f"{split}/{name}", f"{split}/{name}.jpeg", label, patient, side, split)


def read_amd(card: DatasetCard, root: Path, options: Options) -> Manifest:
    """Read iChallenge-AMD from its table, else AMD files sorted and then the others.

    Raises:
        LabelError: A label is neither 0 nor 1.
    """
    del options
    path = root / card.tables[0]
    folders = {1: "AMD", 0: "Non-AMD"}
    where: Callable[[int], str] = str
    if path.is_file():
        named, where = _graded(path, "0", "1", levels=2)
    else:
        named = [
            (file.stem, label)
            for label in (1, 0)
            for file in _pictures(root / card.images / folders[label])
        ]
    rows = [Row(name, f"{card.images}/{folders[label]}/{name}.jpg", label) for name, label in named]
    with blaming(where):
        return Manifest.from_rows(card.name, root, card.classes, rows)


def read_pm(card: DatasetCard, root: Path, options: Options) -> Manifest:
    """Read iChallenge-PM from its table, else from the initials of the files.

    Raises:
        LabelError: A label is not one of 0, 1 and 2.
        TableError: A file's initial is not one of N, H and P where there is no table.
    """
    path = root / card.tables[0]
    where: Callable[[int], str] = str
    if path.is_file():
        named, where = _graded(path, "1", "4", levels=3)
    else:
        files = sorted(_pictures(root / card.images), key=lambda file: _initial_order(file.name))
        named = [(file.name, _initial(file)) for file in files]
    high = options.labels == "pm-high-myopia"
    rows = [
        Row(name, f"{card.images}/{name}", myopia_label(level, high_is_positive=high))
        for name, level in named
    ]
    with blaming(where):
        return Manifest.from_rows(
            card.name, root, card.classes, rows, label_policy=options.labels or ""
        )


def _initial_order(name: str) -> tuple[int, str]:
    return _LEVELS.get(name[0].upper(), 3), name


def _initial(file: Path) -> int:
    level = _LEVELS.get(file.name[0].upper())
    if level is None:
        message = f"{file} does not begin with {', '.join(_LEVELS)}; add the table with the labels"
        raise TableError(message)
    return level


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        message = f"folder {folder} is not there; see `medssl-data show` for the tree"
        raise MissingFileError(message)
    found = sorted(file for file in folder.iterdir() if file.suffix.casefold() == ".jpg")
    if not found:
        message = f"folder {folder} holds no .jpg file; fetch the images"
        raise EmptySourceError(message)
    return found


def _graded(
    path: Path, name: str, label: str, *, levels: int
) -> tuple[list[tuple[str, int]], Callable[[int], str]]:
    """Read names and levels from columns that go by their places; a heading line is skipped.

    Returns:
        Name and level of each row, and what names the place of a row in the file.
    """
    table = read_table(path, header=tuple(map(str, range(int(label) + 1))))
    if not table.column(label)[0].removesuffix(".0").isdecimal():
        table = replace(table, rows=table.rows[1:], lines=table.lines[1:])
    named = [
        (name, levels_label(cell, levels, table.where(index)))
        for index, (name, cell) in enumerate(
            zip(table.required(name), table.required(label), strict=True)
        )
    ]
    return named, table.where
