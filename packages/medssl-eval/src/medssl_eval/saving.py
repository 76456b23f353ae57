"""Files that appear whole or not at all, with the permissions that the user's umask gives them."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["save_text", "saving"]

_PREFIX = ".draft-"
_ABANDONED = 3600.0
"""Seconds after which a draft is one that a killed process left: writing takes moments."""


@contextlib.contextmanager
def saving(path: Path) -> Iterator[Path]:
    """Yield a path to write to; what is there takes the place of the target at the end.

    Drafts that killed processes left in the folder are removed.

    Args:
        path: The file; its folder is created.

    Yields:
        A path of the same name in a hidden folder beside the target.

    Raises:
        OSError: It cannot be written; an older file is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another process has just finished or removed it
            if time.time() - old.stat().st_mtime > _ABANDONED:
                shutil.rmtree(old)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_PREFIX) as folder:
        draft = Path(folder) / path.name
        yield draft
        draft.replace(path)


def save_text(path: Path, text: str) -> Path:
    """Write a text as a whole.

    Args:
        path: The file; its folder is created.
        text: Written as UTF-8.

    Returns:
        The path.

    Raises:
        OSError: It cannot be written; an older file is left as it was.
    """
    with saving(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path
