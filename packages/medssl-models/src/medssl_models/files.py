"""Files and folders that appear whole or not at all, their hashes, and where all that is kept lies.

Every writer of this package comes here. Importing this module imports no torch.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from medssl_models.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "check_writable",
    "clear_drafts",
    "expand",
    "home",
    "is_writable",
    "models_folder",
    "placing",
    "refuse_existing",
    "replacing",
    "sha256_of",
]

_DRAFT = r"\.{name}\.[a-z0-9_]{{8}}(\.old)?"
_ABANDONED = 3600.0
"""Seconds after which a draft is one that a killed process left: writing takes moments."""


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


def refuse_existing(path: Path, *, force: bool) -> None:
    """Refuse to overwrite what is there.

    Raises:
        SettingsError: The path exists and `force` is off.
    """
    if path.exists() and not force:
        message = f"{path} exists; name another one, or set force to replace it"
        raise SettingsError(message)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside its place; it takes the place when the block ends without an error.

    Args:
        path: The file; its folder is made.

    Yields:
        An empty file to write to.

    Example:
        >>> with replacing(folder / "a.txt") as draft:
        ...     _ = draft.write_text("whole")
        >>> (folder / "a.txt").read_text()
        'whole'
    """
    draft = _draft_of(path)
    draft.touch(exist_ok=False)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def placing(folder: Path, *, force: bool = False) -> Iterator[Path]:
    """Write a folder beside its place; it takes the place when the block ends without an error.

    Args:
        folder: The place; its parents are made.
        force: Replace a folder that is there.

    Yields:
        An empty folder to write to.

    Raises:
        SettingsError: The folder exists and `force` is off.
    """
    refuse_existing(folder, force=force)
    draft = _draft_of(folder)
    draft.mkdir()
    try:
        yield draft
        _put(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def clear_drafts(path: Path, *, older_than: float = 0.0) -> None:
    """Remove what killed processes left of writing a file or folder.

    A folder that was moved away comes back where its successor did not take its place.

    Args:
        path: What was to be written. Without an age, hold a lock: others may be writing it.
        older_than: Seconds since a draft was last changed.
    """
    pattern = re.compile(_DRAFT.format(name=re.escape(path.name)))
    for entry in sorted(path.parent.iterdir()):
        if not pattern.fullmatch(entry.name) or not _is_older(entry, older_than):
            continue
        if entry.suffix == ".old" and not path.exists():
            entry.rename(path)
        elif entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _draft_of(path: Path) -> Path:
    """Name a draft that nobody can foresee, in the folder of what it is to become."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_drafts(path, older_than=_ABANDONED)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _is_older(path: Path, seconds: float) -> bool:
    try:
        return time.time() - path.lstat().st_mtime >= seconds
    except FileNotFoundError:  # another process has just finished or removed it
        return False


def _put(draft: Path, folder: Path) -> None:
    """Rename, moving away what is there; on failure what was there comes back."""
    if not folder.exists():
        draft.rename(folder)
        return
    old = draft.with_name(draft.name + ".old")
    folder.rename(old)
    try:
        draft.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
