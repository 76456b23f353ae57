"""Files that appear whole or not at all, their hashes, and the folder of what can be made again.

Every writer of this package comes here. `medssl_models.files` has the same for the packages above:
neither of the two ground packages needs the other, and each clears what the other left.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
import time
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from medssl_data.errors import NotAFileError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

__all__ = [
    "clear_drafts",
    "home",
    "open_plain",
    "replacing",
    "sha256_of",
    "write_atomically",
]

_DRAFT = re.compile(r"\..+\.[0-9a-f]{16}\.draft(\.[^.]+)?")
_YOUNG, _ABANDONED = 1.0, 3600.0
"""Seconds within which a draft may not be locked yet, and after which it is abandoned where the
file system knows no locks."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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


def open_plain(path: Path) -> BinaryIO:
    """Open a plain file for reading; what is none is refused at once, without waiting for it.

    Args:
        path: The file, or a link to it.

    Raises:
        NotAFileError: It is a pipe, a device or a socket.
        OSError: It cannot be opened; a folder is an `IsADirectoryError`.

    Example:
        >>> write_atomically(Path("a.csv"), b"a,b")
        >>> with open_plain(Path("a.csv")) as file:
        ...     file.read()
        b'a,b'
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    message = f"{path} is a pipe, a device or a socket; name a file"
    raise NotAFileError(message)


def _check_replaceable(path: Path) -> None:
    """Refuse to put a file where a link, a device, a pipe or a socket is.

    Raises:
        SettingError: The path is one of these.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:  # it is not there, or its folder says later why it cannot be written
        return
    if stat.S_ISLNK(mode):
        message = f"{path} is a link to {path.readlink()}; name the file itself"
        raise SettingError(message)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        message = f"{path} is a device, a pipe or a socket and would be replaced; name a file"
        raise SettingError(message)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that other processes see whole or not at all; see `replacing`.

    Example:
        >>> write_atomically(Path("results/a.csv"), b"a,b")
        >>> Path("results/a.csv").read_bytes()
        b'a,b'
    """
    with replacing(path) as draft:
        draft.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside its place; it takes the place when the block ends without an error.

    The draft's name cannot be foreseen and no link is followed. The first file that a process
    writes in a folder also removes the drafts that killed processes left there.

    Args:
        path: The file; its folder is made.

    Yields:
        An empty file with the suffix of `path`, to be written to.

    Raises:
        SettingError: The place is that of a link, a device, a pipe or a socket.
        OSError: The file cannot be written; where the disk is full, the error names `path`.

    Example:
        >>> with replacing(Path("results/a.txt")) as draft:
        ...     _ = draft.write_text("whole")
        >>> (Path("results/a.txt")).read_text()
        'whole'
    """
    _check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_once(path.parent)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.draft{path.suffix}")
    draft.touch(exist_ok=False)
    try:
        with _locked(draft):
            yield draft
            draft.replace(path)
    except OSError as error:
        if error.errno in _FULL:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        draft.unlink(missing_ok=True)


def clear_drafts(folder: Path) -> None:
    """Remove the drafts that killed processes left in a folder; living ones hold a lock on theirs.

    Args:
        folder: It need not exist.

    Example:
        >>> with replacing(Path("results/a.txt")) as draft:
        ...     clear_drafts(Path("results"))
        ...     draft.exists()
        True
    """
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _DRAFT.fullmatch(entry.name):
            # Somebody writes it, has just finished it, or owns it.
            with suppress(OSError), _locked(entry) as locked:
                if time.time() - entry.lstat().st_mtime > (_YOUNG if locked else _ABANDONED):
                    entry.unlink()


_clear_once = lru_cache(maxsize=1024)(clear_drafts)
"""Folders may hold many thousand files: they are not listed for each of them."""


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock a file; it falls with the process, however that ends.

    Yields:
        Whether it could be locked: not every file system knows locks, nor does Windows.

    Raises:
        BlockingIOError: Another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:
        yield False
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
