"""One HDF5 file of features: its layout, its checks, and writes that survive a kill at any instant.

HDF5 itself writes the file once, empty but at its full size. From then on only the raw bytes of the
data sets change, at fixed places, so the file is valid at every moment: features first, then their
checksums, then the rows' states. Behind what HDF5 wrote stands a seal: a description of the file,
and a hash of it and of every byte that never changes. Only the seal is needed to read the file
here, so that the native library never parses a damaged one; other programs open it as any HDF5
file. This module knows neither networks nor folders.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import IO, TYPE_CHECKING, ClassVar, Self

import h5py
import numpy as np

from medssl_models.errors import StoreError
from medssl_models.files import open_plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    import numpy.typing as npt

__all__ = ["BrokenFileError", "FeatureFile", "Layout", "RowState", "digest_stamps"]

FORMAT = "medssl-features"
VERSION = 2
STAMP_BYTES = 16
CHUNK_ROWS = 1024
_SEAL = struct.Struct("<32sQ16s")
"""Hash, length of the description before it, and what the file ends with."""
_END = b"medssl-features\n"
_LONGEST = 2**20
"""Bytes of a description, and of HDF5's own structures; both take some thousand."""


class BrokenFileError(Exception):
    """A file is truncated, corrupt or not ours; the store sets it aside."""


class RowState(IntEnum):
    """What is known of a row; codes so far apart that no damaged bit turns one into another."""

    PENDING = 0
    DONE = 0x5A
    UNREADABLE = 0xA5


@dataclass(frozen=True)
class Layout:
    """What the file holds, all of it fixed when the file is made.

    Args:
        key: The content key.
        rows: N.
        dimension: D.
        batch_size: Images a batch, kept so that a resumed run cuts the same batches.
    """

    key: str
    rows: int
    dimension: int
    batch_size: int

    DATASETS: ClassVar[tuple[str, ...]] = (
        "features",
        "checksums",
        "states",
        "stamps",
        "precision_error",
    )

    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]]:
        """Return shape and type of each data set; all little-endian."""
        return {
            "features": ((self.rows, self.dimension), np.dtype("<f4")),
            "checksums": ((self.rows,), np.dtype("<u4")),
            "states": ((self.rows,), np.dtype("u1")),
            "stamps": ((self.rows, STAMP_BYTES), np.dtype("u1")),
            "precision_error": ((2,), np.dtype("<f8")),  # and its checksum
        }

    @property
    def size(self) -> int:
        """Bytes that the file will take, with a generous share for HDF5's own structures."""
        data = sum(int(np.prod(shape)) * kind.itemsize for shape, kind in self.shapes().values())
        return data + 2**16


def digest_stamps(stamps: Sequence[str] | None, rows: int) -> npt.NDArray[np.uint8]:
    """Reduce stamps to a fixed size.

    Args:
        stamps: One text a row, or None.
        rows: N.

    Returns:
        `(N, 16)` uint8; all zero where nothing is known.
    """
    digests = np.zeros((rows, STAMP_BYTES), np.uint8)
    for row, stamp in enumerate(stamps or ()):
        code = hashlib.blake2b(stamp.encode(), digest_size=STAMP_BYTES).digest()
        digests[row] = np.frombuffer(code, np.uint8)
    return digests


class FeatureFile:
    """An open file; use it as a context manager.

    Args:
        path: The file.
        writable: Whether rows will be written.

    Raises:
        BrokenFileError: The file is truncated, corrupt or not ours.
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = path
        self.layout, self.provenance, self._offsets = _read_structure(path)
        self._file = path.open("r+b" if writable else "rb", buffering=0)
        try:
            self.states = self._read("states")
            # What is no state is damaged; such a row has to be computed.
            self.states[~np.isin(self.states, list(RowState))] = RowState.PENDING
            self.stamps = self._read("stamps")
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    @staticmethod
    def create(
        path: Path,
        layout: Layout,
        *,
        stamps: npt.NDArray[np.uint8],
        provenance: Mapping[str, str],
    ) -> None:
        """Make a file whose rows are all pending, with all its space reserved.

        Args:
            path: Where; an existing file is replaced.
            layout: What it will hold.
            stamps: `(N, 16)` uint8 of `digest_stamps`.
            provenance: Where the features come from, for people and for records.

        Raises:
            StoreError: There is no room.
        """
        _reserve(path, layout.size)  # before HDF5, whose own report of a full disk is obscure
        with h5py.File(path, "w", libver=("earliest", "v110"), locking=False) as file:
            file.attrs["format"] = FORMAT
            file.attrs["version"] = VERSION
            file.attrs["key"] = layout.key
            file.attrs["batch_size"] = layout.batch_size
            file.attrs["provenance"] = json.dumps(dict(provenance), sort_keys=True)
            for name, (shape, kind) in layout.shapes().items():
                _create_contiguous(file, name, shape, kind)
            file["stamps"][...] = stamps
            file["precision_error"][...] = np.nan
            offsets = {name: int(file[name].id.get_offset() or 0) for name in layout.DATASETS}
        _reserve(path, path.stat().st_size)  # HDF5 only set the length, which takes no space
        _seal(path, layout, provenance, offsets)
        _synchronise(path)

    def pending_batches(self) -> npt.NDArray[np.int64]:
        """List the rows to compute so that a resumed run cuts the same batches as one in one piece.

        Returns:
            `(K,)` ascending; every batch that is not complete is in it as a whole.
        """
        batches = np.arange(self.layout.rows) // self.layout.batch_size
        incomplete = np.unique(batches[self.states == RowState.PENDING])
        return np.flatnonzero(np.isin(batches, incomplete))

    def unsound_rows(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the rows whose features do not fit their checksum, chunk by chunk."""
        checksums = self._read("checksums")
        for start in range(0, self.layout.rows, CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, self.layout.rows)
            done = self.states[start:stop] == RowState.DONE
            if done.any():
                found = _checksums(self._read("features", start, stop))
                yield start + np.flatnonzero(done & (found != checksums[start:stop]))

    def write(
        self,
        rows: npt.NDArray[np.int64],
        features: npt.NDArray[np.float32],
        readable: npt.NDArray[np.bool_],
    ) -> None:
        """Store rows; whatever happens, a row counts only when all of it is there.

        Args:
            rows: `(K,)` ascending.
            features: `(K, D)` float32.
            readable: `(K,)`; the features of an unreadable row are not kept.

        Raises:
            StoreError: The disk takes no more.
        """
        features = np.where(readable[:, None], features, np.float32(np.nan)).astype("<f4")
        states = np.where(readable, RowState.DONE, RowState.UNREADABLE).astype(np.uint8)
        checksums = _checksums(features)
        try:
            for first, last in _runs(rows):
                start = int(rows[first])
                self._write("features", start, features[first:last])
                self._write("checksums", start, checksums[first:last])
                self._write("states", start, states[first:last])
        except OSError as error:
            message = f"{self.path}: {error.strerror}; free some space and run the same again"
            raise StoreError(message) from error
        self.states[rows] = states

    def stale_rows(
        self, stamps: npt.NDArray[np.uint8], *, skip_unreadable: bool
    ) -> npt.NDArray[np.int64]:
        """Find rows that must be computed again.

        Args:
            stamps: `(N, 16)` uint8 of `digest_stamps`, as the images are now.
            skip_unreadable: Whether an unreadable image stays out, or is tried again.

        Returns:
            `(K,)` ascending: rows whose image changed since, and those tried again. A row without
            a stamp on either side counts as unchanged.
        """
        known = self.stamps.any(axis=1) & stamps.any(axis=1)
        stale = known & (self.stamps != stamps).any(axis=1)
        if not skip_unreadable:
            stale |= self.states == RowState.UNREADABLE
        return np.flatnonzero(stale)

    def forget(self, rows: npt.NDArray[np.int64], stamps: npt.NDArray[np.uint8]) -> None:
        """Make rows pending again, and take all stamps anew."""
        self.states[rows] = RowState.PENDING
        self.stamps = np.where(stamps.any(axis=1, keepdims=True), stamps, self.stamps)
        self._write("states", 0, self.states)  # first: a kill in between costs work, not truth
        self._write("stamps", 0, self.stamps)

    @property
    def precision_error(self) -> float:
        """Relative L2 error of the features against fp32; NaN where it is not known."""
        value, checksum = self._read("precision_error")
        return float(value) if checksum == zlib.crc32(value.tobytes()) else float("nan")

    @precision_error.setter
    def precision_error(self, value: float) -> None:
        number = np.array(value, "<f8")
        self._write("precision_error", 0, np.array([value, zlib.crc32(number.tobytes())], "<f8"))

    def features(self) -> npt.NDArray[np.float32]:
        """Map the features into memory: `(N, D)` float32, copied where they are written to."""
        shape, kind = self.layout.shapes()["features"]
        if 0 in shape:
            return np.zeros(shape, np.float32)
        offset = self._offsets["features"]
        return np.asarray(np.memmap(self.path, kind, "c", offset=offset, shape=shape))

    def synchronise(self) -> None:
        """Flush to the disk."""
        os.fsync(self._file.fileno())

    def _read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.generic]:
        shape, kind = self.layout.shapes()[name]
        stop = shape[0] if stop is None else stop
        values = np.empty((stop - start, *shape[1:]), kind)
        self._file.seek(self._place(name, start))
        raw = values.reshape(-1).view(np.uint8)
        if self._file.readinto(raw.data) != raw.nbytes:
            message = f"{name} ends too early"
            raise BrokenFileError(message)
        return values

    def _write(self, name: str, start: int, values: npt.NDArray[np.generic]) -> None:
        self._file.seek(self._place(name, start))
        raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        while raw.nbytes:  # a single write may take a part only
            raw = raw[self._file.write(raw) :]

    def _place(self, name: str, row: int) -> int:
        shape, kind = self.layout.shapes()[name]
        return self._offsets[name] + row * int(np.prod(shape[1:])) * kind.itemsize


def _create_contiguous(
    file: h5py.File, name: str, shape: tuple[int, ...], kind: np.dtype[np.generic]
) -> None:
    """Reserve a data set's final place in the file, without writing into it."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(kind), space, dcpl=properties)


def _seal(
    path: Path, layout: Layout, provenance: Mapping[str, str], offsets: Mapping[str, int]
) -> None:
    """Append what the file is, and the hash of all that stays as it is."""
    description = json.dumps(
        {
            "version": VERSION,
            "key": layout.key,
            "rows": layout.rows,
            "dimension": layout.dimension,
            "batch_size": layout.batch_size,
            "provenance": dict(provenance),
            "offsets": dict(offsets),
        },
        sort_keys=True,
    ).encode()
    with path.open("r+b") as file:
        digest = _digest(file, file.seek(0, os.SEEK_END), layout, offsets, description)
        file.seek(0, os.SEEK_END)
        file.write(description + _SEAL.pack(digest, len(description), _END))


def _read_structure(path: Path) -> tuple[Layout, dict[str, str], dict[str, int]]:
    """Read the seal, and refuse the file where anything that never changes has changed."""
    with open_plain(path) as file:
        try:
            size = file.seek(0, os.SEEK_END) - _SEAL.size
            digest, length, end = _SEAL.unpack(_piece(file, size, _SEAL.size))
            if end != _END or length > _LONGEST:
                message = f"not a whole file of features in version {VERSION}"
                raise BrokenFileError(message)
            description = _piece(file, size - length, length)
            layout, provenance, offsets = _parse(description)
            found = _digest(file, size - length, layout, offsets, description)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            message = f"not a whole file of features in version {VERSION} ({error})"
            raise BrokenFileError(message) from error
    if found != digest:
        message = "its structure does not fit its hash"
        raise BrokenFileError(message)
    return layout, provenance, offsets


def _parse(description: bytes) -> tuple[Layout, dict[str, str], dict[str, int]]:
    given = json.loads(description)
    if given["version"] != VERSION:
        message = f"version {given['version']}"
        raise ValueError(message)
    numbers = (int(given[name]) for name in ("rows", "dimension", "batch_size"))
    provenance = {str(name): str(value) for name, value in given["provenance"].items()}
    offsets = {name: int(given["offsets"][name]) for name in Layout.DATASETS}
    return Layout(str(given["key"]), *numbers), provenance, offsets


def _digest(
    file: IO[bytes], end: int, layout: Layout, offsets: Mapping[str, int], description: bytes
) -> bytes:
    """Hash the description and every byte before `end` that belongs to no data set.

    Raises:
        ValueError: Data sets lie outside the file or in each other, or leave too much between them.
    """
    digest = hashlib.sha256(description)
    place = 0
    for start, length in [*_stretches(layout, offsets), (end, 0)]:
        if not 0 <= start - place <= _LONGEST or start + length > end:
            message = "its data sets are not where they can be"
            raise ValueError(message)
        digest.update(_piece(file, place, start - place))
        place = start + length
    return digest.digest()


def _stretches(layout: Layout, offsets: Mapping[str, int]) -> list[tuple[int, int]]:
    """List where data sets begin, and how many bytes they have, in the order of the file."""
    lengths = {
        name: int(np.prod(shape)) * kind.itemsize for name, (shape, kind) in layout.shapes().items()
    }
    return sorted((offsets[name], length) for name, length in lengths.items() if length)


def _piece(file: IO[bytes], place: int, length: int) -> bytes:
    """Read so many bytes from a place, or say that they are not there."""
    if place >= 0:
        file.seek(place)
        piece = file.read(length)
        if len(piece) == length:
            return piece
    message = "it ends too early"
    raise ValueError(message)


def _checksums(features: npt.NDArray[np.generic]) -> npt.NDArray[np.uint32]:
    return np.array([zlib.crc32(row.tobytes()) for row in features], "<u4")


def _runs(rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut ascending rows into stretches of neighbours, as positions (first, last + 1)."""
    borders = np.flatnonzero(np.diff(rows) != 1) + 1
    edges = [0, *borders.tolist(), len(rows)]
    return pairwise(edges)


def _reserve(path: Path, size: int) -> None:
    """Take the space now: a full disk is one clear error before any work, not a torn file later."""
    try:
        with path.open("r+b" if path.exists() else "wb") as file:
            if hasattr(os, "posix_fallocate"):  # neither on macOS nor on Windows
                os.posix_fallocate(file.fileno(), 0, size)
            elif shutil.disk_usage(path.parent).free < size:
                raise OSError(28, "No space left on device")
    except OSError as error:
        path.unlink(missing_ok=True)
        message = (
            f"{path.parent}: no room for {size / 2**20:.0f} MiB of features ({error.strerror}); "
            "free some space, or set MEDSSL_HOME to a folder on another disk"
        )
        raise StoreError(message) from error


def _synchronise(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
