"""`table:FILE.csv`: columns path and label, optionally id, group (or patient), view and split.

All other columns, such as sex, age and site, are carried as attributes. Also reads parquet (extra)
and the manifests that `Manifest.to_csv` writes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from medssl_data.errors import DataError, EmptySourceError, MissingFileError
from medssl_data.manifest import Manifest, Row
from medssl_data.tables.manifests import is_manifest
from medssl_data.tables.paths import locate
from medssl_data.tables.text import Table, blaming, read_table

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_manifest_table"]

_KNOWN = ("path", "label", "id", "group", "patient", "view", "split", "item")


def read_manifest_table(path: Path) -> Manifest:
    """Read a table of images.

    Args:
        path: CSV (comma, semicolon, tab; BOM and CRLF are fine) or parquet; image paths are
            relative to its folder.

    Returns:
        A manifest in the order of the rows. Classes are the distinct labels, sorted (as numbers
        where all are); ids are the paths unless there is a column `id`.

    Raises:
        TableError: A column or a cell is missing; file and row are named.
        MissingFileError: The table, or an image that it names, is not there.
        UnsafePathError: A path leads out of the table's folder.
        EmptySourceError: The table has no rows.
    """
    if not path.is_file():
        message = f"table {path} is not there"
        raise MissingFileError(message)
    if path.suffix.casefold() == ".csv" and is_manifest(path):
        return Manifest.from_csv(path)
    table = read_table(path)
    if not len(table):
        message = f"{path} has a heading and no rows; add one row for each image"
        raise EmptySourceError(message)
    paths = _paths(table)
    labels = table.required("label")
    classes = _classes(labels)
    place = {name: index for index, name in enumerate(classes)}
    ids = _ids(table, paths)
    groups = table.column("group", optional=True)
    if not any(groups):
        groups = table.column("patient", optional=True)
    columns = (groups, table.column("view", optional=True), table.column("split", optional=True))
    items = table.column("item", optional=True)
    rows = map(Row, ids, paths, map(place.__getitem__, labels), *columns, items)
    with blaming(table.where):
        return Manifest.from_rows(
            path.stem,
            path.parent,
            classes,
            rows,
            attributes=table.further(but=_KNOWN),
            label_policy="the column label",
            split_policy="official" if any(columns[2]) else "",
        )


def _paths(table: Table) -> tuple[str, ...]:
    """Read paths relative to the table's folder, each of them looked for on the disk once."""
    root = table.path.parent
    known: dict[str, str] = {}
    paths = table.required("path")
    for index, path in enumerate(paths):
        if path in known:
            continue
        try:
            known[path] = locate(path, root)
        except DataError as error:
            message = f"{table.where(index)}: {error}"
            raise type(error)(message) from error
        if not os.path.exists(f"{root}/{known[path]}"):  # noqa: PTH110 - a million rows
            image = root / known[path]
            message = f"{table.where(index)}: image {image} is not there; correct the path"
            raise MissingFileError(message)
    return tuple([known[path] for path in paths])


def _ids(table: Table, paths: tuple[str, ...]) -> tuple[str, ...]:
    ids = table.column("id", optional=True)
    if any(ids):
        return table.required("id")
    items = table.column("item", optional=True)
    return tuple(
        f"{path}#{item}" if item else path for path, item in zip(paths, items, strict=True)
    )


def _classes(labels: tuple[str, ...]) -> list[str]:
    names = set(labels)
    if all(name.removeprefix("-").isdecimal() for name in names):
        return sorted(names, key=int)
    return sorted(names)
