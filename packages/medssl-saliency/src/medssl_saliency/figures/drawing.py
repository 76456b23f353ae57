"""Pictures of maps: heat map, overlay with a colour bar, one picture of all models side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.experiments.figures import new_figure, save_figure
from medssl_models.files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = [
    "Chart",
    "Frame",
    "draw_charts",
    "draw_distributions",
    "draw_heat_map",
    "draw_matrix",
    "draw_overlay",
    "draw_panel",
    "draw_rows",
]

COLOURS = "inferno"
"""Even steps of value look like even steps of light; readable without colour vision."""
OPACITY = 0.55
DPI = 110
STYLES = ("o-", "s--", "^-.", "v:")
"""Told apart without colour too."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture of `draw_rows`.

    Args:
        title: Above it.
        picture: `(H, W, 3)` uint8.
        values: `(H, W)` map drawn over it; None shows the picture alone.
    """

    title: str
    picture: NDArray[np.uint8]
    values: NDArray[np.floating] | None = None


@dataclass(frozen=True)
class Chart:
    """A chart of `draw_charts`.

    Args:
        up: What the values are.
        across: What they are drawn over.
        lines: Name to values, at `ticks` or at even steps from 0 to 1.
        ticks: Names along the axis.
        level: A horizontal line, its name and height.
    """

    up: str
    across: str
    lines: Mapping[str, Sequence[float]]
    ticks: Sequence[str] = ()
    level: tuple[str, float] | None = None


def draw_heat_map(values: NDArray[np.floating], path: Path) -> None:
    """Write a map as a PNG, one pixel a pixel, dark to light from its minimum to its maximum.

    Args:
        values: `(H, W)`.
        path: The PNG.
    """
    from matplotlib import colormaps
    from PIL import Image

    span = float(np.ptp(values)) or 1.0
    coloured = colormaps[COLOURS]((values - values.min()) / span, bytes=True)
    with replacing(path) as temporary:
        Image.fromarray(coloured[..., :3]).save(temporary, format="PNG")


def draw_overlay(
    picture: NDArray[np.uint8], values: NDArray[np.floating], path: Path, *, title: str = ""
) -> None:
    """Write the map over its picture, with a colour bar in units of the score.

    Args:
        picture: `(H, W, 3)` uint8.
        values: `(H, W)`.
        path: The PNG.
        title: Above the picture.
    """
    figure, (axes,) = _figure(1, width=4.4)
    _overlay(axes, picture, values)
    axes.set_title(title, fontsize=9)
    save_figure(figure, path, dpi=DPI)


def draw_panel(
    pictures: Sequence[NDArray[np.uint8]],
    maps: Mapping[str, NDArray[np.floating]],
    path: Path,
    *,
    captions: Mapping[str, str] | None = None,
    title: str = "",
) -> None:
    """Write the picture and every model's map over it, side by side; each with its own scale.

    Args:
        pictures: `(H, W, 3)` uint8, one for each map: models may crop differently.
        maps: Model to `(H, W)`.
        path: The PNG.
        captions: Model to a line below its name.
        title: Above all.
    """
    columns = min(len(maps) + 1, 5)
    figure, axes = _figure(len(maps) + 1, width=2.9 * columns, columns=columns)
    axes[0].imshow(pictures[0])
    axes[0].set_title("picture", fontsize=9)
    for place, picture, (name, values) in zip(axes[1:], pictures, maps.items(), strict=False):
        _overlay(place, picture, values)
        caption = (captions or {}).get(name, "")
        place.set_title(f"{name}\n{caption}" if caption else name, fontsize=9)
    for place in axes[len(maps) + 1 :]:
        place.set_visible(False)
    if title:
        figure.suptitle(title, fontsize=10)
    save_figure(figure, path, dpi=DPI)


def draw_distributions(numbers: Mapping[str, Sequence[float]], path: Path, *, label: str) -> None:
    """Write one number of many images for each model: all points and their mean.

    Args:
        numbers: Model to its images' numbers.
        path: The PNG.
        label: What the numbers are.
    """
    figure, (axes,) = _figure(1, width=2 + 1.1 * len(numbers), bare=False)
    for place, values in enumerate(numbers.values()):
        jitter = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(place + jitter, values, "o", markersize=3, alpha=0.6, color="tab:blue")
        axes.plot([place - 0.25, place + 0.25], [np.mean(values)] * 2, color="black")
    axes.set_xticks(range(len(numbers)), list(numbers), rotation=20, ha="right", fontsize=8)
    axes.set_ylabel(label)
    save_figure(figure, path, dpi=DPI)


def draw_matrix(
    names: Sequence[str], values: NDArray[np.floating], path: Path, *, label: str
) -> None:
    """Write a number for every two names, in the cell and as its colour.

    Args:
        names: Of rows and columns alike.
        values: `(n, n)`, -1 to 1; NaN leaves a cell empty.
        path: The PNG.
        label: What the numbers are.
    """
    figure, (axes,) = _figure(1, width=2.6 + 0.7 * len(names), bare=False)
    darkest = min(0.0, float(np.nanmin(values)))
    drawn = axes.imshow(values, cmap="viridis", vmin=darkest, vmax=1)
    for row, column in np.argwhere(np.isfinite(values)):
        value = float(values[row, column])
        dark = value - darkest < 0.6 * (1 - darkest)
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="w" if dark else "k")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    figure.colorbar(drawn, ax=axes, label=label)
    save_figure(figure, path, dpi=DPI)


def draw_rows(rows: Mapping[str, Sequence[Frame]], path: Path, *, title: str = "") -> None:
    """Write maps over their pictures in named rows; every map has a scale of its own.

    Args:
        rows: Name to frames from left to right; a row may be shorter than others.
        path: The PNG.
        title: Above all.
    """
    columns = max(map(len, rows.values()))
    figure, axes = _figure(columns * len(rows), width=1.9 * columns, columns=columns)
    for number, (name, frames) in enumerate(rows.items()):
        places = axes[number * columns : (number + 1) * columns]
        for place, frame in zip(places, frames, strict=False):
            if frame.values is None:
                place.imshow(frame.picture)
            else:
                place.imshow(frame.picture.mean(axis=2), cmap="gray", vmin=0, vmax=255)
                place.imshow(frame.values, cmap=COLOURS, alpha=OPACITY)
            place.set_title(frame.title, fontsize=8)
        where = places[0].transAxes
        places[0].text(-0.06, 0.5, name, transform=where, rotation=90, va="center", ha="right")
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path, dpi=DPI)


def draw_charts(charts: Sequence[Chart], path: Path, *, title: str = "") -> None:
    """Write line charts side by side.

    Args:
        charts: What they show.
        path: The PNG.
        title: Above all.
    """
    number = len(charts)
    figure, axes = _figure(number, width=3.7 * number, columns=number, bare=False)
    for place, chart in zip(axes, charts, strict=True):
        for style, (name, values) in zip(STYLES, chart.lines.items(), strict=False):
            across = np.linspace(0, 1, len(values)) if not chart.ticks else np.arange(len(values))
            place.plot(across, values, style, label=name, markersize=4)
        if chart.level is not None:
            name, level = chart.level
            place.axhline(level, color="0.4", linestyle=":", label=name)
        if chart.ticks:
            marks = range(len(chart.ticks))
            place.set_xticks(marks, chart.ticks, rotation=30, ha="right", fontsize=8)
        place.set_xlabel(chart.across, fontsize=9)
        place.set_title(chart.up, fontsize=8)
        place.set_ylim(bottom=min(place.get_ylim()[0], 0.0), top=max(place.get_ylim()[1], 1.0))
        place.legend(fontsize=7, frameon=False)
        place.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path, dpi=DPI)


def _figure(
    number: int, *, width: float, columns: int = 1, bare: bool = True
) -> tuple[Figure, list[Axes]]:
    rows = -(-number // columns)
    height = rows * (width / columns * (0.95 if bare else 0.75) + 0.2)
    figure = new_figure(width, height)
    grid = figure.subplots(rows, columns, squeeze=False)
    if bare:
        for axes in grid.flat:
            axes.set_axis_off()
    return figure, list(grid.flat)


def _overlay(axes: Axes, picture: NDArray[np.uint8], values: NDArray[np.floating]) -> None:
    axes.imshow(picture.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    drawn = axes.imshow(values, cmap=COLOURS, alpha=OPACITY)
    bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.046, pad=0.03)
    bar.ax.tick_params(labelsize=7)
