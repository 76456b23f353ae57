"""Files that appear whole or not at all."""

from __future__ import annotations

import glob
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_writable", "drafts", "home", "replacing", "write_atomically"]


def home() -> Path:
    """Folder of what can be made again: `MEDSSL_HOME`, else the platform's cache folder."""
    named = os.environ.get("MEDSSL_HOME")
    if named:
        return Path(named)
    from platformdirs import user_cache_path  # noqa: PLC0415 - rarely needed

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


def drafts(path: Path) -> list[Path]:
    """List what stands beside `path` under temporary names of `replacing`.

    A draft is being written now, or the process that wrote it was killed. Drafts live for moments:
    what is listed before long work and stands there after it was left by a killed process.
    """
    name, suffix, chosen = glob.escape(path.name), glob.escape(path.suffix), "?" * 8  # by mkstemp
    return sorted(path.parent.glob(f".{name}.{chosen}{suffix}"))
