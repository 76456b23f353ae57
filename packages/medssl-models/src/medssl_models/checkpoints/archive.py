"""Single members of zip archives, by name and within bounds; nothing is ever extracted to disk.

An archive with a path that leaves it, a link, a repeated name, encryption or an implausible
compression is refused as a whole, with the member that is at fault.
"""

import contextlib
import hashlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from medssl_models.errors import CheckpointError, UnsafeCheckpointError
from medssl_models.files import open_plain

__all__ = ["Archive"]

_MAX_DIRECTORY = 2**20  # bytes of the table of contents: some 10,000 members
_MAX_MEMBER = 4 * 2**30
_MAX_RATIO = 100  # trained weights compress by a tenth
_PIECE = 2**20
_FREE = 2**20  # up to this size any ratio is harmless
_END = b"PK\x05\x06"
_END_SIZE = 22
# torch writes the 64-bit forms of the end record and of its locator in every archive.
_WIDE_END, _WIDE_LOCATOR = b"PK\x06\x06", b"PK\x06\x07"
_WIDE_END_SIZE, _WIDE_LOCATOR_SIZE = 56, 20
_TAIL = _WIDE_END_SIZE + _WIDE_LOCATOR_SIZE + _END_SIZE + 0xFFFF  # of a comment behind it


class Archive:
    """A zip file whose table of contents has been checked.

    Args:
        path: The archive.

    Raises:
        UnsafeCheckpointError: A member leaves the archive, is a link, or is a bomb.
        CheckpointError: It is not a readable zip file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_directory(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
            message = f"{path}: not a readable zip archive: {error}"
            raise CheckpointError(message) from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        try:
            for member in self._zip.infolist():
                self._admit(member)
        except CheckpointError:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zip.close()

    @property
    def names(self) -> list[str]:
        """The files in the archive, in its order, without folders."""
        return list(self._members)

    def read(self, name: str) -> bytes:
        """Return the content of one member, whose length and checksum are checked.

        Args:
            name: As in `names`.

        Raises:
            CheckpointError: There is no such member, or it is damaged.
        """
        member = self._member(name)
        with self._reading(name), self._zip.open(member) as stream:
            content = stream.read(member.file_size + 1)
        self._check_length(name, len(content))
        return content

    def copy(self, name: str, target: Path) -> str:
        """Copy the content of one member to a file, a piece at a time.

        Args:
            name: As in `names`.
            target: The file to write.

        Returns:
            SHA-256 of the content.

        Raises:
            CheckpointError: There is no such member, or it is damaged.
            OSError: The file cannot be written.
        """
        member = self._member(name)
        digest, length = hashlib.sha256(), 0
        with target.open("wb") as file, contextlib.ExitStack() as stack:
            with self._reading(name):
                stream = stack.enter_context(self._zip.open(member))
            while True:
                with self._reading(name):
                    piece = stream.read(_PIECE)
                if not piece or length > member.file_size:
                    break
                file.write(piece)
                digest.update(piece)
                length += len(piece)
        self._check_length(name, length)
        return digest.hexdigest()

    def size(self, name: str) -> int:
        """Return the bytes of one member, as the table of contents says; reading checks it."""
        return self._member(name).file_size

    def _member(self, name: str) -> zipfile.ZipInfo:
        if name not in self._members:
            message = f"{self.path}: the archive has no member {name!r}"
            raise CheckpointError(message)
        return self._members[name]

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Turn what zipfile raises for damaged members into one error."""
        try:
            yield
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            OSError,
            RuntimeError,
            struct.error,
            ValueError,
        ) as error:
            message = f"{self.path}: member {name!r} is damaged: {error}"
            raise CheckpointError(message) from error

    def _check_length(self, name: str, length: int) -> None:
        expected = self._members[name].file_size
        if length != expected:
            message = f"{self.path}: member {name!r} is not {expected} bytes long"
            raise CheckpointError(message)

    def _admit(self, member: zipfile.ZipInfo) -> None:
        fault = _fault(member)
        if member.filename in self._members:
            fault = "is there twice"
        if fault:
            message = f"{self.path}: member {member.filename[:200]!r} {fault}; nothing was read"
            raise UnsafeCheckpointError(message)
        if not member.is_dir():
            self._members[member.filename] = member


def _fault(member: zipfile.ZipInfo) -> str:
    """Say what is wrong with a member, or nothing."""
    path = PurePosixPath(member.filename)
    outside = path.is_absolute() or ".." in path.parts or "\\" in member.filename
    mode = member.external_attr >> 16
    ordinary = stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)
    heavy = member.file_size > _FREE and member.file_size > _MAX_RATIO * member.compress_size
    faults = {
        "has a path that leaves the archive": outside or ":" in path.parts[0] if path.parts else 1,
        "is a link or a device": not ordinary,
        "is encrypted": member.flag_bits & 1,
        "uses a compression other than deflate": member.compress_type
        not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
        f"is larger than {_MAX_MEMBER >> 30} GiB": member.file_size > _MAX_MEMBER,
        f"unpacks to more than {_MAX_RATIO} times its size": heavy,
    }
    return next((fault for fault, found in faults.items() if found), "")


def _check_directory(path: Path) -> None:
    """Bound the table of contents before it is parsed: it decides how much memory that takes."""
    size = path.stat().st_size
    with open_plain(path) as file:
        file.seek(max(0, size - _TAIL))
        tail = file.read(_TAIL)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        message = f"{path}: the zip archive has no end record; it is cut off"
        raise CheckpointError(message)
    (directory,) = struct.unpack_from("<L", tail, at + 12)
    # Where there is one, zipfile believes the 64-bit record.
    if tail[max(0, at - _WIDE_LOCATOR_SIZE) : at].startswith(_WIDE_LOCATOR):
        directory = _wide_directory(path, tail[: at - _WIDE_LOCATOR_SIZE])
    if directory > _MAX_DIRECTORY:
        message = f"{path}: the archive has a table of contents of over {_MAX_DIRECTORY:,} bytes"
        raise UnsafeCheckpointError(message)


def _wide_directory(path: Path, tail: bytes) -> int:
    """Read the size of the table of contents from the 64-bit end record, which torch writes."""
    record = tail[-_WIDE_END_SIZE:]
    if len(record) < _WIDE_END_SIZE or not record.startswith(_WIDE_END):
        message = f"{path}: the zip archive has a damaged 64-bit end record"
        raise CheckpointError(message)
    (directory,) = struct.unpack_from("<Q", record, 40)
    return int(directory)
