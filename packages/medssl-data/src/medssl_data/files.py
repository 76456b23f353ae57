"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_writable", "drafts", "home", "replacing", "write_atomically"]

_DRAFT = re.compile(r"\.(?P<name>.+?(?P<suffix>\.[^.]+|))\.[a-z0-9_]{8}(?P=suffix)")
"""What `replacing` calls a draft of `name`; the eight letters are of `tempfile`."""


def home() -> Path:
    """Folder of what can be made again: `MEDSSL_HOME`, else the platform's cache folder."""
    named = os.environ.get("MEDSSL_HOME")
    if named:
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("medssl")


def check_writable(folder: Path, *, option: str) -> None:
    """Fail before the work, not after it, where a folder cannot be written.

    Args:
        folder: It is created.
        option: What names another folder.

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


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the target and rename, so that no reader ever sees half a file."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; it takes the name of `path` when the block succeeds.

    Args:
        path: the file to be written; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent, suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def drafts(folder: Path) -> dict[Path, Path]:
    """Find what stands in a folder under temporary names of `replacing`.

    A draft is being written now, or the process that wrote it was killed. Drafts live for moments:
    what is found before long work and stands there after it was left by a killed process.

    Args:
        folder: It need not exist.

    Returns:
        The file that it should have become, by draft.
    """
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    found = ((path, _DRAFT.fullmatch(path.name)) for path in paths)
    return {path: folder / match["name"] for path, match in found if match}
