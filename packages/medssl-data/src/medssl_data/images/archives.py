"""Pictures inside `.npz` files, read one by one without loading the file and without pickle.

Stored members are memory-mapped where they lie; compressed ones are unpacked once, into memory when
small and into the cache folder when large.
"""

from __future__ import annotations

import math
import shutil
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from tokenize import TokenError
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy

from medssl_data.errors import MissingFileError, UnreadableImageError
from medssl_data.files import home, replacing, sha256_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

__all__ = ["ArrayHeader", "member_headers", "open_member", "read_item"]

_IN_MEMORY = 256 * 2**20
_LOCAL_HEADER = 30
_FREE, _MAX_RATIO = 64 * 2**20, 200
"""Bytes up to which any compression is harmless, and the most of pictures beyond."""
_PIECE = 16 * 2**20
_FAULTS = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, NotImplementedError)


@dataclass(frozen=True)
class ArrayHeader:
    """What an array in an archive says about itself before it is read.

    Args:
        shape: Its shape.
        dtype: Its type; never an object type.
        fortran: Column-major.
        offset: Bytes before the numbers.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran: bool
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def member_headers(path: Path) -> dict[str, ArrayHeader]:
    """Read the headers of all arrays of an `.npz` file; the arrays stay on disk.

    Raises:
        MissingFileError: There is no such file.
        UnreadableImageError: No archive of arrays, or an array of Python objects.
    """
    if not path.is_file():
        message = f"{path} is not there"
        raise MissingFileError(message)
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                info.filename.removesuffix(".npy"): _header_of(archive, info)
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
    except PermissionError:
        raise
    except (RecursionError, MemoryError, SyntaxError, TokenError) as error:  # of nested brackets
        reason = "is not a readable .npz file (a header that cannot be parsed)"
        raise UnreadableImageError.of(path, reason, "fetch it again") from error
    except _FAULTS as error:
        reason = f"is not a readable .npz file ({error})"
        raise UnreadableImageError.of(path, reason, "fetch it again") from error


def _header_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArrayHeader:
    if info.file_size > max(_FREE, _MAX_RATIO * info.compress_size):
        message = f"{info.filename} unpacks to more than {_MAX_RATIO} times its size"
        raise ValueError(message)
    with archive.open(info) as stream:
        header = _parse(stream)
    if header.offset + header.nbytes != info.file_size:
        message = (
            f"{info.filename} declares {header.nbytes} bytes of numbers and holds another amount"
        )
        raise ValueError(message)
    return header


def _parse(stream: IO[bytes]) -> ArrayHeader:
    major, _ = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        message = "it holds Python objects, which could run code"
        raise ValueError(message)
    return ArrayHeader(shape, dtype, fortran, stream.tell())


def open_member(path: Path, member: str) -> npt.NDArray[np.generic]:
    """Open one array read-only, memory-mapped where its size asks for it.

    Args:
        path: The `.npz` file.
        member: Name of the array.

    Raises:
        UnreadableImageError: No such array, or damaged.
    """
    try:
        found = path.stat()
    except FileNotFoundError as error:
        message = f"{path} is not there"
        raise MissingFileError(message) from error
    return _open_cached(path, member, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=8)
def _open_cached(path: Path, member: str, size: int, changed: int) -> npt.NDArray[np.generic]:
    headers = member_headers(path)
    if member not in headers:
        message = f"{path} holds no array {member!r}; it has {', '.join(headers) or 'none'}"
        raise UnreadableImageError(message)
    header = headers[member]
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{member}.npy")
            if info.compress_type == zipfile.ZIP_STORED:
                start = _data_offset(path, info)
                _check_sum(path, info, start)
                return _map(path, header, start + header.offset)
            if header.nbytes <= _IN_MEMORY:
                return _load(archive.read(info), header)
            unpacked = _unpack(archive, info, f"{path.resolve()}:{size}:{changed}")
            return _map(unpacked, header, header.offset)
    except PermissionError:
        raise
    except _FAULTS as error:
        message = f"{path}: array {member!r} is damaged ({error}); fetch the file again"
        raise UnreadableImageError(message) from error


def _load(content: bytes, header: ArrayHeader) -> npt.NDArray[np.generic]:
    flat = np.frombuffer(content, header.dtype, offset=header.offset)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def _map(path: Path, header: ArrayHeader, offset: int) -> npt.NDArray[np.generic]:
    order = "F" if header.fortran else "C"
    return np.memmap(path, header.dtype, "r", offset, header.shape, order)  # type: ignore[call-overload, no-any-return]  # order is a Literal


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Find where a stored member's bytes begin: the local header repeats name and extra field."""
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        head = stream.read(_LOCAL_HEADER)
    name, extra = struct.unpack("<HH", head[26:30])
    return int(info.header_offset + _LOCAL_HEADER + name + extra)


def _check_sum(path: Path, info: zipfile.ZipInfo, start: int) -> None:
    """Compare a stored member with its checksum: mapped, it is never read through zipfile."""
    found, left = 0, info.file_size
    with path.open("rb") as stream:
        stream.seek(start)
        while left > 0 and (piece := stream.read(min(left, _PIECE))):
            found, left = zlib.crc32(piece, found), left - len(piece)
    if found != info.CRC:
        message = "it does not fit its checksum"
        raise ValueError(message)


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, identity: str) -> Path:
    key = sha256_of(f"{identity}:{info.filename}:{info.CRC}".encode())[:32]
    target = home() / "arrays" / f"{key}.npy"
    if not target.is_file() or target.stat().st_size != info.file_size:
        with (
            replacing(target) as draft,
            archive.open(info) as source,
            draft.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink, 2**20)
    return target


def read_item(path: Path, item: str) -> npt.NDArray[np.uint8]:
    """Read one picture `member/index` of an `.npz` file.

    Args:
        path: The archive.
        item: Array name, slash, position.

    Returns:
        (H, W) or (H, W, 3) uint8.

    Raises:
        UnreadableImageError: No such picture, or no picture at all.
    """
    member, _, index = item.rpartition("/")
    array = open_member(path, member)
    if not index.isdecimal() or int(index) >= len(array):
        message = f"{path}: {item!r} is not one of the {len(array)} pictures of {member!r}"
        raise UnreadableImageError(message)
    pixels = np.array(array[int(index)])
    if pixels.dtype != np.uint8 or pixels.ndim not in {2, 3} or pixels.shape[2:] not in {(), (3,)}:
        message = (
            f"{path}: {member!r} holds {pixels.dtype} {pixels.shape}, no 8-bit grey or RGB pictures"
        )
        raise UnreadableImageError(message)
    return pixels
