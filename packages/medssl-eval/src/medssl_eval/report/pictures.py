"""Pictures inside a page: made small enough, and never trusted."""

from __future__ import annotations

import base64
import io
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from medssl_eval.report.content import Entry

__all__ = ["Picture", "gather_pictures"]

LOG = logging.getLogger("medssl.eval.report")
WIDEST = 1400
LARGEST_SOURCE = 60_000_000
"""Pixels of a picture that is decoded at all."""
MOST = 60
"""Pictures in one page; more would make it too heavy to open."""


@dataclass(frozen=True)
class Picture:
    """One picture of a gallery.

    Args:
        experiment: What made it.
        caption: Model and data set.
        source: A `data:` address.
        width: Pixels.
        height: Pixels.
    """

    experiment: str
    caption: str
    source: str
    width: int
    height: int


def gather_pictures(entries: Iterable[Entry]) -> tuple[list[Picture], list[str]]:
    """Embed the picture files that entries name, each once.

    Args:
        entries: A report's entries.

    Returns:
        Pictures in the order of the entries, and warnings about those that are left out.
    """
    from PIL import Image

    captions: dict[Path, tuple[str, list[str]]] = {}
    for entry in entries:
        for path in entry.pictures:
            captions.setdefault(path, (entry.experiment, []))[1].append(
                f"{entry.model} on {entry.dataset}"
            )
    found: list[Picture] = []
    warnings: list[str] = []
    for path, (experiment, names) in list(captions.items())[:MOST]:
        shown = list(dict.fromkeys(names))
        caption = "; ".join(shown[:3]) + ("; ..." if len(shown) > 3 else "")
        try:
            found.append(_embed(path, experiment, f"{caption} ({path.name})"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            warnings.append(f"{path}: not shown, it is no picture ({error})")
    if len(captions) > MOST:
        warnings.append(f"{len(captions) - MOST} of {len(captions)} pictures are not shown")
    return found, warnings


def _embed(path: Path, experiment: str, caption: str) -> Picture:
    """Decode, shrink and encode anew, so that only pixels get into the page."""
    from PIL import Image

    with Image.open(path) as image:
        if image.width * image.height > LARGEST_SOURCE:
            message = f"{image.width} x {image.height} pixels are too many"
            raise ValueError(message)
        small = image.convert("RGB")
    small.thumbnail((WIDEST, WIDEST * 2))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    address = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(experiment, caption, address, small.width, small.height)
