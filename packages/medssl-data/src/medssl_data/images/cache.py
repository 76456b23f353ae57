"""Prepared pictures that are kept on disk, for files too large to decode twice; off by default.

What is kept is exactly what was prepared, so pictures are the same with and without it. An entry's
name holds all that decides its pixels: a file that changes is another entry, and none gets stale.
"""

from __future__ import annotations

import json
import logging
import os
import re
import struct
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from medssl_data.errors import SettingError
from medssl_data.files import home, sha256_of, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[[], Image.Image]

__all__ = ["VARIABLE", "PictureCache", "cache_from_environment"]

LOG = logging.getLogger("medssl.data.cache")

VARIABLE = "MEDSSL_IMAGE_CACHE"
"""Environment variable that turns the cache on: the most it may take, such as `20GB`."""

_HEAD = struct.Struct("<4scIII")
"""Magic, L or R for grey or RGB, width, height, CRC-32 of the pixels."""

_MAGIC = b"mpc1"
_SETTLED = 2.0
"""Seconds without a change before a file counts as written: clocks of file systems are coarse."""

_UNUSED = 30 * 86400.0
_ABANDONED = 3600.0
_SHARDS = 256
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_ELSEWHERE = re.compile(rb"ElementDataFile\s*=\s*(?!LOCAL)\S|^data ?file:", re.MULTILINE)
"""Headers of volumes whose numbers lie in another file, which could change unseen."""


def cache_from_environment() -> PictureCache | None:
    """Return the cache that `MEDSSL_IMAGE_CACHE` asks for, in `pictures` of `MEDSSL_HOME`.

    Raises:
        SettingError: The variable is not a size.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if text in {"", "0"}:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.upper())
    if match is None:
        message = f"{VARIABLE}={text!r} is not a size; set the maximum, such as {VARIABLE}=20GB"
        raise SettingError(message)
    return PictureCache(home() / "pictures", int(float(match[1]) * _UNITS[match[2]]))


@dataclass(frozen=True)
class PictureCache:
    """A folder of prepared pictures that several processes may share.

    Entries are renamed into place and carry a checksum; a damaged one is made again. A folder that
    is full, or that cannot be written, only stops growing. Entries unused for 30 days make room.

    Args:
        folder: Where the pictures are kept; it may be removed at any time.
        limit: Bytes that it may take, kept to within an entry of each process that writes.

    Example:
        >>> from dataclasses import replace
        >>> from medssl_data import load_dataset
        >>> data = load_dataset("phantom:chest-xray,count=20")
        >>> data = replace(data, cache=PictureCache(Path("pictures"), limit=10**9))
    """

    folder: Path
    limit: int

    def picture(self, path: Path, recipe: str, make: Make) -> Image.Image:
        """Return a prepared picture, from the folder where it is there.

        Args:
            path: The file that it is made of.
            recipe: Everything else that decides its pixels, as text.
            make: Decodes and prepares it; called where it is not here.

        Returns:
            What `make` returns, pixel for pixel.
        """
        stamp = _stamp(path)
        entry = self._entry(path, stamp, recipe)
        kept = _load(entry) if stamp else None
        if kept is not None:
            return kept
        picture = make()
        if picture.mode == "RGB" and stamp and stamp == _stamp(path) and _may_be_kept(path):
            self._keep(entry, picture)
        return picture

    def _entry(self, path: Path, stamp: tuple[int, ...], recipe: str) -> Path:
        parts = (os.path.abspath(path), stamp, recipe, _versions())  # noqa: PTH100 - for every picture
        key = sha256_of(json.dumps(parts).encode("utf-8", "surrogateescape"))
        return self.folder / key[:2] / key[2:]

    def _keep(self, entry: Path, picture: Image.Image) -> None:
        content = _pack(picture)
        try:
            if _room(entry.parent, self.limit // _SHARDS, len(content)):
                write_atomically(entry, content)
            else:
                _warn_once(f"{self.folder} is full: further pictures are decoded each time")
        except OSError as error:
            _warn_once(f"{self.folder} cannot be written ({error.strerror}); pictures are not kept")


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes with a file's content; () where there is none.

    The time of the last change of the inode is in it, because tools that copy set the other one
    back.
    """
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _may_be_kept(path: Path) -> bool:
    """Tell whether the file was left alone for a while, and holds its pixels itself."""
    found = path.stat()
    if time.time() - max(found.st_mtime, found.st_ctime) < _SETTLED:
        return False
    with path.open("rb") as stream:
        return _ELSEWHERE.search(stream.read(4096)) is None


@cache
def _versions() -> tuple[str, ...]:
    """List the versions of whatever turns a file into pixels."""
    found = []
    for name in ("medssl-data", "pillow", "pydicom", "pylibjpeg", "SimpleITK"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return tuple(found)


def _pack(picture: Image.Image) -> bytes:
    """Join header and raw pixels; one plane where the picture is grey."""
    pixels = np.asarray(picture)
    grey = bool((pixels == pixels[..., :1]).all())
    content = (pixels[..., 0] if grey else pixels).tobytes()
    head = _HEAD.pack(_MAGIC, b"L" if grey else b"R", *picture.size, zlib.crc32(content))
    return head + content


def _load(entry: Path) -> Image.Image | None:
    """Read the picture of an entry; None where it is missing or damaged."""
    try:
        content = entry.read_bytes()
        magic, mode, width, height, check = _HEAD.unpack_from(content)
        pixels = content[_HEAD.size :]
        if magic != _MAGIC or zlib.crc32(pixels) != check:
            return None
        picture = Image.frombytes("L" if mode == b"L" else "RGB", (width, height), pixels)
    except (OSError, struct.error, ValueError):
        return None
    with suppress(OSError):  # a folder that is only read is never full
        if time.time() - entry.stat().st_mtime > _UNUSED / 30:
            os.utime(entry)
    return picture.convert("RGB")


def _room(shard: Path, limit: int, wanted: int) -> bool:
    """Tell whether a shard of the folder has room; what nobody used for long is removed for it.

    Every shard has an equal part of the limit, so that no process has to list the whole folder.
    """
    now, taken = time.time(), 0
    old: list[tuple[Path, int]] = []
    if shard.is_dir():
        for entry in os.scandir(shard):
            found = entry.stat()
            taken += found.st_size
            life = _ABANDONED if entry.name.startswith(".") else _UNUSED
            if now - found.st_mtime > life:
                old.append((Path(entry.path), found.st_size))
    while old and taken + wanted > limit:
        path, size = old.pop()
        path.unlink(missing_ok=True)
        taken -= size
    return taken + wanted <= limit


@cache
def _warn_once(text: str) -> None:
    LOG.warning("%s", text)
