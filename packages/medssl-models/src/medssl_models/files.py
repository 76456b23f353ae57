"""Files and folders that appear whole or not at all, their hashes, and where all that is kept lies.

Every writer of this package and of those that build on it comes here. Importing this module imports
no torch.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from medssl_models.errors import NotAFileError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

__all__ = [
    "check_writable",
    "clear_drafts",
    "expand",
    "home",
    "is_writable",
    "models_folder",
    "open_plain",
    "placing",
    "refuse_existing",
    "replacing",
    "sha256_of",
    "write_atomically",
]

_DRAFT = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.(?P<kind>draft|old)(\.[^.]+)?")
"""Names of drafts, and of folders that were moved away while another takes their place."""
_YOUNG, _ABANDONED = 1.0, 3600.0
"""Seconds within which a draft may not be locked yet, and after which it is abandoned where the
file system knows no locks."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def home() -> Path:
    """Return the folder of everything that is kept: `MEDSSL_HOME`, else the platform's cache.

    Models lie in `home() / "models" / NAME`, features in `home() / "features"`. The folder is
    not created here, so that a read-only home works for reading.

    Raises:
        SettingsError: `MEDSSL_HOME` begins with the home of a user who does not exist.

    Example:
        >>> (home() / "models").name
        'models'
    """
    chosen = os.environ.get("MEDSSL_HOME")
    return expand(chosen) if chosen else user_cache_path("medssl")


def models_folder(library: Path | None = None) -> Path:
    """Return the folder that holds one folder for each imported model."""
    return library if library is not None else home() / "models"


def expand(text: str) -> Path:
    """Turn text into a path, `~` into the user's folder.

    Raises:
        SettingsError: There is no such user.
    """
    try:
        return Path(text).expanduser()
    except (RuntimeError, ValueError) as error:
        message = f"{text!r}: there is no such user"
        raise SettingsError(message) from error


def is_writable(folder: Path) -> bool:
    """Tell whether files can be kept in a folder, which is made where it can be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def check_writable(folder: Path, *, option: str) -> None:
    """Fail before the work, not after it, where a folder cannot be written.

    Args:
        folder: It is created.
        option: What a user names another folder with.

    Raises:
        OSError: It cannot be created, or no file in it; the message names the option.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        message = f"{folder} cannot be written ({reason}); name another with {option}"
        raise OSError(message) from error


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 of a file, 64 hexadecimal digits, without holding it in memory.

    Example:
        >>> _ = (folder / "a").write_bytes(b"abc")
        >>> sha256_of(folder / "a")[:8]
        'ba7816bf'
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_plain(path: Path) -> BinaryIO:
    """Open a plain file for reading; what is none is refused at once, without waiting for it.

    Args:
        path: The file, or a link to it.

    Raises:
        NotAFileError: It is a pipe, a device or a socket.
        OSError: It cannot be opened; a folder is an `IsADirectoryError`.
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


def refuse_existing(path: Path, *, force: bool) -> None:
    """Refuse to overwrite what is there.

    Raises:
        SettingsError: The path exists and `force` is off.
    """
    if path.exists() and not force:
        message = f"{path} exists; name another one, or set force to replace it"
        raise SettingsError(message)


def _check_replaceable(path: Path) -> None:
    """Refuse to put a file or folder where a link, a device, a pipe or a socket is.

    Raises:
        SettingsError: The path is one of these.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:  # it is not there, or its folder says later why it cannot be written
        return
    if stat.S_ISLNK(mode):
        message = f"{path} is a link to {path.readlink()}; name the file itself"
        raise SettingsError(message)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        message = f"{path} is a device, a pipe or a socket and would be replaced; name a file"
        raise SettingsError(message)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that other processes see whole or not at all; see `replacing`.

    Example:
        >>> write_atomically(folder / "a.csv", b"a,b")
        >>> (folder / "a.csv").read_bytes()
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
        SettingsError: The place is that of a link, a device, a pipe or a socket.
        OSError: The file cannot be written; where the disk is full, the error names `path`.

    Example:
        >>> with replacing(folder / "a.txt") as draft:
        ...     _ = draft.write_text("whole")
        >>> (folder / "a.txt").read_text()
        'whole'
    """
    _check_replaceable(path)
    draft = _beside(path, f"draft{path.suffix}")
    draft.touch(exist_ok=False)
    with _kept(draft, path):
        yield draft
        draft.replace(path)


@contextmanager
def placing(folder: Path, *, force: bool = False) -> Iterator[Path]:
    """Write a folder beside its place; it takes the place when the block ends without an error.

    Args:
        folder: The place; its parents are made.
        force: Replace a folder that is there.

    Yields:
        An empty folder to write to.

    Raises:
        SettingsError: The folder exists and `force` is off, or a link is in its place.
        OSError: As for `replacing`.
    """
    refuse_existing(folder, force=force)
    _check_replaceable(folder)
    draft = _beside(folder, "draft")
    draft.mkdir()
    with _kept(draft, folder):
        yield draft
        _put(draft, folder)


def clear_drafts(folder: Path) -> None:
    """Remove what killed processes left of writing files and folders in a folder.

    What a living process writes is locked. A folder that was moved away comes back where its
    successor did not take its place.

    Args:
        folder: It need not exist.
    """
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _DRAFT.fullmatch(entry.name)
        if match:
            place = folder / match["name"] if match["kind"] == "old" else None
            with suppress(OSError):  # somebody writes it, has just finished it, or owns it
                _clear(entry, place)


_clear_once = lru_cache(maxsize=1024)(clear_drafts)
"""Folders may hold many thousand files: they are not listed for each of them."""


def _beside(path: Path, kind: str) -> Path:
    """Name what nobody can foresee, in the folder of what it is to become."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_once(path.parent)
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.{kind}")


@contextmanager
def _kept(draft: Path, path: Path) -> Iterator[None]:
    """Hold a draft's lock while it is written, and leave nothing of it behind."""
    try:
        with _locked(draft):
            yield
    except OSError as error:
        if error.errno in _FULL:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        _remove(draft)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock a file or folder; it falls with the process, however that ends.

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


def _clear(entry: Path, place: Path | None) -> None:
    """Remove an abandoned draft, or bring back what it was to replace."""
    with _locked(entry) as locked:
        if time.time() - entry.lstat().st_mtime < (_YOUNG if locked else _ABANDONED):
            return
        if place is not None and not place.exists():
            entry.rename(place)
        else:
            _remove(entry)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _put(draft: Path, folder: Path) -> None:
    """Rename, moving away what is there; on failure what was there comes back."""
    if not folder.exists():
        draft.rename(folder)
        return
    old = _beside(folder, "old")
    with _locked(folder):
        folder.rename(old)
        try:
            draft.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        _remove(old)
