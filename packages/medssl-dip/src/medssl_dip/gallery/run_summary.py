"""Finished runs summarised: one row for the restarts of a picture, model and layer.

Everything is read from the folders of runs, the study's distance from its table; nothing is
measured here.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medssl_models.catalog import split_padding
from medssl_models.suggestions import did_you_mean

from medssl_dip.errors import RunError, SettingsError
from medssl_dip.inversion.run_folder import load_picture, read_json, read_result
from medssl_dip.perceptual.metrics import METRICS
from medssl_dip.published import published_distance

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["RunSummary", "as_documents", "choose_picture", "summarise", "table"]


@dataclass(frozen=True)
class RunSummary:
    """All restarts of one picture, model and layer.

    Args:
        picture: Name of the picture.
        model: Name of the model.
        layer: The layer as it was asked for, such as `last`.
        network_layer: The network's name of it.
        control: The model is a random control.
        dataset: The data set that the picture comes from, where it is one.
        protocol: Of the runs.
        normalisation: Kind of what the model saw.
        size: Side of the picture, pixels.
        paths: One folder a restart, by seed; the first is shown.
        file: The reconstruction of the first restart.
        measured: Metric to its values, one a restart that did not diverge, out of `METRICS`.
        stopped: Why each restart ended.
        steps: How many updates each made.
    """

    picture: str
    model: str
    layer: str
    network_layer: str
    control: bool
    dataset: str
    protocol: str
    normalisation: str
    size: int
    paths: tuple[Path, ...]
    file: Path
    measured: Mapping[str, tuple[float, ...]]
    stopped: tuple[str, ...]
    steps: tuple[int, ...]

    @property
    def values(self) -> dict[str, float]:
        """Mean of each metric over the restarts."""
        return {name: statistics.fmean(values) for name, values in self.measured.items()}

    @property
    def published(self) -> float | None:
        """The study's distance, mean of three nets, where it has this data set and model."""
        base, _ = split_padding(self.model)
        return published_distance(dataset=self.dataset, model=base)

    @property
    def difference(self) -> float | None:
        """How much larger this distance is than the study's, where both are known."""
        measured, published = self.values.get("lpips_average"), self.published
        return None if measured is None or published is None else measured - published


def summarise(runs: Iterable[Path]) -> list[RunSummary]:
    """Summarise finished runs.

    Args:
        runs: Their folders.

    Returns:
        By picture, size and layer; models as they come, each control after its models.

    Raises:
        RunError: A folder is damaged.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for path in runs:
        run = _read(path)
        groups.setdefault(_identity(run), []).append(run)
    summaries = [_summary(of_group) for of_group in groups.values()]
    return sorted(summaries, key=lambda one: (one.picture, one.protocol, one.size, one.layer))


def choose_picture(
    summaries: Sequence[RunSummary], picture: str | None, *, where: Path
) -> list[RunSummary]:
    """Choose the summaries of one picture.

    Args:
        summaries: Of any pictures.
        picture: Its name; None where there is only one.
        where: The folder, for messages.

    Raises:
        SettingsError: No finished run, no such picture, or several to choose from.
    """
    pictures = sorted({one.picture for one in summaries})
    if not pictures:
        message = f"{where}: no finished run; make some with: medssl-dip reconstruct IMAGE -m MODEL"
        raise SettingsError(message)
    if picture is None and len(pictures) > 1:
        message = f"picture: {where} has runs of {', '.join(pictures)}; choose one"
        raise SettingsError(message)
    wanted = pictures[0] if picture is None else picture
    if wanted not in pictures:
        message = f"picture: no run of {wanted!r} in {where}" + did_you_mean(wanted, pictures)
        raise SettingsError(message)
    return [one for one in summaries if one.picture == wanted]


def table(summaries: Sequence[RunSummary]) -> tuple[list[str], list[list[object]]]:
    """Make the table of some summaries.

    Returns:
        Columns, and one row for each summary; columns that are empty throughout are left out.
    """
    metrics = [name for name in METRICS if any(name in one.measured for one in summaries)]
    rows: list[dict[str, object]] = []
    for one in summaries:
        row: dict[str, object] = {
            "picture": one.picture,
            "size": one.size,
            "layer": _both_names(one.layer, one.network_layer),
            "model": one.model + (" (control)" if one.control else ""),
            "protocol": one.protocol,
            "stopped": ", ".join(
                f"{steps} {why}" if why != "steps" else str(steps)
                for steps, why in zip(one.steps, one.stopped, strict=True)
            ),
        }
        row |= {name: _mean_and_spread(one.measured.get(name)) for name in metrics}
        rows.append(row | {"published": one.published, "difference": one.difference})
    columns = (
        [name for name in rows[0] if any(row[name] is not None for row in rows)] if rows else []
    )
    return columns, [[_cell(row[name]) for name in columns] for row in rows]


def as_documents(summaries: Iterable[RunSummary]) -> list[dict[str, object]]:
    """Turn summaries into plain data for JSON, with everything that the table has."""
    return [
        {
            **vars(one),
            "values": one.values,
            "published": one.published,
            "difference": one.difference,
        }
        for one in summaries
    ]


def _read(path: Path) -> dict[str, Any]:
    run, result = read_json(path / "run.json"), read_result(path)
    needed = {"picture", "pixels", "model", "weights", "preprocessing", "layer", "seed", "settings"}
    if run is None or result is None or not needed <= run.keys() or "file" not in result:
        message = f"{path}: not the folder of a finished run; remove it"
        raise RunError(message)
    return {**run, "result": result, "path": path}


def _identity(run: Mapping[str, Any]) -> tuple[str, ...]:
    names = ("picture", "pixels", "model", "weights", "preprocessing", "precision", "settings")
    return tuple(str(run.get(name)) for name in names)


def _summary(runs: Sequence[Mapping[str, Any]]) -> RunSummary:
    ordered = sorted(runs, key=lambda run: run["seed"])
    first, result = ordered[0], ordered[0]["result"]
    kept = [run["result"] for run in ordered if run["result"]["stopped"] != "diverged"]
    found = [one.get("fidelity", {}) for one in kept]
    shared = [name for name in METRICS if found and all(name in values for values in found)]
    return RunSummary(
        picture=first["picture"],
        model=first["model"],
        layer=first["settings"]["layer"],
        network_layer=first["layer"],
        control=bool(result.get("control")),
        dataset=str(result.get("dataset", "")),
        protocol=first["settings"]["protocol"],
        normalisation=_normalisation(first["preprocessing"]),
        size=load_picture(first["path"] / "original.png").shape[2],
        paths=tuple(run["path"] for run in ordered),
        file=first["path"] / str(result["file"]),
        measured={name: tuple(values[name] for values in found) for name in shared},
        stopped=tuple(run["result"]["stopped"] for run in ordered),
        steps=tuple(run["result"]["steps"] for run in ordered),
    )


def _normalisation(preprocessing: str) -> str:
    from medssl_models import Preprocessing

    return str(Preprocessing.model_validate_json(preprocessing).normalisation.kind)


def _both_names(asked: str, network: str) -> str:
    return asked if asked == network else f"{asked} ({network})"


def _mean_and_spread(values: Sequence[float] | None) -> str | None:
    if not values:
        return None
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.3f}"


def _cell(value: object) -> object:
    return f"{value:.3f}" if isinstance(value, float) else value
