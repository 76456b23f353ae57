"""A file of records that several matrices may add to at once, each record once.

Two processes never append at the same moment, and whoever appends first reads what the others
have appended since. Lines are read once: a file of any size costs its length only at the start.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from filelock import FileLock
from medssl_models.experiments.record import Record, append_records, parse_records

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["Ledger"]


@dataclass
class Ledger:
    """The records of a file by key, the newest of equal ones.

    Attributes:
        path: The file; it need not exist.
        warn: Takes a note for each line that is no record.
        records: Key to record, as of the last `refresh`.
    """

    path: Path
    warn: Callable[[str], None] = lambda _: None
    records: dict[str, Record] = field(default_factory=dict)
    _read: int = 0
    _lines: int = 0

    def refresh(self) -> None:
        """Read what was appended since the last time; a line without its end is left for later."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read, os.SEEK_SET)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        lines = io.BytesIO(whole).readlines()
        for item in parse_records(lines, self.path, first_line=self._lines + 1):
            if isinstance(item, Record):
                self.records[item.key] = item
            else:
                self.warn(item)
        self._read += len(whole)
        self._lines += len(lines)

    def add(self, records: Sequence[Record], *, again: bool = False) -> list[Record]:
        """Append what the file does not hold.

        Args:
            records: What to append, in order.
            again: Append what it holds too.

        Returns:
            The records that were appended.

        Raises:
            OSError: The file cannot be written; it is as it was.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.matrix.lock")):
            self.refresh()
            fresh = {r.key: r for r in records if again or r.key not in self.records}
            append_records(self.path, fresh.values())
            self.refresh()
        return list(fresh.values())
