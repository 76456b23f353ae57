"""The study's figure from your own runs: a picture beside what each model and layer remembers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl_models.matching import did_you_mean

from medssl_dip.drawing import Cell, draw_grid
from medssl_dip.errors import RunError, SettingsError
from medssl_dip.fidelity import METRICS
from medssl_dip.published import published_distance
from medssl_dip.runs import find_runs, load_picture, read_json

__all__ = ["Exhibit", "draw_gallery", "exhibits", "gallery_rows"]


@dataclass(frozen=True)
class Exhibit:
    """All restarts of one picture, model and layer.

    Args:
        picture: Name of the picture.
        model: Name of the model.
        layer: Name of the layer.
        control: The model is a random control.
        dataset: The data set that the picture comes from, where it is one.
        protocol: Of the runs.
        size: Side of the picture.
        paths: One folder a restart, by seed; the first is shown.
        values: Metric to its mean over the restarts, out of `METRICS`.
        stopped: Why each restart ended.
    """

    picture: str
    model: str
    layer: str
    control: bool
    dataset: str
    protocol: str
    size: str
    paths: tuple[Path, ...]
    values: Mapping[str, float]
    stopped: tuple[str, ...]

    @property
    def published(self) -> float | None:
        """The study's distance, mean of three nets, where it has this picture's data set."""
        return published_distance(dataset=self.dataset, model=self.model)


def exhibits(root: Path, *, picture: str | None = None) -> list[Exhibit]:
    """Collect finished runs.

    Args:
        root: Where `reconstruct` kept them.
        picture: Its name; None where there is only one.

    Returns:
        Models before controls, then by name and by layer.

    Raises:
        SettingsError: No finished run, no such picture, or several to choose from.
        RunError: A folder is damaged.
    """
    found = [_read(path) for path in find_runs(root)]
    pictures = sorted({run["picture"] for run in found})
    if not pictures:
        message = f"{root}: no finished run; make some with: medssl-dip reconstruct IMAGE -m MODEL"
        raise SettingsError(message)
    if picture is None and len(pictures) > 1:
        message = f"{root} has runs of {', '.join(pictures)}; choose one with --picture"
        raise SettingsError(message)
    wanted = pictures[0] if picture is None else picture
    if wanted not in pictures:
        message = f"picture: no run of {wanted!r} in {root}" + did_you_mean(wanted, pictures)
        raise SettingsError(message)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in found:
        if run["picture"] == wanted:
            groups.setdefault(_group(run), []).append(run)
    shown = [_exhibit(runs) for runs in groups.values()]
    return sorted(shown, key=lambda one: (one.control, one.model, one.layer, one.protocol))


def gallery_rows(shown: Iterable[Exhibit]) -> tuple[list[str], list[list[object]]]:
    """Make the table of a gallery.

    Returns:
        Columns, and one row for each exhibit; metrics that nobody has are left out.
    """
    listed = list(shown)
    metrics = [name for name in METRICS if any(name in one.values for one in listed)]
    columns = ["model", "layer", "protocol", "runs", *metrics, "published", "difference"]
    return columns, [
        [
            one.model,
            one.layer,
            one.protocol,
            len(one.paths),
            *(_number(one.values.get(name)) for name in metrics),
            _number(one.published),
            _number(_difference(one)),
        ]
        for one in listed
    ]


def draw_gallery(shown: Sequence[Exhibit], path: Path) -> None:
    """Draw the original beside the reconstructions, models downwards, layers across, into a PNG.

    Args:
        shown: Of one picture; see `exhibits`.
        path: The file.

    Raises:
        SettingsError: There is nothing to show.
    """
    if not shown:
        message = "shown is empty: give at least one exhibit"
        raise SettingsError(message)
    lines = list(dict.fromkeys(_line_label(one) for one in shown))
    layers = sorted({one.layer for one in shown})
    cells = []
    for line in lines:
        of_line = {one.layer: one for one in shown if _line_label(one) == line}
        first = next(iter(of_line.values()))
        original = Cell(load_picture(first.paths[0] / "original.png"), first.size)
        cells.append([original, *(_cell(of_line.get(layer)) for layer in layers)])
    draw_grid(
        cells, path, rows=lines, columns=["original", *layers], title=f"{shown[0].picture}: what remains"
    )


def _read(path: Path) -> dict[str, Any]:
    run, result = read_json(path / "run.json"), read_json(path / "result.json")
    needed = {"picture", "pixels", "model", "layer", "seed", "settings"}
    if run is None or result is None or not needed <= run.keys() or "file" not in result:
        message = f"{path}: not the folder of a finished run; remove it, or redo it with --force"
        raise RunError(message)
    return {**run, "result": result, "path": path}


def _group(run: Mapping[str, Any]) -> tuple[Any, ...]:
    settings = run["settings"]
    return run["model"], run["layer"], settings["protocol"], run["pixels"], str(settings)


def _exhibit(runs: Sequence[Mapping[str, Any]]) -> Exhibit:
    ordered = sorted(runs, key=lambda run: run["seed"])
    first, result = ordered[0], ordered[0]["result"]
    measured = [run["result"].get("fidelity", {}) for run in ordered]
    shared = [name for name in METRICS if all(name in values for values in measured)]
    picture = load_picture(first["path"] / "original.png")
    return Exhibit(
        picture=first["picture"],
        model=first["model"],
        layer=first["layer"],
        control=bool(result.get("control")),
        dataset=str(result.get("dataset", "")),
        protocol=first["settings"]["protocol"],
        size=f"{picture.shape[2]} x {picture.shape[1]}",
        paths=tuple(run["path"] for run in ordered),
        values={name: statistics.fmean(values[name] for values in measured) for name in shared},
        stopped=tuple(run["result"]["stopped"] for run in ordered),
    )


def _line_label(one: Exhibit) -> str:
    kind = "control, " if one.control else ""
    return f"{one.model}\n{kind}{one.protocol}, {one.size}"


def _cell(one: Exhibit | None) -> Cell:
    if one is None:
        return Cell(None)
    result = read_json(one.paths[0] / "result.json") or {}
    chosen = [name for name in ("lpips-average", "ssim", "psnr") if name in one.values]
    caption = "\n".join(f"{name} {one.values[name]:.3f}" for name in chosen)
    return Cell(load_picture(one.paths[0] / str(result["file"])), caption)


def _difference(one: Exhibit) -> float | None:
    own = one.values.get("lpips-average")
    return None if own is None or one.published is None else own - one.published


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"
