"""Records of this package as tables for people; importing this module imports no torch."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from medssl_models.experiments.cells import Labels, data_of, model_of, newest, setting_of
from medssl_models.experiments.experiment import Table

from medssl_dip.perceptual.metrics import METRICS, meaning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_models import Record

__all__ = ["distance_tables", "reconstruction_tables"]


def reconstruction_tables(records: Sequence[Record]) -> list[Table]:
    """Lay reconstructions out: a row an image, layer and model, a column a metric.

    Args:
        records: Any; the newest of equal ones is shown.
    """
    runs: dict[tuple[Any, ...], dict[str, Record]] = {}
    for record in newest(records):
        run = (data_of(record), setting_of(record), model_of(record))
        runs.setdefault(run, {})[record.metric] = record
    labels = Labels.of(records)
    shown = (name for name in METRICS if name != "loss")
    metrics = [name for name in shown if any(name in found for found in runs.values())]
    rows = [
        [
            labels.dataset(first),
            labels.setting(first),
            first.details.get("side"),
            labels.model(first),
            _stops(first),
            *(_mean_and_spread(found.get(name)) for name in metrics),
        ]
        for found in runs.values()
        for first in [next(iter(found.values()))]
    ]
    columns = ["data set", "setting", "size", "model", "stopped", *metrics]
    if all(labels.dataset(one) == f"file:{one.settings.get('picture')}" for one in records):
        columns, rows = columns[1:], [row[1:] for row in rows]  # the setting names the file
    return [Table(columns, rows)] if rows else []


def distance_tables(records: Sequence[Record]) -> list[Table]:
    """Lay distances out: a row a metric and model, with what the value means."""
    labels = Labels.of(records)
    rows = [
        (
            record.metric,
            labels.model(record) if record.metric == "feature_distance" else "",
            f"{record.value:.4f}",
            meaning(METRICS[record.metric]),
        )
        for record in newest(records)
    ]
    rows.sort(key=lambda row: bool(row[1]))  # what needs no model comes first
    return [Table(("metric", "model", "value", "meaning"), rows)] if rows else []


def _stops(record: Record) -> str:
    """Write how many updates each restart made, and why it ended before the last."""
    details: Any = record.details
    return ", ".join(
        f"{steps} {why}" if why != "steps" else str(steps)
        for steps, why in zip(details["steps"], details["stopped"], strict=True)
    )


def _mean_and_spread(record: Record | None) -> str | None:
    if record is None:
        return None
    values: Any = record.details["values"]
    mean = f"{record.value:.3f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.3f}"
