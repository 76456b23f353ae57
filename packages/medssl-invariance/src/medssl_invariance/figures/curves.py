"""Similarity against the parameter: the numbers as CSV, and the two pictures of a data set."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from medssl_models.experiments.cells import csv_text
from medssl_models.experiments.figures import save_figure
from medssl_models.files import write_atomically

from medssl_invariance.experiments.metrics import METRICS
from medssl_invariance.figures.tables import cells

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from medssl_models import Record

    from medssl_invariance.figures.tables import Cell

__all__ = ["CSV_COLUMNS", "curve_table", "write_curves"]

DPI = 120
CSV_COLUMNS = (
    *("data set", "transform", "model", "control", "metric", "axis"),
    *("at", "value", "ci_low", "ci_high", "random_other"),
)


def write_curves(
    records: Sequence[Record], folder: Path, *, metric: str = "whitened_cosine"
) -> list[Path]:
    """Write the curves of records: for each data set one CSV and two PNGs.

    Args:
        records: Of `synthetic`.
        folder: Where the files go; each is replaced as a whole.
        metric: Name of the metric that the pictures show; the CSV holds all.

    Returns:
        The files: `DATASET-curves.csv`, `DATASET-curves.png` and `DATASET-summary.png` for each
        data set.
    """
    from medssl_invariance.figures.drawing import draw_curves, draw_summary

    shown = {one.name: one for one in METRICS}[metric]
    found, written = cells(records), []
    for dataset in dict.fromkeys(cell.dataset for cell in found):
        own = [cell for cell in found if cell.dataset == dataset]
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", own[0].plain_dataset).strip("-")
        table = folder / f"{stem}-curves.csv"
        write_atomically(table, csv_text(curve_table(own)).encode())
        written.append(table)
        for name, draw in (("curves", draw_curves), ("summary", draw_summary)):
            path = folder / f"{stem}-{name}.png"
            save_figure(draw(own, shown, dataset), path, dpi=DPI)
            written.append(path)
    return written


def curve_table(cells: Sequence[Cell]) -> Iterator[Sequence[object]]:
    """Yield `CSV_COLUMNS`, and a row for each place on a curve."""
    yield CSV_COLUMNS
    for cell in cells:
        for metric, record in cell.records.items():
            points: Any = record.details["curve"]
            head = (
                cell.plain_dataset,
                cell.transform,
                cell.name,
                "yes" if cell.is_control else "no",
                metric,
                record.details["axis"],
            )
            other = cell.baseline(metric, "random_other")
            for point in points:
                numbers = (point["at"], point["value"], point["low"], point["high"], other)
                yield (*head, *(None if one is None else float(one) for one in numbers))
