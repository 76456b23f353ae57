"""The numbers that the 2022 study released, cell by cell, and what is known to be wrong with them.

The tables in `published/` are facts. What their flags F1 .. F13 and entries D1 .. D6 mean stands in
them; nothing here decides which of the study's numbers is right.
"""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medssl_models import Record

__all__ = ["Agreement", "PublishedCell", "find_cell", "published_cells", "set_beside"]

Verdict = Literal["agrees", "higher", "lower", "no interval"]

# The study's words for what our records call otherwise.
_EXPERIMENTS = MappingProxyType({"perceptual-distance": "reconstruction"})
_METRICS = MappingProxyType(
    {
        "mean per-class accuracy": "balanced_accuracy",
        "share of map above its mean": "attentive-diffusion",
        "mean whitened cosine similarity": "similarity",
        "top-1 accuracy": "accuracy",
    }
)
_UNITS = MappingProxyType({"percent": "%", "unitless": ""})
_NETS = MappingProxyType({"mean of the three nets": "lpips-average"})
_EPISODES = re.compile(r"(?P<ways>\d+)-way (?P<shots>\d+)-shot (?P<queries>\d+)-query")


@dataclass(frozen=True, slots=True)
class PublishedCell:
    """One released number.

    Attributes:
        experiment: As our records call it.
        dataset: Name of the data set's card.
        model: Name of the model's card.
        metric: As our records call it.
        unit: As in records, `%` or empty.
        setting: In the study's words.
        value: The number.
        low: Lower end of its 95 % interval; None where none was released.
        high: Upper end.
        flags: Known flaws of the cell, such as `F7: ...`.
        doubts: Disagreements inside the released data about this cell, such as `D3: ...`.
        source: File of the release.
    """

    experiment: str
    dataset: str
    model: str
    metric: str
    unit: str
    setting: str
    value: float
    low: float | None
    high: float | None
    flags: tuple[str, ...]
    doubts: tuple[str, ...]
    source: str

    @property
    def demands(self) -> Mapping[str, object]:
        """The settings that a record must have to be the same experiment."""
        episodes = _EPISODES.search(self.setting)
        return {} if episodes is None else {k: int(v) for k, v in episodes.groupdict().items()}


@dataclass(frozen=True, slots=True)
class Agreement:
    """A record beside the study's number.

    Attributes:
        record: Ours.
        cell: The study's.
        difference: Ours minus the study's.
        verdict: `agrees` where the difference lies within the two intervals together (root of the
            sum of squares, as both numbers are estimates), else `higher` or `lower`; `no interval`
            where neither number has one.
    """

    record: Record
    cell: PublishedCell
    difference: float
    verdict: Verdict


@cache
def published_cells() -> tuple[PublishedCell, ...]:
    """Give all released numbers, in the order of the release."""
    doubts = _doubts()
    maps = {
        (row["dataset"], row["model"]): row for row in _rows("attentive_diffusion_from_heatmaps")
    }
    return tuple(_cell(row, doubts, maps) for row in _rows("published_canonical"))


def find_cell(record: Record) -> PublishedCell | None:
    """Find the study's number for what a record measured.

    Models and data sets are matched by the names of their cards, padding left aside; ways, shots
    and queries must be the study's, and a fraction of the labels has no counterpart.
    """
    from medssl_models.catalog import split_padding

    model, _ = split_padding(record.provenance.model)
    key = (record.experiment, record.provenance.dataset, model, record.metric)
    if record.settings.get("fraction", 1) != 1:
        return None
    for cell in _index().get(key, ()):
        if all(record.settings.get(name) == value for name, value in cell.demands.items()):
            return cell
    return None


def set_beside(records: Sequence[Record]) -> list[Agreement]:
    """Set records beside the study's numbers; those without a counterpart are left out."""
    found = ((record, find_cell(record)) for record in records)
    return [_agreement(record, cell) for record, cell in found if cell is not None]


def _agreement(record: Record, cell: PublishedCell) -> Agreement:
    difference = record.value - cell.value
    ours = _reach(record.value, record.ci_low, record.ci_high, towards=-difference)
    theirs = _reach(cell.value, cell.low, cell.high, towards=difference)
    if ours is None and theirs is None:
        return Agreement(record, cell, difference, "no interval")
    if abs(difference) <= math.hypot(ours or 0.0, theirs or 0.0):
        return Agreement(record, cell, difference, "agrees")
    return Agreement(record, cell, difference, "higher" if difference > 0 else "lower")


def _reach(value: float, low: float | None, high: float | None, *, towards: float) -> float | None:
    """How far an interval reaches from its value in one direction."""
    if low is None or high is None:
        return None
    return high - value if towards > 0 else value - low


@cache
def _index() -> Mapping[tuple[str, str, str, str], tuple[PublishedCell, ...]]:
    found: dict[tuple[str, str, str, str], tuple[PublishedCell, ...]] = {}
    for cell in published_cells():
        key = (cell.experiment, cell.dataset, cell.model, cell.metric)
        found[key] = (*found.get(key, ()), cell)
    return found


def _cell(
    row: Mapping[str, str],
    doubts: Mapping[tuple[str, str, str], tuple[str, ...]],
    maps: Mapping[tuple[str, str], Mapping[str, str]],
) -> PublishedCell:
    value = float(row["value"])
    half = float(row["ci95"]) if row["ci95"] else math.nan
    low, high = value - half, value + half
    place = row["dataset"], row["model"]
    if row["experiment"] == "attentive-diffusion" and place in maps:
        # No interval was released; the committed map bounds what the number can have been.
        low, high = float(maps[place]["lower"]), float(maps[place]["upper"])
    return PublishedCell(
        experiment=_EXPERIMENTS.get(row["experiment"], row["experiment"]),
        dataset=row["dataset"],
        model=row["model"],
        metric=_metric(row),
        unit=_UNITS[row["unit"]],
        setting=row["setting"],
        value=value,
        low=None if math.isnan(low) else low,
        high=None if math.isnan(high) else high,
        flags=tuple(flag.strip() for flag in row["flag"].split("|") if flag.strip()),
        doubts=doubts.get((row["experiment"], *place), ()),
        source=row["source"],
    )


def _metric(row: Mapping[str, str]) -> str:
    if row["metric"] == "LPIPS":
        return _NETS.get(row["setting"], row["setting"].replace(" ", "-"))
    return _METRICS.get(row["metric"], row["metric"])


def _doubts() -> Mapping[tuple[str, str, str], tuple[str, ...]]:
    found: dict[tuple[str, str, str], tuple[str, ...]] = {}
    for row in _rows("disagreements"):
        for dataset in row["dataset"].split(" / "):
            key = (row["experiment"], dataset, row["model"])
            text = f"{row['id']}: {row['verdict']}; use: {row['use']}"
            found[key] = (*found.get(key, ()), text)
    return found


def _rows(name: str) -> list[dict[str, Any]]:
    file = resources.files("medssl_eval") / "published" / f"{name}.csv"
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
