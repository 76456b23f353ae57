"""Records of CIFAR: fixed-size binary ones, and pickles that are read but never run."""

from __future__ import annotations

import pickletools
import tarfile
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from medssl_data.errors import MissingDatasetError, UnreadableImageError
from medssl_data.files import home, sha256_of, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

__all__ = ["find_batches", "read_labels", "read_record"]

_PIXELS = 3 * 32 * 32
_ARCHIVES = {
    "cifar-10-batches-bin": "cifar-10-binary.tar.gz",
    "cifar-10-batches-py": "cifar-10-python.tar.gz",
    "cifar-100-binary": "cifar-100-binary.tar.gz",
    "cifar-100-python": "cifar-100-python.tar.gz",
}
_AGAIN = "fetch it again"
_KEYS = ("data", "labels", "fine_labels", "coarse_labels", "filenames", "batch_label")
_WHOLE_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"}
_LARGEST = 2**28
"""Bytes of a batch; CIFAR-100's training part has 154 million."""


def find_batches(
    root: Path, layouts: dict[str, list[tuple[str, str]]]
) -> tuple[Path, list[tuple[str, str]]]:
    """Find the batch files of one of several layouts.

    Args:
        root: Folder that holds the layout's folder or its `.tar.gz`.
        layouts: Folder -> its files and their splits.

    Returns:
        The folder above the batches, and (relative path, split) of each.

    Raises:
        MissingDatasetError: No layout is complete.
    """
    for folder, files in layouts.items():
        top = root if (root / folder).is_dir() else _unpacked(root / _ARCHIVES[folder], files)
        named = [(f"{folder}/{name}", split) for name, split in files]
        if top is not None and all((top / path).is_file() for path, _ in named):
            return top, named
    wanted = " or ".join(f"{folder}/ with {len(files)} files" for folder, files in layouts.items())
    message = f"{root} holds no complete {wanted}; unpack the archive there"
    raise MissingDatasetError(message)


def _unpacked(archive: Path, files: list[tuple[str, str]]) -> Path | None:
    """Unpack the named files of an archive into the cache folder, once."""
    if not archive.is_file():
        return None
    found = archive.stat()
    identity = f"{archive.resolve()}:{found.st_size}:{found.st_mtime_ns}"
    top = home() / "unpacked" / sha256_of(identity.encode())[:32]
    wanted = {name for name, _ in files}
    try:
        with tarfile.open(archive) as members:
            for member in members:
                folder, _, name = member.name.removeprefix("./").rpartition("/")
                if name in wanted and member.isfile() and folder in _ARCHIVES:
                    _unpack_member(members, member, top / folder / name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UnreadableImageError.of(archive, f"cannot be unpacked ({error})", _AGAIN) from error
    return top


def _unpack_member(members: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if target.is_file() and target.stat().st_size == member.size:
        return
    if member.size > _LARGEST or member.issparse():
        message = f"{member.name} would take {member.size:,} bytes, a batch {_LARGEST:,} at most"
        raise tarfile.TarError(message)
    source = members.extractfile(member)
    if source is not None:
        write_atomically(target, source.read())


def read_labels(path: Path) -> list[int]:
    """Read the labels of a batch in order; the fine ones of CIFAR-100.

    Raises:
        UnreadableImageError: No batch.
    """
    return _batch(path, *_stamp(path))[1]


def read_record(path: Path, item: str) -> npt.NDArray[np.uint8]:
    """Read one picture of a batch.

    Args:
        path: The batch.
        item: Its position as text.

    Returns:
        (32, 32, 3) uint8.

    Raises:
        UnreadableImageError: No batch, or no such record.
    """
    pixels, _ = _batch(path, *_stamp(path))
    if not item.isdecimal() or int(item) >= len(pixels):
        message = f"{path}: {item!r} is not one of its {len(pixels)} records"
        raise UnreadableImageError(message)
    return np.ascontiguousarray(pixels[int(item)].reshape(3, 32, 32).transpose(1, 2, 0))


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=8)
def _batch(path: Path, size: int, changed: int) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Read (N, 3072) pixels and N labels."""
    del changed
    if size > _LARGEST:
        reason = f"has {size:,} bytes, a batch {_LARGEST:,} at most"
        raise UnreadableImageError.of(path, reason, _AGAIN)
    if path.suffix == ".bin":
        return _binary(path, size)
    return _pickled(path)


def _binary(path: Path, size: int) -> tuple[npt.NDArray[np.uint8], list[int]]:
    # CIFAR-100 has a coarse label before the fine one.
    width = next((w for w in (1, 2) if size and size % (_PIXELS + w) == 0), None)
    if width is None:
        reason = f"has {size} bytes, which is not a whole number of records"
        raise UnreadableImageError.of(path, reason, _AGAIN)
    records = np.memmap(path, np.uint8, "r").reshape(-1, _PIXELS + width)
    return records[:, width:], records[:, width - 1].tolist()


def _pickled(path: Path) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Read a batch's pickle as a list of numbers and texts; nothing that it says is done."""
    try:
        pixels, labels = _scan(path.read_bytes())
    except (ValueError, UnicodeError) as error:
        raise UnreadableImageError.of(path, f"is not a CIFAR batch ({error})", _AGAIN) from error
    if len(labels) != len(pixels):
        reason = f"has {len(labels)} labels for {len(pixels)} pictures"
        raise UnreadableImageError.of(path, reason, _AGAIN)
    return pixels, labels


def _scan(content: bytes) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Find what stands behind the keys of a batch: a long text of pixels, and whole numbers.

    Raises:
        ValueError: The pickle is cut off, or holds no pixels.
    """
    found: dict[str, list[int]] = {name: [] for name in _KEYS}
    key, pixels = "", b""
    for code, value, _ in pickletools.genops(content):
        if isinstance(value, str | bytes):
            text = value.encode("latin-1") if isinstance(value, str) else value
            if text.decode("latin-1") in found:
                key = text.decode("latin-1")
            elif key == "data" and len(text) >= _PIXELS:
                pixels = text
        elif key and isinstance(value, int) and code.name in _WHOLE_NUMBERS:
            found[key].append(value)
    if not pixels or len(pixels) % _PIXELS:
        message = "it holds no pictures of 32 x 32 pixels"
        raise ValueError(message)
    return np.frombuffer(pixels, np.uint8).reshape(-1, _PIXELS), (
        found["fine_labels"] or found["labels"]
    )
