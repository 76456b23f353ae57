"""Pictures of maps: heat map, overlay with a colour bar, one picture of all models side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from medssl_data.files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["draw_curves", "draw_distributions", "draw_heat_map", "draw_overlay", "draw_panel"]

COLOURS = "inferno"
"""Even steps of value look like even steps of light; readable without colour vision."""
OPACITY = 0.55
DPI = 110


def draw_heat_map(values: NDArray[np.floating], path: Path) -> None:
    """Write a map as a PNG, one pixel a pixel, dark to light from its minimum to its maximum.

    Args:
        values: `(H, W)`.
        path: The PNG.
    """
    from matplotlib import colormaps  # noqa: PLC0415 # slow to import
    from PIL import Image  # noqa: PLC0415

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
    _save(figure, path)


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
    _save(figure, path)


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
    _save(figure, path)


def draw_curves(
    curves: Mapping[str, NDArray[np.floating]], path: Path, *, across: str, up: str
) -> None:
    """Write curves over the share 0 to 1 of something.

    Args:
        curves: Name to its values at even steps from 0 to 1.
        path: The PNG.
        across: What the share is of.
        up: What the values are.
    """
    figure, (axes,) = _figure(1, width=5, bare=False)
    for name, values in curves.items():
        axes.plot(np.linspace(0, 1, len(values)), values, label=name)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend(fontsize=8)
    _save(figure, path)


def _figure(
    number: int, *, width: float, columns: int = 1, bare: bool = True
) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure  # noqa: PLC0415 # slow to import

    rows = -(-number // columns)
    height = rows * (width / columns * (0.95 if bare else 0.75) + 0.2)
    figure = Figure(figsize=(width, height), layout="constrained")
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


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
