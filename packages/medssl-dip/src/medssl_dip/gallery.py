"""The study's figure from new runs: a picture beside what each model and layer remembers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medssl_models.experiments.cells import labels_apart
from medssl_models.experiments.figures import new_figure, save_figure
from medssl_models.plain_json import canonical_json

from medssl_dip.errors import SettingsError
from medssl_dip.inversion.run_folder import load_picture
from medssl_dip.perceptual.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from medssl_dip.inversion.run_summary import RunSummary

__all__ = ["Cell", "draw_gallery", "draw_grid"]

CELL = 2.2  # inches

SHOWN = {"lpips_average": "LPIPS", "ssim": "SSIM", "psnr": "PSNR", "feature_distance": "features"}
"""Metric to the word below a picture, where there is room for few."""


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

    Example:
        >>> from pathlib import Path
        >>> from medssl_data import load_dataset
        >>> from medssl_dip import reconstruct, summarise
        >>> from medssl_models import RunContext, create_model
        >>> data = load_dataset("phantom:chest-xray,count=8")
        >>> few = {"preset": "quick", "size": 32, "steps": 1, "layer": ("layer1", "layer4")}
        >>> context = RunContext(output=Path("drawn"))
        >>> _ = reconstruct(create_model("random_r18"), data, context=context, **few)
        >>> draw_gallery(summarise(sorted(Path("drawn").iterdir())), Path("gallery.png"))
    """
    if not summaries:
        message = "summaries is empty: there is nothing to draw"
        raise SettingsError(message)
    layers = list(dict.fromkeys(sorted(one.layer for one in summaries)))
    lines: dict[tuple[Any, ...], dict[str, RunSummary]] = {}
    for one in summaries:
        lines.setdefault(_line_of(one), {})[one.layer] = one
    labels = labels_apart({line: _name(found) for line, found in lines.items()}, _facts)
    cells = []
    for found in lines.values():
        original = Cell(load_picture(next(iter(found.values())).original))
        cells.append([original, *(_cell(found.get(layer)) for layer in layers)])
    draw_grid(
        cells,
        path,
        rows=[labels[line] for line in lines],
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


def _line_of(one: RunSummary) -> tuple[Any, ...]:
    """Return what all pictures of a line share: everything but the layer and the seed."""
    run = one.identity
    settings = {name: value for name, value in run.settings.items() if name != "layer"}
    apart = (run.precision, run.preprocessing, run.weights, run.pixels)
    return (run.model, canonical_json(settings), *apart)


def _facts(line: tuple[Any, ...]) -> Mapping[str, Any]:
    _, settings, *apart = line
    names = ("precision", "preprocessing", "weights", "images")
    return {**json.loads(settings), **dict(zip(names, apart, strict=True))}


def _name(found: Mapping[str, RunSummary]) -> str:
    one = next(iter(found.values()))
    return one.identity.model + "\n(random control)" * bool(one.results[0].get("control"))


def _cell(one: RunSummary | None) -> Cell:
    if one is None:
        return Cell(None)
    values = one.values
    caption = "\n".join(
        f"{word} {values[name]:.2f} {METRICS[name].unit}".rstrip()
        for name, word in SHOWN.items()
        if name in values
    )
    return Cell(load_picture(one.file), caption or one.results[0]["stopped"])


def _draw_cell(place: Any, cell: Cell) -> None:  # noqa: ANN401 # matplotlib has no types
    place.set(xticks=[], yticks=[])
    for side in place.spines.values():
        side.set_visible(False)
    if cell.picture is not None:
        pixels = cell.picture.permute(1, 2, 0).numpy()
        place.imshow(pixels, interpolation="nearest", vmin=0, vmax=1)
    place.set_xlabel(cell.caption, fontsize=7)
