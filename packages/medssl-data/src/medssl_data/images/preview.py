"""Contact sheets: some pictures of each class with their labels, as one PNG."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from medssl_data.errors import DataError
from medssl_data.files import replacing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from medssl_data.dataset import ImageDataset

__all__ = ["contact_sheet", "draw_row", "pair_sheet", "save_sheet", "tile_sheet"]

_TILE = 160
_TEXT = 14
_GAP = 6


def contact_sheet(data: ImageDataset, *, per_class: int = 6, seed: int = 0) -> Image.Image:
    """Draw some pictures of each class, one row a class.

    A picture that cannot be read is drawn as a crossed box, so that the sheet shows it too.

    Args:
        data: The images.
        per_class: Pictures of each class, at most.
        seed: Which pictures.

    Returns:
        An RGB sheet whose heading names the data set and, for phantoms, says that it is synthetic.

    Example:
        >>> from pathlib import Path
        >>> from medssl_data import load_dataset
        >>> sheet = contact_sheet(load_dataset("phantom:chest-xray,count=20"), per_class=2)
        >>> save_sheet([sheet], Path("sheet.png"))
        (338, 386)
    """
    generator = np.random.default_rng(seed)
    rows = []
    for label, name in enumerate(data.classes):
        indices = np.flatnonzero(data.labels == label)
        chosen = np.sort(generator.permutation(indices)[:per_class])
        rows.append([(draw_row(data, int(i)), f"{name} | {data.ids[i]}") for i in chosen])
    return tile_sheet([row for row in rows if row], _heading(data))


def pair_sheet(data: ImageDataset, *, per_class: int = 6, seed: int = 0) -> Image.Image:
    """Draw pairs of views of the same patient side by side.

    Raises:
        PairError: The data set has no two views.
    """
    from medssl_data.views import card_pairs

    pairs = card_pairs(data.manifest, data.card)
    chosen = np.random.default_rng(seed).permutation(len(pairs))[: per_class * 2]
    rows = [
        [(draw_row(data, i), f"{data.views[i]} | {data.ids[i]}") for i in map(int, pairs[number])]
        for number in np.sort(chosen)
    ]
    halves = [left + right for left, right in zip(rows[::2], rows[1::2], strict=False)]
    return tile_sheet(halves or rows, f"{_heading(data)}: pairs")


def tile_sheet(rows: Sequence[Sequence[tuple[Image.Image, str]]], heading: str) -> Image.Image:
    """Lay pictures with captions out on one sheet.

    Args:
        rows: Pictures and captions.
        heading: A line above them.
    """
    width = max((len(row) for row in rows), default=1) * (_TILE + _GAP) + _GAP
    height = len(rows) * (_TILE + _TEXT + _GAP) + _TEXT + 2 * _GAP
    sheet = Image.new("RGB", (max(width, 6 * len(heading) + 2 * _GAP), height), "white")
    pen = ImageDraw.Draw(sheet)
    font = _font("".join([heading, *(caption for row in rows for _, caption in row)]))
    pen.text((_GAP, _GAP), _line(heading), fill="black", font=font)
    for down, row in enumerate(rows):
        top = _TEXT + 2 * _GAP + down * (_TILE + _TEXT + _GAP)
        for across, (picture, caption) in enumerate(row):
            left = _GAP + across * (_TILE + _GAP)
            tile = ImageOps.contain(picture, (_TILE, _TILE))
            sheet.paste(tile, (left, top))
            pen.text((left, top + _TILE), _fit(caption, pen, font), fill="black", font=font)
    return sheet


def save_sheet(sheets: Sequence[Image.Image], path: Path) -> tuple[int, int]:
    """Write sheets below each other as one PNG and return its size (width, height)."""
    width = max(sheet.width for sheet in sheets)
    whole = Image.new("RGB", (width, sum(sheet.height for sheet in sheets)), "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    with replacing(path) as draft:
        whole.save(draft, format="PNG")
    return whole.size


def _heading(data: ImageDataset) -> str:
    kind = "SYNTHETIC PHANTOM, no patients" if data.manifest.synthetic else "images"
    return f"{data.name}: {len(data)} {kind}"


def draw_row(data: ImageDataset, index: int) -> Image.Image:
    """Return the picture of a row, or a crossed box where it cannot be read."""
    try:
        return data.image(index)
    except DataError:
        box = Image.new("RGB", (_TILE, _TILE), "lightgrey")
        pen = ImageDraw.Draw(box)
        pen.line((0, 0, _TILE, _TILE), fill="red", width=3)
        pen.line((0, _TILE, _TILE, 0), fill="red", width=3)
        return box


def _font(text: str) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Choose Pillow's own font, or one of the system for letters beyond ASCII."""
    if not text.isascii():
        for name in ("DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf", "NotoSans-Regular.ttf"):
            with suppress(OSError):
                return ImageFont.truetype(name, 10)
    return ImageFont.load_default()


def _line(text: str) -> str:
    """Make one line of a name, which may hold line ends."""
    return " ".join(text.split())


def _fit(
    caption: str,
    pen: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> str:
    """Shorten a caption in its middle; letters that the font lacks become question marks."""
    text = caption = _line(caption)
    if isinstance(font, ImageFont.ImageFont):
        text = caption.encode("latin-1", "replace").decode("latin-1")
    while len(text) > 6 and pen.textlength(text, font=font) > _TILE:
        middle = len(text) // 2
        text = text[: middle - 2] + "~" + text[middle + 1 :]
    return text
