"""The study's figure from your own runs: a picture beside what each model and layer remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_dip.drawing import Cell, draw_grid
from medssl_dip.errors import SettingsError
from medssl_dip.runs import load_picture

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from medssl_dip.exhibits import Exhibit

__all__ = ["draw_gallery"]

SHOWN = {"lpips-average": "LPIPS", "ssim": "SSIM", "psnr": "PSNR", "feature-distance": "features"}
"""Metric to the word below a picture, where there is room for few."""
UNITS = {"psnr": " dB"}


def draw_gallery(shown: Sequence[Exhibit], path: Path) -> None:
    """Draw the original beside the reconstructions, models downwards, layers across, into a PNG.

    Args:
        shown: Of one picture; see `exhibits.of_picture`.
        path: The file.

    Raises:
        SettingsError: There is nothing to show.
    """
    if not shown:
        message = "shown is empty: give at least one exhibit"
        raise SettingsError(message)
    layers = list(dict.fromkeys(one.layer for one in shown))
    lines: dict[str, dict[str, Exhibit]] = {}
    for one in shown:
        lines.setdefault(_label(one, shown), {})[one.layer] = one
    cells = []
    for of_line in lines.values():
        first = next(iter(of_line.values()))
        original = Cell(load_picture(first.paths[0] / "original.png"))
        cells.append([original, *(_cell(of_line.get(layer)) for layer in layers)])
    draw_grid(
        cells,
        path,
        rows=list(lines),
        columns=["original", *layers],
        title=f"What is left of {shown[0].picture}",
    )


def _label(one: Exhibit, shown: Sequence[Exhibit]) -> str:
    """Name a line by its model, and by what else differs between the lines."""
    differing = [
        str(getattr(one, name))
        for name in ("protocol", "normalisation", "size")
        if len({getattr(other, name) for other in shown}) > 1
    ]
    return "\n".join([one.model, *["(random control)"] * one.control, *differing])


def _cell(one: Exhibit | None) -> Cell:
    if one is None:
        return Cell(None)
    values = one.values
    caption = "\n".join(
        f"{word} {values[name]:.2f}{UNITS.get(name, '')}"
        for name, word in SHOWN.items()
        if name in values
    )
    return Cell(load_picture(one.file), caption or one.stopped[0])
