"""Tables as people send them: BOM, CRLF, semicolons, spaces, reordered columns.

Turns a CSV or parquet file into columns of stripped text, with file and row in every complaint.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from medssl_data.errors import MissingExtraError, MissingFileError, TableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any

__all__ = ["Table", "open_text", "read_table"]


@dataclass(frozen=True)
class Table:
    """Columns of text.

    Args:
        path: where it came from, for messages.
        columns: heading (or position as text where there is no header) -> cells, (N,).
        first_row: number of the first data row in the file, for messages.
    """

    path: Path
    columns: dict[str, tuple[str, ...]]
    first_row: int = 2

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def column(self, name: str, *, optional: bool = False) -> tuple[str, ...]:
        """Cells of a column, whatever the case of its heading.

        Raises:
            TableError: there is no such column.
        """
        for heading, cells in self.columns.items():
            if heading.casefold() == name.casefold():
                return cells
        if optional:
            return ("",) * len(self)
        msg = (
            f"{self.path}: column {name!r} is missing; the header names "
            f"{', '.join(self.columns) or 'nothing'}"
        )
        raise TableError(msg)

    def where(self, index: int) -> str:
        """File and row of the data row at this index, for messages."""
        return f"{self.path}, row {index + self.first_row}"

    def required(self, name: str) -> tuple[str, ...]:
        """Cells of a column in which none may be empty or `nan`.

        Raises:
            TableError: the column or one of its cells is missing.
        """
        cells = self.column(name)
        for index, cell in enumerate(cells):
            if cell.casefold() in {"", "nan"}:
                msg = f"{self.where(index)}: {name} is empty; fill it in or remove the row"
                raise TableError(msg)
        return cells


def open_text(path: Path) -> str:
    """Read a text file as UTF-8, without its byte-order mark.

    Raises:
        MissingFileError: there is none.
        TableError: it is no UTF-8 text.
    """
    if not path.is_file():
        msg = f"{path} is not there"
        raise MissingFileError(msg)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"{path}: byte {error.start} is no UTF-8; save the table as UTF-8 CSV"
        raise TableError(msg) from error


def read_table(path: Path, *, header: Sequence[str] | None = None, strip: bool = True) -> Table:
    """Read a CSV (comma, semicolon or tab) or, with the extra, a parquet file.

    Args:
        path: the file; the suffix `.parquet` is read with pyarrow.
        header: names for the columns of a file that has no heading line; it may have more columns.
        strip: take blanks off the ends of cells.

    Raises:
        MissingFileError: there is no such file.
        TableError: rows of unequal length, no rows, or no text.
    """
    if path.suffix.casefold() == ".parquet":
        return _read_parquet(path)
    text = open_text(path)
    if "\0" in text:
        msg = f"{path} holds zero bytes and is no text table"
        raise TableError(msg)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    rows = list(_rows(path, reader))
    if not rows:
        msg = f"{path} is empty; it needs a heading line and one row for each image"
        raise TableError(msg)
    names = tuple(header) if header is not None else tuple(map(str.strip, rows.pop(0)[1]))
    if len(set(map(str.casefold, names))) != len(names):
        msg = f"{path}: a heading occurs twice in {', '.join(names)}"
        raise TableError(msg)
    if header is not None and rows:
        names += tuple(f"column {index}" for index in range(len(names), len(rows[0][1])))
    return _columns(path, names, rows, strip=strip)


def _delimiter(text: str) -> str:
    first = text.lstrip("\r\n").split("\n", 1)[0]
    return max(",;\t", key=first.count)


def _rows(path: Path, reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    number = 0
    try:
        for row in reader:
            number = reader.line_num  # type: ignore[attr-defined]  # csv readers have it
            if any(map(str.strip, row)):
                yield number, row
    except csv.Error as error:
        msg = f"{path}, row {number + 1}: {error}"
        raise TableError(msg) from error


def _columns(
    path: Path, names: tuple[str, ...], rows: list[tuple[int, list[str]]], *, strip: bool
) -> Table:
    width = len(names)
    for number, row in rows:
        if len(row) != width and any(map(str.strip, row[width:])):
            msg = f"{path}, row {number}: {len(row)} cells for {width} columns"
            raise TableError(msg)
        if len(row) < width:
            msg = f"{path}, row {number}: {len(row)} cells for {width} columns; add the missing"
            raise TableError(msg)
    first = rows[0][0] if rows else 2
    clean = str.strip if strip else str
    columns = {
        name: tuple([clean(row[index]) for _, row in rows]) for index, name in enumerate(names)
    }
    return Table(path, columns, first)


def _read_parquet(path: Path) -> Table:
    if not path.is_file():
        msg = f"{path} is not there"
        raise MissingFileError(msg)
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        msg = f"{path}: parquet needs pyarrow: pip install 'medssl-data[parquet]'"
        raise MissingExtraError(msg) from error
    columns: dict[str, list[Any]] = parquet.read_table(path).to_pydict()
    cells = {name: tuple(map(_text, values)) for name, values in columns.items()}
    return Table(path, cells, 1)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
