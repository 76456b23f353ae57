"""Records as rows that people read: best first, with interval, controls and phantoms marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_models import Record

__all__ = ["COLUMNS", "best_first", "dataset_label", "interval", "model_label", "rows"]

COLUMNS = ("data set", "setting", "model", "metric", "value", "95 % interval", "images")


def best_first(records: Sequence[Record]) -> list[Record]:
    """Sort records: data sets and settings in the order in which they came, best models first."""
    datasets = _order(record.provenance.dataset for record in records)
    metrics = _order(record.metric for record in records)
    return sorted(
        records,
        key=lambda record: (
            datasets[record.provenance.dataset],
            metrics[record.metric],
            _setting_order(record),
            -record.value,
            record.provenance.model,
        ),
    )


def rows(records: Sequence[Record]) -> list[tuple[object, ...]]:
    """Give the cells of a table with `COLUMNS`, best first."""
    return [
        (
            dataset_label(record),
            setting_label(record),
            model_label(record),
            record.metric,
            f"{record.value:.2f}{' ' + record.unit if record.unit else ''}",
            interval(record),
            record.details.get("images", record.n),
        )
        for record in best_first(records)
    ]


def model_label(record: Record) -> str:
    """Name the model; an untrained control says so."""
    return record.provenance.model + (" (control)" if record.details.get("control") else "")


def dataset_label(record: Record) -> str:
    """Name the data set; a phantom says so."""
    return record.provenance.dataset + (" (phantom)" if record.details.get("synthetic") else "")


def setting_label(record: Record) -> str:
    """Say in a few words what was done."""
    settings = record.settings
    if record.experiment == "few-shot":
        return f"{settings['ways']}-way {settings['shots']}-shot"
    if record.experiment == "knn":
        return f"k = {settings['neighbours']}"
    return record.experiment


def interval(record: Record) -> str:
    """Write the interval; empty where there is none."""
    if record.ci_low is None or record.ci_high is None:
        return ""
    return f"{record.ci_low:.2f} to {record.ci_high:.2f}"


def _setting_order(record: Record) -> tuple[float, ...]:
    return tuple(
        float(value)
        for name in ("ways", "shots", "fraction")
        if isinstance(value := record.settings.get(name), int | float)
    )


def _order(names: object) -> dict[str, int]:
    return {name: place for place, name in enumerate(dict.fromkeys(names))}  # type: ignore[call-overload]
