"""Tables as people send them: BOM, CRLF, semicolons, spaces, reordered columns.

Turns a CSV or parquet file into columns of stripped text, with file and row in every complaint.
"""

from __future__ import annotations

import csv
import io
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING

from medssl_data.errors import DataError, MissingExtraError, MissingFileError, TableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Any

__all__ = ["Table", "blaming", "open_text", "read_table", "where_among"]

_BLANK = frozenset({"", "nan"})
_MOST = 100
"""Further columns that are carried."""

_LONGEST = 200
"""Letters of a cell beyond which a column is free text."""


@dataclass(frozen=True)
class Table:
    """Rows of text under headings.

    Args:
        path: Where they came from, for messages.
        headings: Names of the columns, (C,).
        rows: (N,) rows of at least C cells.
        lines: Number of each row in the file, (N,), for messages.
        strip: Take blanks off the ends of cells.
    """

    path: Path
    headings: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    lines: Sequence[int]
    strip: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str, *, optional: bool = False) -> tuple[str, ...]:
        """Return the cells of a column, whatever the case of its heading, (N,).

        Raises:
            TableError: There is no such column.
        """
        headings = [heading.casefold() for heading in self.headings]
        if name.casefold() in headings:
            place = headings.index(name.casefold())
            cells = [row[place] for row in self.rows]
            return tuple(map(str.strip, cells)) if self.strip else tuple(cells)
        if optional:
            return ("",) * len(self)
        message = (
            f"{self.path}: column {name!r} is missing; the header names "
            f"{', '.join(self.headings) or 'nothing'}"
        )
        raise TableError(message)

    def further(self, *names: str, but: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
        """Return columns that need not be there, by heading; free text and the like is left out.

        Args:
            names: Headings, whatever their case; none takes all.
            but: Headings that are left out.
        """
        wanted, known = {n.casefold() for n in names}, {n.casefold() for n in but}
        found: dict[str, tuple[str, ...]] = {}
        for place, heading in enumerate(self.headings):
            name = heading.casefold()
            if not name.strip() or name in known or (wanted and name not in wanted):
                continue
            cells = tuple([sys.intern(str(row[place]).strip()) for row in self.rows])
            if max(map(len, cells), default=0) <= _LONGEST and any(cells):
                found[heading] = cells
        return dict(islice(found.items(), _MOST))

    def where(self, index: int) -> str:
        """Name file and row of the data row at this index, for messages."""
        return f"{self.path}, row {self.lines[index]}"

    def required(self, name: str) -> tuple[str, ...]:
        """Return the cells of a column in which none may be empty or `nan`, (N,).

        Raises:
            TableError: The column or one of its cells is missing.
        """
        cells = self.column(name)
        plain = list(map(str.casefold, map(str.strip, cells)))
        if not _BLANK.isdisjoint(plain):
            index = next(index for index, cell in enumerate(plain) if cell in _BLANK)
            message = f"{self.where(index)}: {name} is empty; fill it in or remove the row"
            raise TableError(message)
        return cells


def where_among(tables: Sequence[Table]) -> Callable[[int], str]:
    """Return a function that names file and row among several tables, one after the other."""

    def where(index: int) -> str:
        for table in tables:
            if index < len(table):
                return table.where(index)
            index -= len(table)
        return str(index)

    return where


@contextmanager
def blaming(where: Callable[[int], str]) -> Iterator[None]:
    """Put file and row before what a manifest says about one of its rows.

    Args:
        where: Names the file and the row of a position.

    Raises:
        DataError: What the block raised, with the place where it knows one.
    """
    try:
        yield
    except DataError as error:
        if error.row is None:
            raise
        message = f"{where(error.row)}: {error}"
        raise type(error)(message) from error


def open_text(path: Path) -> str:
    """Read a text file as UTF-8, without its byte-order mark.

    Raises:
        MissingFileError: There is none.
        TableError: It is not UTF-8 text.
    """
    if not path.is_file():
        message = f"{path} is not there"
        raise MissingFileError(message)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{path}: byte {error.start} is not UTF-8; save the table as UTF-8 CSV"
        raise TableError(message) from error


def read_table(path: Path, *, header: Sequence[str] | None = None, strip: bool = True) -> Table:
    """Read a CSV (comma, semicolon or tab) or, with the extra, a parquet file.

    Args:
        path: The file; the suffix `.parquet` is read with pyarrow.
        header: Names for the columns of a file that has no heading line; it may have more columns.
        strip: Take blanks off the ends of cells.

    Raises:
        MissingFileError: There is no such file.
        TableError: Rows of unequal length, no rows, or no text.
    """
    if path.suffix.casefold() == ".parquet":
        return _read_parquet(path)
    text = open_text(path)
    if "\0" in text:
        message = f"{path} holds zero bytes and is not a text table"
        raise TableError(message)
    rows, lines = _parse(path, text)
    if not rows:
        message = f"{path} is empty; it needs a header line and one row for each image"
        raise TableError(message)
    if header is None:
        names = tuple(map(str.strip, rows[0]))
        rows, lines = rows[1:], lines[1:]
    else:
        more = range(len(header), len(rows[0]))
        names = (*header, *(f"column {index}" for index in more))
    if len(set(map(str.casefold, names))) != len(names):
        message = f"{path}: a column name occurs twice in {', '.join(names)}"
        raise TableError(message)
    table = Table(path, names, rows, lines, strip)
    _check_widths(table)
    return table


def _delimiter(text: str) -> str:
    first = text.lstrip("\r\n").split("\n", 1)[0]
    return max(",;\t", key=first.count)


def _parse(path: Path, text: str) -> tuple[list[Sequence[str]], Sequence[int]]:
    """Parse rows that hold anything, and their line numbers; at full speed where the two agree."""
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, delimiter=_delimiter(text), strict=True)
    rows: list[Sequence[str]]
    try:
        rows = list(map(tuple, reader))  # the garbage collector leaves tuples of texts alone
    except csv.Error as error:
        message = f"{path}, row {reader.line_num}: {error}"
        raise TableError(message) from error
    if reader.line_num == len(rows) and all(map(any, rows)):
        return rows, range(1, len(rows) + 1)
    stream.seek(0)
    reader = csv.reader(stream, delimiter=_delimiter(text), strict=True)
    numbered: list[tuple[Sequence[str], int]] = []
    last = 0
    for row in reader:
        if any(row):
            numbered.append((row, last + 1))
        last = reader.line_num
    return [row for row, _ in numbered], [number for _, number in numbered]


def _check_widths(table: Table) -> None:
    width = len(table.headings)
    if set(map(len, table.rows)) <= {width}:
        return
    for index, row in enumerate(table.rows):
        if len(row) < width or any(map(str.strip, row[width:])):
            advice = "; add the missing" if len(row) < width else ""
            message = f"{table.where(index)}: {len(row)} cells for {width} columns{advice}"
            raise TableError(message)


def _read_parquet(path: Path) -> Table:
    if not path.is_file():
        message = f"{path} is not there"
        raise MissingFileError(message)
    try:
        parquet = import_module("pyarrow.parquet")
        arrow = import_module("pyarrow")
    except ImportError as error:
        message = f"{path}: parquet needs pyarrow: pip install 'medssl-data[parquet]'"
        raise MissingExtraError(message) from error
    try:
        columns: dict[str, list[Any]] = parquet.read_table(path).to_pydict()
    except (arrow.ArrowException, OSError, ValueError) as error:
        message = f"{path} is not a readable parquet file ({error})"
        raise TableError(message) from error
    cells = [tuple(map(_text, values)) for values in columns.values()]
    rows = list(zip(*cells, strict=True))
    return Table(path, tuple(columns), rows, range(1, len(rows) + 1))


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
