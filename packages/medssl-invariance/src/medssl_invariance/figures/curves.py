"""Similarity against the parameter: the numbers as CSV, and the two pictures of a data set."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

from medssl_data.files import write_atomically

from medssl_invariance.figures.tables import cells, dataset_label

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from medssl_models import Record

__all__ = ["CSV_COLUMNS", "csv_text", "write_curves"]

CSV_COLUMNS = (
    *("data set", "transform", "model", "control", "metric", "axis"),
    *("at", "value", "ci_low", "ci_high", "random_other"),
)


def write_curves(
    records: Sequence[Record], folder: Path, *, metric: str = "whitened cosine"
) -> list[Path]:
    """Write the curves of records: one CSV, and for each data set two PNGs.

    Args:
        records: Of `synthetic`.
        folder: Where the files go; each is replaced as a whole.
        metric: What the pictures show; the CSV holds all.

    Returns:
        The files: `curves.csv`, and `DATASET-curves.png`, `DATASET-summary.png` for each data set.
    """
    from medssl_invariance.figures.drawing import draw_curves, draw_summary

    table = folder / "curves.csv"
    write_atomically(table, csv_text(records).encode())
    written = [table]
    shown = [record for record in records if record.metric == metric]
    for dataset in dict.fromkeys(record.provenance.dataset for record in shown):
        own = [cell for cell in cells(records) if cell.first.provenance.dataset == dataset]
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", dataset).strip("-")
        title = dataset_label(own[0].first)
        for name, draw in (("curves", draw_curves), ("summary", draw_summary)):
            path = folder / f"{stem}-{name}.png"
            write_atomically(path, draw(own, metric, title))
            written.append(path)
    return written


def csv_text(records: Sequence[Record]) -> str:
    """Write curves as CSV with `CSV_COLUMNS`, a line for each place on a curve."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for cell in cells(records):
        for metric, record in cell.records.items():
            points: Any = record.details["curve"]
            head = (
                record.provenance.dataset,
                cell.transform,
                record.provenance.model,
                "yes" if record.details.get("control") else "no",
                metric,
                record.details["axis"],
            )
            other = cell.baseline(metric, "random other")
            for point in points:
                numbers = (point["at"], point["value"], point["low"], point["high"], other)
                writer.writerow((*head, *map(_plain, numbers)))
    return buffer.getvalue()


def _plain(value: float | None) -> str:
    """Write a number with all its digits; nothing where it is undefined."""
    return "" if value is None else repr(float(value))
