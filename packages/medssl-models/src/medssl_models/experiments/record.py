"""Record: one number that an experiment produced, and where it came from; JSON lines on disk.

Every package writes this one schema. Two records with equal keys are the same experiment.
"""

from __future__ import annotations

import codecs
import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal, overload

from filelock import FileLock
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    ValidationError,
    ValidationInfo,
)

from medssl_models.errors import RecordError
from medssl_models.plain_json import canonical_json, plain

if TYPE_CHECKING:
    from io import RawIOBase
    from pathlib import Path
    from typing import BinaryIO

__all__ = [
    "Provenance",
    "Record",
    "RecordFile",
    "append_records",
    "find_record",
    "iterate_records",
    "package_versions",
    "parse_records",
    "read_records",
    "record_key",
]

_HEAD = 65536
_BLANKS = b" \t\r\n\0"  # a machine that lost its power may leave zeros

PACKAGES = (
    "medssl-models",
    "medssl-data",
    "medssl-eval",
    "medssl-saliency",
    "medssl-dip",
    "medssl-invariance",
    "torch",
    "torchvision",
    "numpy",
    "pillow",
)
ACCIDENTAL = frozenset({"device", "versions"})
"""What a provenance tells without being part of the experiment's identity."""


def _plain_unless_json(value: object, info: ValidationInfo) -> object:
    """Reduce what Python gives; a file holds plain values already, and long lists of them."""
    return value if info.mode == "json" else plain(value)


JsonObject = Annotated[dict[str, JsonValue], BeforeValidator(_plain_unless_json)]


class Provenance(BaseModel):
    """What a number was computed from.

    Args:
        model: The card's name or the folder's.
        weights: Fingerprint of weights, architecture and padding.
        preprocessing: Fingerprint of the preprocessing that was applied.
        layer: The layer that gave the features.
        padding: Where strided convolutions pad: `torchvision` or `tf_same`.
        dataset: The data set as it was named.
        images: Fingerprint of the images in order.
        manifest: Fingerprint that covers labels, groups and splits too.
        label_policy: How the source's labels became classes.
        split: Which rows took part.
        protocol: `published` or `corrected`.
        seed: Seed of everything random.
        device: Where it was computed.
        precision: `fp32` or `bf16`.
        versions: Package to version; see `package_versions`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    weights: str = ""
    preprocessing: str = ""
    layer: str = "pooled"
    padding: str = ""
    dataset: str = ""
    images: str = ""
    manifest: str = ""
    label_policy: str = ""
    split: str = ""
    protocol: str = "corrected"
    seed: int = 0
    device: str = ""
    precision: str = "fp32"
    versions: dict[str, str] = Field(default_factory=dict)


class Record(BaseModel):
    """One number with its interval, settings and provenance.

    Args:
        schema_version: Version of this schema; another one is not read.
        experiment: What was run, such as `few-shot`.
        metric: What the value means, such as `accuracy`.
        unit: Unit of value and interval, such as `%`; empty for a pure number.
        value: The number. It is finite: an undefined result is not a record.
        ci_low: Lower end of the 95 % interval, in the same unit.
        ci_high: Upper end of the 95 % interval.
        n: How many repetitions or items the value is the mean of.
        settings: The experiment's settings; part of the key.
        details: Further results; NaN becomes null.
        notes: What a reader should know, such as skipped images.
        provenance: What it was computed from.
        created: UTC time in ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    experiment: str = Field(min_length=1)
    metric: str = Field(min_length=1)
    unit: str = ""
    value: FiniteFloat
    ci_low: FiniteFloat | None = None
    ci_high: FiniteFloat | None = None
    n: int = Field(default=1, ge=0)
    settings: JsonObject = Field(default_factory=dict)
    details: JsonObject = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    provenance: Provenance
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def key(self) -> str:
        """SHA-256 of experiment, metric, settings and identifying provenance (64 hex digits).

        The result, the time, the device and the package versions are not part of it.
        """
        return record_key(self.experiment, self.metric, self.settings, self.provenance)


def record_key(experiment: str, metric: str, settings: object, provenance: Provenance) -> str:
    """Give the key that a record will have, before the experiment is run.

    Args:
        experiment: As in `Record`.
        metric: As in `Record`.
        settings: As in `Record`, or the settings object itself.
        provenance: As in `Record`.

    Returns:
        64 hexadecimal digits.
    """
    identity = [experiment, metric, settings, provenance.model_dump(exclude=set(ACCIDENTAL))]
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


@dataclass(frozen=True)
class RecordFile(Sequence[Record]):
    """The records of a file, oldest first, and what could not be read.

    Args:
        records: All readable records.
        notes: One sentence for each line that is not a record.
    """

    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        return self.records[index]


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Append records to a file of JSON lines; other processes may do so at the same time.

    All lines are one write, flushed to the disk. A last line without its end, as a crash leaves it,
    is closed first, so that it spoils no new record. On a full disk the file is as it was before.

    Args:
        path: The file; its folder is created.
        records: What to append, in order.

    Raises:
        RecordError: The file holds something else than records, such as a picture.
        OSError: The file cannot be written.
    """
    lines = "".join(record.model_dump_json() + "\n" for record in records).encode()
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")), path.open("a+b", buffering=0) as file:
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


def read_records(path: Path) -> RecordFile:
    """Read all records of a file.

    Args:
        path: A file that `append_records` wrote.

    Returns:
        The records in the order of the file, and a note for each line that was torn by a crash, was
        written by another program or has another schema version.

    Raises:
        OSError: The file cannot be read; a missing file raises `FileNotFoundError`.
    """
    items = list(iterate_records(path))
    records = tuple(item for item in items if isinstance(item, Record))
    return RecordFile(records, tuple(item for item in items if isinstance(item, str)))


def iterate_records(path: Path) -> Iterator[Record | str]:
    """Read a file record by record, for files that do not fit into memory.

    Args:
        path: A file that `append_records` wrote.

    Yields:
        A record, or a note in place of a line that is not one, as in `read_records`.

    Raises:
        RecordError: As `read_records`.
        OSError: The file cannot be read; a missing file raises `FileNotFoundError`.
    """
    with path.open("rb") as file:
        _refuse_other_files(path, file)
        yield from parse_records(file, path)


def parse_records(
    lines: Iterable[bytes], path: Path, *, first_line: int = 1
) -> Iterator[Record | str]:
    """Read lines of a file that the caller has opened, for those who follow a file that grows.

    Args:
        lines: With their ends; empty ones are passed over.
        path: The file, for the notes.
        first_line: The number of the first of them, counted from 1.

    Yields:
        As `iterate_records`.
    """
    for number, line in enumerate(lines, start=first_line):
        if not line.strip():
            continue
        try:
            yield Record.model_validate_json(line)
        except ValidationError as error:
            yield _describe(path, number, error, torn=not line.endswith(b"\n"))


def _describe(path: Path, number: int, error: ValidationError, *, torn: bool) -> str:
    if torn:
        return f"{path}, line {number}: cut off while it was written; skipped"
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{path}, line {number}: not a record ({where or 'line'}: {first['msg']}); skipped"


def find_record(path: Path, key: str) -> Record | None:
    """Give the newest record with a key.

    Args:
        path: A results file; it need not exist.
        key: See `Record.key`.

    Returns:
        The record, or None.
    """
    if not path.exists():
        return None
    return next((record for record in reversed(read_records(path)) if record.key == key), None)


def package_versions(*more: str) -> dict[str, str]:
    """Give the installed versions of Python and of the packages that shape a number.

    Args:
        more: Further distribution names.

    Returns:
        Name to version, without what is not installed. Nothing is imported.
    """
    versions = {"python": platform.python_version()}
    for name in (*PACKAGES, *more):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
