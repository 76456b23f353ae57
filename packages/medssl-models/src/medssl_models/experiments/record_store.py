"""RecordStore: the only reader and writer of files of records, one JSON document a line.

A file is appended to under a lock and read on from where it was, so that several processes may
share it; a line that a crash has torn is passed over with a note and spoils no other. Records of
version 0.1 are translated as they are read. Importing this module imports no torch.
"""

from __future__ import annotations

import codecs
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from filelock import FileLock
from pydantic import ValidationError

from medssl_models.errors import RecordError
from medssl_models.experiments.former.translation import translate
from medssl_models.experiments.record import Record
from medssl_models.files import open_plain

if TYPE_CHECKING:
    from io import RawIOBase
    from typing import BinaryIO

__all__ = [
    "Entry",
    "LineStore",
    "RecordStore",
    "Records",
    "append_records",
    "iterate_records",
    "read_records",
]

_HEAD = 65536
_BLANKS = b" \t\r\n\0"  # a machine that lost its power may leave zeros


@dataclass(frozen=True)
class Records(Sequence[Record]):
    """Records in the order in which they were made, and what a reader of them must know.

    Args:
        records: The records.
        notes: One sentence for each line of a file that is not a record.
    """

    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        if isinstance(index, slice):
            return Records(self.records[index], self.notes)
        return self.records[index]

    def __repr__(self) -> str:
        lines = [f"<{len(self)} record{'' if len(self) == 1 else 's'}>"]
        return "\n".join([*lines, *(f"  {record}" for record in self.records[:20])])

    def to_pandas(self) -> Any:  # noqa: ANN401 # pandas is imported where it is used
        """Return a pandas data frame: a row a record, settings and provenance in columns.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            from medssl_models.errors import MissingExtraError

            message = "a data frame needs pandas: pip install pandas"
            raise MissingExtraError(message) from error
        return pd.json_normalize([json.loads(record.model_dump_json()) for record in self.records])


class Entry(Protocol):
    """What stands on a line: a frozen pydantic model with a key."""

    @property
    def key(self) -> str:
        """Equal keys are the same entry."""

    def model_dump_json(self) -> str:
        """Write it as one line of JSON."""


E = TypeVar("E", bound=Entry)


class LineStore(Generic[E]):
    """The entries of a file of JSON lines by key, the newest of equal ones.

    Args:
        path: The file; it need not exist, and its folder is created when something is appended.
        read: Makes an entry of a line; raises what pydantic raises where the line is none.
        warn: Takes a note for each line that is no entry.
    """

    def __init__(
        self, path: Path, read: Callable[[bytes], E], warn: Callable[[str], None] = lambda _: None
    ) -> None:
        self.path, self.warn = path, warn
        self.entries: dict[str, E] = {}
        self._parse_line = read
        self._read = self._lines = 0

    def refresh(self) -> Mapping[str, E]:
        """Read what was appended since the last time; a line without its end is left for later.

        Returns:
            Key to entry; the mapping grows when more is read.
        """
        if not self.path.exists():
            return self.entries
        with open_plain(self.path) as file:
            _refuse_other_files(self.path, file)
            file.seek(self._read, os.SEEK_SET)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        lines = io.BytesIO(whole).readlines()
        for item in _parse(lines, self.path, self._parse_line, first_line=self._lines + 1):
            if isinstance(item, str):
                self.warn(item)
            else:
                self.entries[item.key] = item
        self._read += len(whole)
        self._lines += len(lines)
        return self.entries

    def append(self, entries: Iterable[E], *, again: bool = False) -> list[E]:
        """Append what the file does not hold.

        Two processes never append at the same moment, and whoever appends first reads what the
        others have appended since: equal entries of equal commands are kept once.

        Args:
            entries: What to append, in order.
            again: Append what it holds too.

        Returns:
            The entries that were appended.

        Raises:
            RecordError: The file holds something else than records, such as a picture.
            OSError: The file cannot be written; it is as it was.
        """
        given = {entry.key: entry for entry in entries}
        if not given:
            return []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):
            self.refresh()
            fresh = {key: one for key, one in given.items() if again or key not in self.entries}
            _append_lines(self.path, fresh.values())
            self.refresh()
        return list(fresh.values())


class RecordStore(LineStore[Record]):
    """The records of a file by key, the newest of equal ones.

    Args:
        path: The file; it need not exist, and its folder is created when something is appended.
        warn: Takes a note for each line that is no record.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     len(RecordStore(Path(folder) / "results.jsonl").refresh())
        0
    """

    def __init__(self, path: Path, warn: Callable[[str], None] = lambda _: None) -> None:
        super().__init__(path, _record, warn)


def append_records(path: Path | str, records: Iterable[Record]) -> None:
    """Append records to a file of JSON lines; other processes may do so at the same time.

    All lines are one write, flushed to the disk. A last line without its end, as a crash leaves it,
    is closed first, so that it spoils no new record. On a full disk the file is as it was before.

    Args:
        path: The file; its folder is created.
        records: What to append, in order, whether the file holds it or not.

    Raises:
        RecordError: The file holds something else than records, such as a picture.
        OSError: The file cannot be written.

    Example:
        >>> from medssl_models import Provenance
        >>> from medssl_models.experiments.registry import declared
        >>> from medssl_models.testing.experiments import COUNT_IMAGES
        >>> origin = Provenance(model="moco-v2", dataset="scans")
        >>> with declared(COUNT_IMAGES):
        ...     facts = {"experiment": "count-images", "metric": "images", "value": 4}
        ...     made = Record(**facts, provenance=origin)
        ...     append_records(folder / "results.jsonl", [made])
        ...     read_records(folder / "results.jsonl")[0] == made
        True
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")):
        _append_lines(file, records)


def _append_lines(path: Path, entries: Iterable[Entry]) -> None:
    """Append under a lock that the caller holds."""
    lines = "".join(entry.model_dump_json() + "\n" for entry in entries).encode()
    if not lines:
        return
    if path.exists():
        open_plain(path).close()  # to append to a pipe would wait for its reader
    with path.open("a+b", buffering=0) as file:
        _refuse_other_files(path, file)
        size = file.seek(0, os.SEEK_END)
        if _lacks_line_end(path, size):
            lines = b"\n" + lines
        try:
            written = file.write(lines)
            if written != len(lines):  # the disk took a part: the next write says why it is full
                file.write(lines[written:])
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(size)
            error.filename = error.filename or str(path)
            raise


def _refuse_other_files(path: Path, file: BinaryIO | RawIOBase) -> None:
    """Keep a picture or a table that was named by mistake from being appended to."""
    file.seek(0)
    head = (file.read(_HEAD) or b"").removeprefix(codecs.BOM_UTF8).strip(_BLANKS)
    file.seek(0)
    if head and head != b"{" and b'\n{"' not in b"\n" + head:  # one line of ours is enough
        message = f"{path} holds something else than records; name a results file (JSON lines)"
        raise RecordError(message)


def _lacks_line_end(path: Path, size: int) -> bool:
    if not size:
        return False
    with path.open("rb") as file:
        file.seek(size - 1)
        return file.read(1) != b"\n"


def read_records(path: Path | str) -> Records:
    """Read all records of a file, oldest first.

    Args:
        path: A file that `append_records` wrote.

    Returns:
        The records, and a note for each line that was torn by a crash or is not one.

    Raises:
        RecordError: The file holds something else than records, such as a picture.
        OSError: The file cannot be read; a missing file raises `FileNotFoundError`.

    Example:
        >>> _ = (folder / "results.jsonl").write_text('{"experiment": "few')  # a crash tore it
        >>> print(*read_records(folder / "results.jsonl").notes)
        /.../results.jsonl, line 1: cut off while it was written; skipped
    """
    items = list(iterate_records(path))
    records = tuple(item for item in items if isinstance(item, Record))
    return Records(records, tuple(item for item in items if isinstance(item, str)))


def iterate_records(path: Path | str) -> Iterator[Record | str]:
    """Read a file record by record, for files that do not fit into memory.

    Args:
        path: A file that `append_records` wrote.

    Yields:
        A record, or a note in place of a line that is not one, as in `read_records`.

    Raises:
        RecordError: As `read_records`.
        OSError: The file cannot be read; a missing file raises `FileNotFoundError`.
    """
    file = Path(path)
    with open_plain(file) as stream:
        _refuse_other_files(file, stream)
        yield from _parse(stream, file, _record)


def _parse(
    lines: Iterable[bytes], path: Path, read: Callable[[bytes], E], *, first_line: int = 1
) -> Iterator[E | str]:
    for number, line in enumerate(lines, start=first_line):
        if not line.strip():
            continue
        try:
            yield read(line)
        except ValidationError as error:
            yield _describe(path, number, error, torn=not line.endswith(b"\n"))


def _record(line: bytes) -> Record:
    try:
        return Record.model_validate_json(line)
    except ValidationError:
        translated = translate(line)
        if translated is None:
            raise
        return Record.model_validate_json(translated)


def _describe(path: Path, number: int, error: ValidationError, *, torn: bool) -> str:
    if torn:
        return f"{path}, line {number}: cut off while it was written; skipped"
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{path}, line {number}: not a record ({where or 'line'}: {first['msg']}); skipped"
