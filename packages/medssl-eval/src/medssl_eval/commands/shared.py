"""What the commands share: options, how features are computed, how records are shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medssl_models import Record
    from medssl_models.console import Console

    from medssl_eval.experiments.features import Means

__all__ = [
    "DATA",
    "RESULTS",
    "FractionsOption",
    "LabelsOption",
    "OrderedOption",
    "SelectOption",
    "SkipOption",
    "SplitOption",
    "gather_means",
    "numbers",
    "show",
    "show_metrics",
]

RESULTS, DATA = Path("results.jsonl"), Path("data")

SkipOption = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave unreadable images out, and record it.")
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="RULE",
        help="Who trains and who tests: official, patient, published, or a CSV file with columns "
        "id and split; else the protocol's.",
    ),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels", metavar="POLICY", help="What becomes of uncertain labels; else the protocol's."
    ),
]
FractionsOption = Annotated[
    str,
    typer.Option(
        "--fractions",
        metavar="SHARE,...",
        help="Shares of the training images to use, such as 0.01,0.1,1; each is a run.",
    ),
]
SelectOption = Annotated[
    str,
    typer.Option(
        "--select", metavar="METRIC", help="Validation metric that chooses; study: the data set's."
    ),
]
OrderedOption = Annotated[
    bool,
    typer.Option(
        "--ordered",
        help="The classes are grades: measure quadratic kappa. Cards say it themselves.",
    ),
]


def gather_means(console: Console, **extraction: object) -> Means:
    """Gather what the extraction may use from a command's options."""
    from medssl_models import ExtractionSettings, FeatureStore

    from medssl_eval.experiments import features

    settings = ExtractionSettings.model_validate(extraction)
    return features.Means(extraction=settings, store=FeatureStore(), progress=console.progress)


def show(console: Console, records: list[Record], results: Path) -> None:
    """Show the best first, then what must be known of them."""
    from medssl_eval.compare import tables

    ordered = tables.best_first(records)
    console.table(tables.COLUMNS, tables.rows(records))
    console.document({"records": ordered, "results": str(results)})
    for note in dict.fromkeys(note for record in ordered for note in record.notes):
        console.say(f"note: {note}")


def show_metrics(console: Console, records: list[Record], results: Path) -> None:
    """Show one line a run with all its metrics, best first, then what must be known of them."""
    from medssl_eval.compare import tables

    console.table(*tables.metric_table(records))
    console.document({"records": tables.best_first(records), "results": str(results)})
    for note in dict.fromkeys(note for record in records for note in record.notes):
        console.say(f"note: {note}")


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Read `0.01,0.1,1`; what is no finite number above 0 is refused."""
    from medssl_eval.errors import SettingsError

    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value < float("inf") for value in values):
        message = f"{option} is {text!r}; give numbers above 0 with commas between, such as 0.1,1"
        raise SettingsError(message)
    return tuple(dict.fromkeys(values))
