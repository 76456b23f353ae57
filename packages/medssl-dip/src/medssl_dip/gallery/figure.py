"""The study's figure from new runs: a picture beside what each model and layer remembers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medssl_dip.errors import SettingsError
from medssl_dip.inversion.figures import new_figure, save_figure
from medssl_dip.inversion.run_folder import load_picture

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from medssl_dip.gallery.run_summary import RunSummary

__all__ = ["Cell", "draw_gallery", "draw_grid"]

CELL = 2.2  # inches

SHOWN = {"lpips_average": "LPIPS", "ssim": "SSIM", "psnr": "PSNR", "feature_distance": "features"}
"""Metric to the word below a picture, where there is room for few."""
UNITS = {"psnr": " dB"}


@dataclass(frozen=True)
class Cell:
    """One picture of a grid.

    Args:
        picture: (3, H, W) in [0, 1]; None leaves the place empty.
        caption: Below the picture, a few short lines.
    """

    picture: Tensor | None
    caption: str = ""


def draw_gallery(summaries: Sequence[RunSummary], path: Path) -> None:
    """Draw the original beside the reconstructions, models downwards, layers across, into a PNG.

    Args:
        summaries: Of one picture; see `run_summary.choose_picture`.
        path: The file.

    Raises:
        SettingsError: There is nothing to show.
    """
    if not summaries:
        message = "summaries is empty: there is nothing to draw"
        raise SettingsError(message)
    layers = list(dict.fromkeys(one.layer for one in summaries))
    lines: dict[str, dict[str, RunSummary]] = {}
    for one in summaries:
        lines.setdefault(_label(one, summaries), {})[one.layer] = one
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
        title=f"What is left of {summaries[0].picture}",
    )


def draw_grid(
    cells: Sequence[Sequence[Cell]],
    path: Path,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
) -> None:
    """Draw pictures in a grid into a PNG.

    Args:
        cells: Rows of cells, all of one length.
        path: The file.
        rows: A label left of each row.
        columns: A label above each column.
        title: Above the grid.
    """
    figure = new_figure(CELL * len(columns) + 0.6, (CELL + 0.5) * len(rows) + 0.5)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, label, places in zip(cells, rows, axes, strict=True):
        places[0].set_ylabel(label, fontsize=9)
        for cell, place in zip(line, places, strict=True):
            _draw_cell(place, cell)
    for name, place in zip(columns, axes[0], strict=True):
        place.set_title(name, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def _label(one: RunSummary, summaries: Sequence[RunSummary]) -> str:
    """Name a line by its model, and by what else differs between the lines."""
    differing = [
        str(getattr(one, name))
        for name in ("protocol", "normalisation", "size")
        if len({getattr(other, name) for other in summaries}) > 1
    ]
    return "\n".join([one.model, *["(random control)"] * one.control, *differing])


def _cell(one: RunSummary | None) -> Cell:
    if one is None:
        return Cell(None)
    values = one.values
    caption = "\n".join(
        f"{word} {values[name]:.2f}{UNITS.get(name, '')}"
        for name, word in SHOWN.items()
        if name in values
    )
    return Cell(load_picture(one.file), caption or one.stopped[0])


def _draw_cell(place: Any, cell: Cell) -> None:  # noqa: ANN401 # matplotlib has no types
    place.set(xticks=[], yticks=[])
    for side in place.spines.values():
        side.set_visible(False)
    if cell.picture is not None:
        pixels = cell.picture.permute(1, 2, 0).numpy()
        place.imshow(pixels, interpolation="nearest", vmin=0, vmax=1)
    place.set_xlabel(cell.caption, fontsize=7)
