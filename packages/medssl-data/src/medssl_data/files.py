"""Files that appear whole or not at all, their hashes, and the folder of what can be made again.

Packages that build on this one write their files here too.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
import time
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from medssl_data.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_writable", "drafts", "home", "replacing", "sha256_of", "write_atomically"]

_DRAFT = re.compile(r"\.(?P<name>.+?(?P<suffix>\.[^.]+|))\.[a-z0-9_]{8}(?P=suffix)")
"""What `replacing` calls a draft of `name`."""

_ABANDONED = 3600.0
"""Seconds after which a draft is one that a killed process left: writing takes moments."""


def home() -> Path:
    """Return the folder of what can be made again: `MEDSSL_HOME`, else the user's cache folder.

    It is the folder of `medssl_models.files.home`: all packages share one.

    Raises:
        SettingError: `MEDSSL_HOME` begins with the home of a user who does not exist.

    Example:
        >>> (home() / "pictures").name
        'pictures'
    """
    named = os.environ.get("MEDSSL_HOME")
    if not named:
        return user_cache_path("medssl")
    try:
        return Path(named).expanduser()
    except RuntimeError as error:
        message = f"MEDSSL_HOME={named}: there is no such user"
        raise SettingError(message) from error


def sha256_of(content: Path | bytes) -> str:
    """Compute the SHA-256 of bytes, or of a file without holding it in memory.

    Args:
        content: The bytes, or where they lie.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> sha256_of(b"medssl")[:16]
        '442e82deb8785e25'
    """
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_writable(folder: Path, *, option: str) -> None:
    """Fail before the work, not after it, where a folder cannot be written.

    Args:
        folder: It is created.
        option: What a user names another folder with.

    Raises:
        OSError: It cannot be created, or no file in it; the message names the option.

    Example:
        >>> check_writable(Path("results"), option="--output")
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        message = f"{folder} cannot be written ({reason}); name another with {option}"
        raise OSError(message) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that other processes see whole or not at all.

    Args:
        path: The file; its folder is made, and what is there is replaced.
        content: Its bytes.

    Example:
        >>> write_atomically(Path("results/table.csv"), b"a,b")
        >>> Path("results/table.csv").read_bytes()
        b'a,b'
    """
    with replacing(path) as draft:
        draft.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside its place; it takes the place when the block ends without an error.

    Its permissions are those of any new file of the user. The first file that a process writes in
    a folder also removes the drafts there that killed processes left more than an hour ago.

    Args:
        path: The file; its folder is made.

    Yields:
        An empty file with the suffix of `path`, to be written to.

    Example:
        >>> with replacing(Path("results/a.txt")) as draft:
        ...     _ = draft.write_text("whole")
        >>> Path("results/a.txt").read_text()
        'whole'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(path.parent)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}{path.suffix}")
    draft.touch(exist_ok=False)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def drafts(folder: Path) -> dict[Path, Path]:
    """Find what stands in a folder under the names that `replacing` gives its drafts.

    A draft is being written now, or the process that wrote it was killed. Drafts live for moments:
    what is found before long work and stands there after it was left by a killed process.

    Args:
        folder: It need not exist.

    Returns:
        The file that it should have become, by draft.

    Example:
        >>> with replacing(Path("results/a.txt")) as draft:
        ...     drafts(Path("results"))[draft].name
        'a.txt'
    """
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    found = ((path, _DRAFT.fullmatch(path.name)) for path in paths)
    return {path: folder / match["name"] for path, match in found if match}


@lru_cache(maxsize=1024)
def _clear_abandoned(folder: Path) -> None:
    """Remove old drafts, once a folder and process: image folders hold many thousand files."""
    for draft in drafts(folder):
        try:
            if time.time() - draft.lstat().st_mtime > _ABANDONED:
                draft.unlink()
        except OSError:  # another process has just finished it, or it is not ours to remove
            continue
