"""Records as rows that people read: a line for each model and transform, baselines beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medssl_invariance.experiments.released import published_similarity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medssl_models import Record

__all__ = [
    "COLUMNS",
    "PUBLISHED_COLUMNS",
    "Cell",
    "cells",
    "comparison",
    "dataset_label",
    "model_label",
    "rows",
]

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
PUBLISHED_COLUMNS = ("data set", "transform", "model", "here", "published", "its setting", "flag")


@dataclass(frozen=True)
class Cell:
    """The records of one model, data set and transform, by metric."""

    records: Mapping[str, Record]

    @property
    def first(self) -> Record:
        """Any of them, for what they share."""
        return next(iter(self.records.values()))

    @property
    def transform(self) -> str:
        """The family's name, or `views`."""
        return str(self.first.settings["transform"])

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
    """Gather records by data set, transform and model.

    Data sets and transforms are in the order in which they came, the most stable model is first.
    """
    found: dict[tuple[str, str, str], dict[str, Record]] = {}
    for record in records:
        place = record.provenance
        key = (place.dataset, str(record.settings["transform"]), place.model)
        found.setdefault(key, {})[record.metric] = record
    datasets = list(dict.fromkeys(key[0] for key in found))
    transforms = list(dict.fromkeys(key[1] for key in found))
    ordered = sorted(
        found,
        key=lambda key: (
            datasets.index(key[0]),
            transforms.index(key[1]),
            -found[key]["whitened cosine"].value if "whitened cosine" in found[key] else 0.0,
        ),
    )
    return [Cell(found[key]) for key in ordered]


def rows(records: Sequence[Record]) -> list[tuple[object, ...]]:
    """Give the cells of a table with `COLUMNS`."""
    return [_row(cell) for cell in cells(records)]


def _row(cell: Cell) -> tuple[object, ...]:
    details = cell.first.details
    undefined: list[Any] = [record.details["undefined"] for record in cell.records.values()]
    return (
        dataset_label(cell.first),
        cell.transform,
        model_label(cell.first),
        _number(cell.value("whitened cosine")),
        _interval(cell.records.get("whitened cosine")),
        *(
            _number(cell.baseline("whitened cosine", kind))
            for kind in ("random other", "same class", "same patient")
        ),
        _number(cell.value("raw cosine")),
        _number(cell.baseline("raw cosine", "random other")),
        _number(cell.value("Mahalanobis distance"), digits=1),
        _number(cell.baseline("Mahalanobis distance", "random other"), digits=1),
        _percent(cell.value("retrieval")),
        f"{details['images']} x {details['members']}",
        sum(undefined),
    )


def comparison(records: Sequence[Record]) -> list[tuple[object, ...]]:
    """Give the cells of a table with `PUBLISHED_COLUMNS`, for what the study released."""
    return [
        (
            record.provenance.dataset,
            record.settings["transform"],
            record.provenance.model,
            f"{record.value:.4f} ({record.provenance.protocol})",
            f"{found.value:.4f}",
            found.setting,
            found.flag,
        )
        for record in records
        if (found := published_similarity(record)) is not None
    ]


def model_label(record: Record) -> str:
    """Name the model; an untrained control says so."""
    return record.provenance.model + (" (control)" if record.details.get("control") else "")


def dataset_label(record: Record) -> str:
    """Name the data set; a phantom says so."""
    return record.provenance.dataset + (" (phantom)" if record.details.get("synthetic") else "")


def _number(value: float | None, *, digits: int = 3) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f} %"


def _interval(record: Record | None) -> str | None:
    if record is None or record.ci_low is None or record.ci_high is None:
        return None
    return f"{record.ci_low:.3f} to {record.ci_high:.3f}"
