"""What the commands share: options, how features are computed, how records are shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medssl_models import Record
    from medssl_models.console import Console

    from medssl_eval.features import Means

__all__ = ["DATA", "RESULTS", "SkipOption", "gather_means", "show"]

RESULTS, DATA = Path("results.jsonl"), Path("data")

SkipOption = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave unreadable images out, and record it.")
]


def gather_means(console: Console, **extraction: object) -> Means:
    """Gather what the extraction may use from a command's options."""
    from medssl_models import ExtractionSettings, FeatureStore

    from medssl_eval import features

    settings = ExtractionSettings.model_validate(extraction)
    return features.Means(extraction=settings, store=FeatureStore(), progress=console.progress)


def show(console: Console, records: list[Record], results: Path) -> None:
    """Show the best first, then what must be known of them."""
    from medssl_eval import tables

    ordered = tables.best_first(records)
    console.table(tables.COLUMNS, tables.rows(records))
    console.document({"records": ordered, "results": str(results)})
    for note in dict.fromkeys(note for record in ordered for note in record.notes):
        console.say(f"note: {note}")
