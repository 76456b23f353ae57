"""The numbers that the 2022 study released, and which of them a record may be held against.

The tables in `released_numbers/` are facts and stand there once. What their flags F3 .. F13 and
entries D1 .. D6 mean stands in them; nothing here decides which of the study's numbers is right.
Importing this module imports no torch.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from medssl_models.plain_json import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from medssl_models.experiments.record import Record

__all__ = [
    "Agreement",
    "Match",
    "Released",
    "ReleasedNumber",
    "compare_with_released",
    "find_released",
    "released_numbers",
]

Verdict = Literal["agrees", "higher", "lower", "no interval", "disputed"]
_UNITS = MappingProxyType({"percent": "%", "unitless": ""})


@dataclass(frozen=True, slots=True)
class ReleasedNumber:
    """One number of the study.

    Args:
        experiment: In the study's words, such as `perceptual-distance`.
        dataset: Name of the data set's card.
        model: Name of the model's card.
        metric: In the study's words, such as `mean per-class accuracy`.
        unit: As in records, `%` or empty.
        setting: In the study's words.
        value: The number.
        low: Lower end of its 95 % interval, or a bound; None where there is none.
        high: Upper end.
        flags: Known flaws of the number, such as `F7: ...`.
        doubts: Disagreements inside the released data about it, such as `D3: ...`.
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
    def contradiction(self) -> str:
        """Say that the number lies outside its own bounds; empty where it does not."""
        if self.low is None or self.high is None or self.low <= self.value <= self.high:
            return ""
        return (
            f"the released {self.value:g} lies outside what the study's own map allows, "
            f"{self.low:g} to {self.high:g}"
        )


@dataclass(frozen=True)
class Released:
    """Which of the study's numbers an experiment repeats.

    Args:
        experiments: What the study called it.
        metric: Names the metric of a record that repeats a number.
        conditions: Facts that such a record must have: a setting, or a field of the provenance, to
            its value, or to a set of values that are all as good.
    """

    experiments: tuple[str, ...]
    metric: Callable[[ReleasedNumber], str]
    conditions: Callable[[ReleasedNumber], Mapping[str, object]]


@dataclass(frozen=True)
class Match:
    """What the study released for a record.

    Args:
        number: The study's; None where it has none that was measured under the same conditions.
        differences: Why not: what differs from the nearest number, a phrase each.
    """

    number: ReleasedNumber | None
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Agreement:
    """A record beside the study's number.

    Args:
        record: Ours.
        number: The study's.
        difference: Ours minus the study's.
        verdict: `agrees` where the difference lies within the two intervals together (root of the
            sum of squares, as both numbers are estimates), else `higher` or `lower`; `no interval`
            where neither number has one; `disputed` where the study's contradicts itself.
        reason: Why it is disputed; empty otherwise.
    """

    record: Record
    number: ReleasedNumber
    difference: float
    verdict: Verdict
    reason: str = ""


@cache
def released_numbers() -> tuple[ReleasedNumber, ...]:
    """List all released numbers, in the order of the release.

    Example:
        >>> len(released_numbers())
        940
    """
    doubts = _doubts()
    maps = {
        (row["dataset"], row["model"]): row for row in _rows("attentive_diffusion_from_heatmaps")
    }
    return tuple(_number(row, doubts, maps) for row in _rows("published_canonical"))


def find_released(record: Record) -> Match:
    """Find the study's number for what a record measured.

    Models and data sets are matched by the names of their cards, padding left aside; whatever else
    the experiment names as a condition must be the study's.
    """
    from medssl_models.catalog import split_padding
    from medssl_models.experiments.registry import find_experiment

    released = find_experiment(record.experiment).released
    if released is None:
        return Match(None)
    model, _ = split_padding(record.provenance.model)
    nearest: tuple[str, ...] | None = None
    for name in released.experiments:
        for number in _index().get((name, record.provenance.dataset, model), ()):
            if released.metric(number) != record.metric:
                continue
            found = _differences(record, {"selection": {}, **released.conditions(number)})
            if not found:
                return Match(number)
            nearest = found if nearest is None or len(found) < len(nearest) else nearest
    return Match(None, nearest or ())


def compare_with_released(records: Sequence[Record]) -> list[Agreement]:
    """Set records beside the study's numbers; those without a counterpart are left out."""
    found = ((record, find_released(record).number) for record in records)
    return [_agreement(record, number) for record, number in found if number is not None]


def _differences(record: Record, conditions: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(
        f"{name} is {_shown(ours)}, the study's {_shown(wanted)}"
        for name, wanted in conditions.items()
        if not _meets(ours := _fact(record, name), wanted)
    )


def _fact(record: Record, name: str) -> object:
    if name in record.settings:
        return record.settings[name]
    return getattr(record.provenance, name, None)


def _meets(value: object, wanted: object) -> bool:
    if isinstance(wanted, frozenset):
        return value in wanted
    return canonical_json(value) == canonical_json(wanted)


def _shown(value: object) -> str:
    if isinstance(value, frozenset):
        return " or ".join(sorted(str(one) for one in value))
    if value in (None, "", {}):
        return "none"
    return value if isinstance(value, str) else canonical_json(value)


def _agreement(record: Record, number: ReleasedNumber) -> Agreement:
    difference = record.value - number.value
    if number.contradiction:
        return Agreement(record, number, difference, "disputed", number.contradiction)
    ours = _reach(record.value, record.ci_low, record.ci_high, towards=-difference)
    theirs = _reach(number.value, number.low, number.high, towards=difference)
    if ours is None and theirs is None:
        return Agreement(record, number, difference, "no interval")
    if abs(difference) <= math.hypot(ours or 0.0, theirs or 0.0):
        return Agreement(record, number, difference, "agrees")
    return Agreement(record, number, difference, "higher" if difference > 0 else "lower")


def _reach(value: float, low: float | None, high: float | None, *, towards: float) -> float | None:
    """How far an interval reaches from its value in one direction."""
    if low is None or high is None:
        return None
    return high - value if towards > 0 else value - low


@cache
def _index() -> Mapping[tuple[str, str, str], tuple[ReleasedNumber, ...]]:
    found: dict[tuple[str, str, str], tuple[ReleasedNumber, ...]] = {}
    for number in released_numbers():
        key = (number.experiment, number.dataset, number.model)
        found[key] = (*found.get(key, ()), number)
    return found


def _number(
    row: Mapping[str, str],
    doubts: Mapping[tuple[str, str, str], tuple[str, ...]],
    maps: Mapping[tuple[str, str], Mapping[str, str]],
) -> ReleasedNumber:
    value = float(row["value"])
    half = float(row["ci95"]) if row["ci95"] else math.nan
    low, high = value - half, value + half
    place = row["dataset"], row["model"]
    if row["experiment"] == "attentive-diffusion" and place in maps:
        # No interval was released; the committed map bounds what the number can have been.
        low, high = float(maps[place]["lower"]), float(maps[place]["upper"])
    return ReleasedNumber(
        experiment=row["experiment"],
        dataset=row["dataset"],
        model=row["model"],
        metric=row["metric"],
        unit=_UNITS[row["unit"]],
        setting=row["setting"],
        value=value,
        low=None if math.isnan(low) else low,
        high=None if math.isnan(high) else high,
        flags=tuple(flag.strip() for flag in row["flag"].split("|") if flag.strip()),
        doubts=doubts.get((row["experiment"], *place), ()),
        source=row["source"],
    )


def _doubts() -> Mapping[tuple[str, str, str], tuple[str, ...]]:
    found: dict[tuple[str, str, str], tuple[str, ...]] = {}
    for row in _rows("disagreements"):
        for dataset in row["dataset"].split(" / "):
            key = (row["experiment"], dataset, row["model"])
            text = f"{row['id']}: {row['verdict']}; use: {row['use']}"
            found[key] = (*found.get(key, ()), text)
    return found


def _rows(name: str) -> list[dict[str, Any]]:
    folder = resources.files("medssl_models.experiments") / "released_numbers"
    text = (folder / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
