"""TensorFlow V2 checkpoints (an index table and data shards, or a zip of them) as named arrays.

Reads what `tf.train.Saver` writes: fixed-size numbers in little-endian order, no compression. All
checksums are verified. It knows nothing of networks; names are those of the variables.
"""

import math
import mmap
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from medssl_models.checkpoints.archive import Archive
from medssl_models.errors import CheckpointError, UnsafeCheckpointError
from medssl_models.files import open_plain

__all__ = ["find_index", "masked_checksum", "parse_tf_bundle", "read_tf_bundle"]

# Numbers of tensorflow/core/framework/types.proto. Strings, resources, quantised and 8-bit floats
# have no place in a checkpoint of weights; bfloat16 has no NumPy type.
_DTYPES = {
    1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?",
    17: "<u2", 19: "<f2", 22: "<u4", 23: "<u8",
}  # fmt: skip
_MAGIC = 0xDB4775248B80FB57
_MASK_DELTA = 0xA282EAD8
_FOOTER = 48
_TRAILER = 5  # of a block: the kind of compression and a checksum
_MAX_INDEX = 64 * 2**20
_MAX_VARIABLES = 200_000
_MAX_NAME = 1024
_MAX_RANK = 8
_MAX_SHARDS = 1024
_SHARD = re.compile(r"(?P<prefix>.*)\.data-(?P<number>\d{5})-of-(?P<count>\d{5})")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Array = npt.NDArray[Any]
Shards = Callable[[int, int], memoryview]


@dataclass(slots=True)
class _Entry:
    """One variable as the index describes it."""

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    checksum: int = 0
    slices: int = field(default=0)


def read_tf_bundle(path: Path) -> dict[str, Array]:
    """Read all variables of a TensorFlow V2 checkpoint.

    Args:
        path: The `.index` file, a `.data-*` shard beside it, the folder of both, or a zip archive
            of them. A saved model in a `hub` folder of the archive is not looked at.

    Returns:
        Variable name to read-only array, in the order of the index; views of the mapped files.

    Raises:
        UnsafeCheckpointError: A bound is exceeded, or the archive is malicious.
        CheckpointError: A checksum is wrong, a file is missing, cut off, or of an unknown kind.
    """
    index = find_index(path)
    try:
        if index is None:
            return _read_archive(path)
        return parse_tf_bundle(_read_index(index), lambda n, of: _map(_shard_path(index, n, of)))
    except CheckpointError as error:
        message = f"{path}: {error}"
        raise type(error)(message.replace(f"{path}: {path}: ", f"{path}: ")) from error


def find_index(path: Path) -> Path | None:
    """Find the index that belongs to a folder, a shard or an index; None for another file.

    Args:
        path: An existing file or folder.

    Raises:
        CheckpointError: A folder has no index or several, or a shard's index is missing.
    """
    if path.is_dir():
        return path / _only([entry.name for entry in path.iterdir()], path)
    shard = _SHARD.fullmatch(path.name)
    if shard:
        index = path.with_name(shard["prefix"] + ".index")
        if not index.is_file():
            message = f"{path}: {index.name} is missing beside it; bring both files"
            raise CheckpointError(message)
        return index
    return path if path.suffix == ".index" or _has_magic(path) else None


def masked_checksum(data: bytes | memoryview) -> int:
    """Compute the CRC-32C of some bytes in TensorFlow's masked form.

    The mask keeps CRCs of data that hold CRCs from cancelling.

    Example:
        >>> hex(masked_checksum(b"123456789"))
        '0xc78ab0e5'
    """
    checksum: int = google_crc32c.value(bytes(data))
    return (((checksum >> 15) | (checksum << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def parse_tf_bundle(index: bytes, shards: Shards) -> dict[str, Array]:
    """Read the variables of a checkpoint in memory, as `read_tf_bundle` does.

    Args:
        index: The whole index file.
        shards: Returns the content of a shard, given its number and their count.

    Returns:
        Variable name to read-only array.
    """
    entries = _entries(index)
    header = next(entries, (b"", b""))
    if header[0]:
        message = "the index has no header entry"
        raise CheckpointError(message)
    count = _shard_count(header[1])
    contents: dict[int, memoryview] = {}
    arrays: dict[str, Array] = {}
    for key, value in entries:
        if key.startswith(b"\0"):  # a slice of a partitioned variable, found through its entry
            continue
        name = _name(key)
        try:
            entry = _parse_entry(value)
            if not 0 <= entry.shard < count:
                message = f"it is in shard {entry.shard} of {count}"
                raise CheckpointError(message)
            if entry.shard not in contents:
                contents[entry.shard] = shards(entry.shard, count)
            arrays[name] = _array(entry, contents[entry.shard])
        except CheckpointError as error:
            message = f"variable {name!r}: {error}"
            raise type(error)(message) from error
    if not arrays:
        message = "the checkpoint holds no variables"
        raise CheckpointError(message)
    return arrays


# -- files --------------------------------------------------------------------------------------
def _only(names: list[str], where: Path) -> str:
    """Return the one index among some names."""
    found = [name for name in names if name.endswith(".index")]
    if len(found) != 1:
        message = f"{where}: {len(found)} .index files, exactly one is expected: {found[:3]}"
        raise CheckpointError(message)
    return found[0]


def _has_magic(path: Path) -> bool:
    with open_plain(path) as file:
        size = path.stat().st_size
        file.seek(max(0, size - 8))
        return file.read(8) == struct.pack("<Q", _MAGIC)


def _read_index(path: Path) -> bytes:
    size = path.stat().st_size
    if size > _MAX_INDEX:
        message = f"the index has {size:,} bytes, {_MAX_INDEX:,} are allowed"
        raise UnsafeCheckpointError(message)
    with open_plain(path) as file:
        return file.read()


def _shard_path(index: Path, number: int, count: int) -> Path:
    return index.with_name(_shard_name(index.name, number, count))


def _shard_name(index: str, number: int, count: int) -> str:
    return f"{index.removesuffix('.index')}.data-{number:05d}-of-{count:05d}"


def _map(path: Path) -> memoryview:
    if not path.is_file():
        message = f"{path.name} is missing beside the index; bring both files"
        raise CheckpointError(message)
    if not path.stat().st_size:
        return memoryview(b"")
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read_archive(path: Path) -> dict[str, Array]:
    with Archive(path) as archive:
        # The published archives also hold a TF hub module, whose variables are a second checkpoint.
        names = [name for name in archive.names if "hub" not in name.split("/")[:-1]]
        index = _only(names, path)
        return parse_tf_bundle(
            archive.read(index), lambda n, of: memoryview(archive.read(_shard_name(index, n, of)))
        )


# -- the table ----------------------------------------------------------------------------------
def _entries(index: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values in order; each key comes once."""
    if len(index) < _FOOTER or index[-8:] != struct.pack("<Q", _MAGIC):
        message = "not the index of a TensorFlow V2 checkpoint, or cut off"
        raise CheckpointError(message)
    reader = _Reader(index[-_FOOTER:-8])
    reader.varint(), reader.varint()  # where the meta-index is; bundles leave it empty
    previous, count = None, 0
    for _, handle in _block(index, reader.varint(), reader.varint()):
        location = _Reader(handle)
        for key, value in _block(index, location.varint(), location.varint()):
            count += 1
            if count > _MAX_VARIABLES:
                message = f"more than {_MAX_VARIABLES:,} entries in the index"
                raise UnsafeCheckpointError(message)
            if previous is not None and key <= previous:
                message = f"the index has the key {key[:120]!r} twice or out of order"
                raise CheckpointError(message)
            previous = key
            yield key, value


def _block(index: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    end = offset + size
    if size < 4 or end + _TRAILER > len(index) - _FOOTER:
        message = "a block of the index lies outside the file"
        raise CheckpointError(message)
    (checksum,) = struct.unpack_from("<L", index, end + 1)
    if masked_checksum(index[offset : end + 1]) != checksum:
        message = "the index has a wrong checksum; the file is damaged"
        raise CheckpointError(message)
    if index[end]:
        message = f"the index is compressed (kind {index[end]}); TensorFlow writes it plain"
        raise CheckpointError(message)
    (restarts,) = struct.unpack_from("<L", index, end - 4)
    if 4 * (restarts + 1) > size:
        message = "a block of the index has more restart points than room"
        raise CheckpointError(message)
    reader = _Reader(index[offset : end - 4 * (restarts + 1)])
    key = b""
    while reader.more():
        shared, unshared, length = reader.varint(), reader.varint(), reader.varint()
        if shared > len(key) or shared + unshared > _MAX_NAME:
            message = "a key of the index is longer than its parts, or than a name may be"
            raise CheckpointError(message)
        key = key[:shared] + reader.take(unshared)
        yield key, reader.take(length)


class _Reader:
    """Bytes from the front of a buffer: varints and runs, each checked against what is left."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def more(self) -> bool:
        return self.position < len(self.data)

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.data):
            message = "an entry of the index is cut off"
            raise CheckpointError(message)
        run = self.data[self.position : end]
        self.position = end
        return run

    def varint(self) -> int:
        value = 0
        for shift in range(0, 64, 7):
            (octet,) = self.take(1)
            value |= (octet & 0x7F) << shift
            if octet < 0x80:
                return value
        message = "a number in the index is longer than 64 bits"
        raise CheckpointError(message)


# -- the protocol buffers -----------------------------------------------------------------------
def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a message."""
    reader = _Reader(data)
    while reader.more():
        number, kind = divmod(reader.varint(), 8)
        if kind == _VARINT:
            yield number, reader.varint()
        elif kind == _BYTES:
            yield number, reader.take(reader.varint())
        elif kind in (_FIXED32, _FIXED64):
            yield number, int.from_bytes(reader.take(4 if kind == _FIXED32 else 8), "little")
        else:
            message = f"a field of kind {kind} in the index"
            raise CheckpointError(message)


def _whole(value: int | bytes) -> int:
    if isinstance(value, bytes):
        message = "a number is expected in the index, bytes found"
        raise CheckpointError(message)
    return value


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        message = "a message is expected in the index, a number found"
        raise CheckpointError(message)
    return value


def _shard_count(header: bytes) -> int:
    values = {number: value for number, value in _fields(header) if number in (1, 2)}
    if _whole(values.get(2, 0)):
        message = "the checkpoint is in big-endian order; only little-endian ones are read"
        raise CheckpointError(message)
    count = _whole(values.get(1, 0))
    if not 1 <= count <= _MAX_SHARDS:
        message = f"the checkpoint has {count} shards; 1 to {_MAX_SHARDS} are allowed"
        raise CheckpointError(message)
    return count


def _parse_entry(data: bytes) -> _Entry:
    entry = _Entry()
    numbers = {1: "dtype", 3: "shard", 4: "offset", 5: "size", 6: "checksum"}
    for number, value in _fields(data):
        if number in numbers:
            setattr(entry, numbers[number], _whole(value))
        elif number == 2:
            entry.shape = _parse_shape(_message(value))
        elif number == 7:
            entry.slices += 1
    return entry


def _parse_shape(data: bytes) -> tuple[int, ...]:
    dims = []
    for number, value in _fields(data):
        if number == 2:
            sizes = [_whole(size) for kind, size in _fields(_message(value)) if kind == 1]
            dims.append(sizes[-1] if sizes else 0)
        elif number == 3 and value:
            message = "its shape is unknown"
            raise CheckpointError(message)
    if len(dims) > _MAX_RANK:
        message = f"it has {len(dims)} dimensions; {_MAX_RANK} are allowed"
        raise CheckpointError(message)
    return tuple(dims)


def _name(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        message = f"a variable name is not UTF-8: {key[:80]!r}"
        raise CheckpointError(message) from error


def _array(entry: _Entry, shard: memoryview) -> Array:
    if entry.slices:
        message = "it is stored in slices (a partitioned variable), which are not read"
        raise CheckpointError(message)
    if entry.dtype not in _DTYPES:
        message = f"it has the TensorFlow data type {entry.dtype}, which is not read"
        raise CheckpointError(message)
    dtype = np.dtype(_DTYPES[entry.dtype])
    size = math.prod(entry.shape) * dtype.itemsize
    if size != entry.size or entry.offset + size > len(shard):
        message = f"shape {entry.shape} {dtype} and {entry.size} bytes do not fit the data file"
        raise CheckpointError(message)
    data = shard[entry.offset : entry.offset + size]
    if masked_checksum(data) != entry.checksum:
        message = "wrong checksum; the data file is damaged"
        raise CheckpointError(message)
    return np.frombuffer(data, dtype).reshape(entry.shape)
