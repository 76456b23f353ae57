"""Records as rows that people read: a line for each model and transform, baselines beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medssl_models.experiments.cells import Labels, data_of, interval, model_of, setting_of
from medssl_models.experiments.experiment import Table

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from medssl_models import Record

__all__ = ["COLUMNS", "Cell", "cells", "tables"]

COLUMNS = (
    "data set",
    "transform",
    "model",
    "whitened cosine",
    "95 % interval",
    "random other",
    "same class",
    "same patient",
    "raw cosine",
    "(random other)",
    "distance",
    "(random other)",
    "found again",
    "images x members",
    "undefined",
)


@dataclass(frozen=True)
class Cell:
    """The records of one model, data set and setting, by metric.

    Args:
        records: Metric to record.
        dataset: Label of the data; a phantom says so.
        transform: The family's name, or `views`, and more of the setting where two share it.
        model: Label of the model; an untrained control says so.
        name: The same without the word for controls, for files.
    """

    records: Mapping[str, Record]
    dataset: str
    transform: str
    model: str
    name: str

    @property
    def first(self) -> Record:
        """Any of the records, for what they share."""
        return next(iter(self.records.values()))

    @property
    def family(self) -> str:
        """The family's name, or `views`."""
        return str(self.first.settings["transform"])

    @property
    def plain_dataset(self) -> str:
        """The label of the data without the word for phantoms, as in names of files."""
        return self.dataset.removesuffix(" (phantom)")

    @property
    def is_control(self) -> bool:
        """Whether the network is untrained."""
        return bool(self.first.details.get("control"))

    @property
    def is_moot(self) -> bool:
        """Whether the transform does nothing, because all pictures are grey."""
        return any("all pictures are grey" in note for note in self.first.notes)

    def value(self, metric: str) -> float | None:
        """The mean of a metric; None where it was not measured."""
        record = self.records.get(metric)
        return None if record is None else record.value

    def baseline(self, metric: str, kind: str) -> float | None:
        """The mean of a metric between an image and other images; None where there is none."""
        record = self.records.get(metric)
        found: Any = {} if record is None else record.details.get("baselines", {})
        value = found.get(kind, {}).get("value")
        return None if value is None else float(value)


def cells(records: Sequence[Record]) -> list[Cell]:
    """Gather records by data set, setting and model.

    Data sets and transforms are in the order in which they came, the most stable model is first.
    """
    runs: dict[tuple[Hashable, Hashable, Hashable], dict[str, Record]] = {}
    for record in records:
        run = data_of(record), setting_of(record), model_of(record)
        runs.setdefault(run, {})[record.metric] = record
    datasets, settings = (_places(run[part] for run in runs) for part in (0, 1))

    def place(run: tuple[Hashable, Hashable, Hashable]) -> tuple[float, ...]:
        stable = runs[run].get("whitened_cosine")
        return datasets[run[0]], settings[run[1]], 0.0 if stable is None else -stable.value

    labels = Labels.of(records)
    ordered = [runs[run] for run in sorted(runs, key=place)]
    firsts = [next(iter(found.values())) for found in ordered]
    return [
        Cell(
            found,
            labels.dataset(first),
            labels.setting(first),
            labels.model(first),
            labels.name(first),
        )
        for found, first in zip(ordered, firsts, strict=True)
    ]


def _places(items: Iterable[Hashable]) -> dict[Hashable, int]:
    return {item: place for place, item in enumerate(dict.fromkeys(items))}


def tables(records: Sequence[Record]) -> list[Table]:
    """Lay records out for people: one table with `COLUMNS`."""
    return [Table(COLUMNS, [_row(cell) for cell in cells(records)])]


def _row(cell: Cell) -> tuple[object, ...]:
    details = cell.first.details
    undefined: list[Any] = [record.details["undefined"] for record in cell.records.values()]
    whitened = cell.records.get("whitened_cosine")
    return (
        cell.dataset,
        cell.transform,
        cell.model,
        _number(cell.value("whitened_cosine")),
        None if whitened is None else interval(whitened),
        *(
            _number(cell.baseline("whitened_cosine", kind))
            for kind in ("random_other", "same_class", "same_patient")
        ),
        _number(cell.value("raw_cosine")),
        _number(cell.baseline("raw_cosine", "random_other")),
        _number(cell.value("mahalanobis_distance"), digits=1),
        _number(cell.baseline("mahalanobis_distance", "random_other"), digits=1),
        _percent(cell.value("retrieval")),
        f"{details['images']} x {details['members']}",
        sum(undefined),
    )


def _number(value: float | None, *, digits: int = 3) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f} %"
