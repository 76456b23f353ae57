"""Writes a report as a whole or not at all."""

import tempfile
from pathlib import Path

__all__ = ["save_text"]


def save_text(path: Path, text: str) -> Path:
    """Write a text beside its target and rename it.

    Args:
        path: The file; its folder is created.
        text: Written as UTF-8.

    Returns:
        The path.

    Raises:
        OSError: It cannot be written; an older file is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".report-") as folder:
        draft = Path(folder) / path.name
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    return path
