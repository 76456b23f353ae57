"""Figures: the course of a run, and pictures in a grid. What is drawn is decided elsewhere."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medssl_data.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from torch import Tensor

    from medssl_dip.runs import TraceRow

__all__ = ["Cell", "draw_grid", "draw_trace"]

DOTS = 100  # an inch
CELL = 2.2  # inches


@dataclass(frozen=True)
class Cell:
    """One picture of a grid.

    Args:
        picture: (3, H, W) in [0, 1]; None leaves the place empty.
        caption: Below the picture, a few short lines.
    """

    picture: Tensor | None
    caption: str = ""


def draw_trace(rows: Sequence[TraceRow], path: Path, *, title: str = "") -> None:
    """Draw loss and picture metrics over the steps of a run into a PNG.

    Args:
        rows: In the order of the steps; may be empty.
        path: The file.
        title: Above the curves.
    """
    figure = _figure(7, 3.5)
    losses, metrics = figure.subplots(1, 2)
    losses.plot([row.step for row in rows], [row.loss for row in rows], color="black", linewidth=1)
    if any(row.loss > 0 for row in rows):
        losses.set_yscale("log")
    losses.set(xlabel="step", ylabel="loss")
    measured = [row for row in rows if row.ssim == row.ssim]  # not NaN
    steps = [row.step for row in measured]
    metrics.plot(steps, [row.psnr for row in measured], color="tab:blue")
    metrics.set(xlabel="step")
    metrics.set_ylabel("PSNR, dB", color="tab:blue")
    other = metrics.twinx()
    other.plot(steps, [row.ssim for row in measured], color="tab:orange")
    other.set_ylabel("SSIM", color="tab:orange")
    figure.suptitle(title, fontsize=7)
    _save(figure, path)


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
    figure = _figure(CELL * len(columns) + 0.6, (CELL + 0.5) * len(rows) + 0.5)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, label, places in zip(cells, rows, axes, strict=True):
        places[0].set_ylabel(label, fontsize=9)
        for cell, place in zip(line, places, strict=True):
            _draw_cell(place, cell)
    for name, place in zip(columns, axes[0], strict=True):
        place.set_title(name, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10)
    _save(figure, path)


def _draw_cell(place: Any, cell: Cell) -> None:  # noqa: ANN401 # matplotlib has no types
    place.set(xticks=[], yticks=[])
    for side in place.spines.values():
        side.set_visible(False)
    if cell.picture is not None:
        pixels = cell.picture.permute(1, 2, 0).numpy()
        place.imshow(pixels, interpolation="nearest", vmin=0, vmax=1)
    place.set_xlabel(cell.caption, fontsize=7)


def _figure(width: float, height: float) -> Figure:
    """A figure of its own: pyplot would keep a global list."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DOTS, layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
