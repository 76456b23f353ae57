"""`medssl-eval compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from medssl_models.console import Console, DatasetsOption, JsonOption, QuietOption, ResultsOption
from medssl_models.console import SeedOption as Seed
from medssl_models.experiments.command import RESULTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_models import Record
    from medssl_models.experiments.released import Agreement

    from medssl_eval.compare.cells import Choice
    from medssl_eval.compare.comparison import Pair, RankedCells

__all__ = ["compare"]

METRICS = ("accuracy", "auroc")
"""What is compared where nobody asks for a metric."""
PAIR_COLUMNS = (
    *("data set", "setting", "metric", "first", "second", "difference", "95 % interval"),
    *("p", "p (all pairs)", "p DeLong", "n", "n at 80 % power"),
)
ModelsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[MODEL]...", help="Models; all when left out.")
]
ExperimentsOption = Annotated[
    list[str] | None,
    typer.Option("--experiment", "-e", metavar="NAME", help="Such as few-shot; repeatable."),
]
MetricsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metric", metavar="NAME", help="Accuracy and auroc when left out, or all; repeatable."
    ),
]


def compare(
    model: ModelsArgument = None,
    dataset: DatasetsOption = [],  # noqa: B006 # Typer copies it
    experiment: ExperimentsOption = None,
    metric: MetricsOption = None,
    against: Annotated[
        str,
        typer.Option("--against", metavar="MODEL|best", help="Only pairs with this model."),
    ] = "",
    published: Annotated[
        bool, typer.Option("--published", help="Set your records beside the study's numbers.")
    ] = False,
    resamples: Annotated[
        int, typer.Option("--resamples", min=100, help="Bootstrap resamples and permutations.")
    ] = 2000,
    seed: Seed = 0,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw ranks over data sets as PNG, PDF or SVG."
        ),
    ] = None,
    results: ResultsOption = RESULTS,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Test whether models really differ, on the same images or episodes."""
    from medssl_eval.compare.cells import Choice, select_records

    console = Console(json=json, quiet=quiet)
    asked = tuple(metric or ())
    choice = Choice(
        models=tuple(map(_one_name, model or ())),
        datasets=tuple(dataset),
        experiments=tuple(experiment or ()),
        metrics=() if "all" in asked else asked,
    )
    records = select_records(_read(results, console), choice)
    if published:
        _show_published(console, records)
        return
    if not asked:
        records = [record for record in records if record.metric in METRICS]
    pairs, ranked, notes = _compared(
        records,
        results,
        choice,
        against=_one_name(against),
        resamples=resamples,
        seed=seed,
    )
    if plot is not None:
        _draw(ranked, plot)
    _show_pairs(console, pairs)
    for entry in ranked:
        _show_ranks(console, entry)
    console.document(
        {
            "pairs": [pair.as_dict() for pair in pairs],
            "rankings": [entry.as_dict() for entry in ranked],
            "notes": notes,
        }
    )
    for note in notes:
        console.say(f"note: {note}")
    if plot is not None:
        console.write(str(plot))


def _read(results: Path, console: Console) -> Sequence[Record]:
    from medssl_models import read_records

    from medssl_eval.errors import ResultsError

    if not results.exists():
        message = f"{results} is not there: run an experiment first, or name a file with --results"
        raise ResultsError(message)
    file = read_records(results)
    for note in file.notes:
        console.warn(note)
    return file.records


def _one_name(model: str) -> str:
    """Return the name that a model's records bear; one that is not here may have records."""
    from medssl_models.catalog import resolve
    from medssl_models.errors import ModelError

    try:
        return resolve(model).name
    except (ModelError, OSError):
        return model


def _compared(
    records: Sequence[Record],
    results: Path,
    choice: Choice,
    *,
    against: str,
    resamples: int,
    seed: int,
) -> tuple[list[Pair], list[RankedCells], list[str]]:
    from medssl_eval.compare.cells import gather_cells
    from medssl_eval.compare.comparison import Comparer, rank_cells
    from medssl_eval.errors import ResultsError

    cells = [cell for cell in gather_cells(records) if len(cell.records) > 1]
    comparer = Comparer(results, resamples=resamples, seed=seed)
    comparer.check_against(against, cells)
    pairs = [pair for cell in cells for pair in comparer.compare(cell, against=against)]
    notes = comparer.notes
    ranked = rank_cells(cells, notes)
    if not pairs and not ranked:
        who = ", ".join(choice.models) or "different models"
        why = "; ".join(notes) or "they hold no two models on the same images with equal settings"
        message = f"{results}: no records of {who} that can be compared: {why}"
        raise ResultsError(message)
    return pairs, ranked, notes


def _show_pairs(console: Console, pairs: Sequence[Pair]) -> None:
    rows = []
    for pair in pairs:
        gap, unit = pair.difference, f" {pair.first.unit}".rstrip()
        digits = 2 if pair.first.unit == "%" else 3
        labels = pair.cell.labels
        rows.append(
            (
                pair.cell.dataset,
                pair.cell.setting,
                pair.first.metric,
                labels.model(pair.first),
                labels.model(pair.second),
                f"{gap.difference:+.{digits}f}{unit}" if gap.difference else "equal",
                f"{gap.low:+.{digits}f} to {gap.high:+.{digits}f}",
                *map(_p_text, (gap.p_permutation, pair.p_adjusted, gap.p_delong)),
                f"{gap.units} {pair.over}",
                pair.needed,
            )
        )
    if rows:
        console.table(
            PAIR_COLUMNS, rows, title="Pairs on the same images or episodes, better first"
        )
        console.write(
            "p (all pairs): adjusted by step-down max-T over the pairs that were tested together. "
            "n at 80 % power: so many would tell two models apart in four of five samples, were "
            "the observed difference the true one."
        )
    odd = [pair for pair in pairs if pair.is_at_odds]
    if odd:
        labels = odd[0].cell.labels
        console.write(
            f"Interval and p give different answers for {len(odd)} of {len(pairs)} pairs, such as "
            f"{labels.model(odd[0].first)} and {labels.model(odd[0].second)}: the interval is an "
            "approximation that needs many patients or images, p holds for few too."
        )


def _p_text(p: float | None) -> str | None:
    """Write a p-value; none is 0."""
    return None if p is None else f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def _show_ranks(console: Console, entry: RankedCells) -> None:
    found = entry.ranking
    alike = [set(range(first, last + 1)) for first, last in found.groups]
    rows = [
        (
            name,
            f"{found.mean_ranks[place]:.2f}",
            ", ".join(
                found.models[other]
                for other in range(len(found.models))
                if other != place and any({place, other} <= group for group in alike)
            ),
        )
        for place, name in enumerate(found.models)
    ]
    title = (
        f"Average ranks over {len(entry.datasets)} data sets ({entry.title}): Friedman p = "
        f"{found.p_friedman:.3g}, Iman-Davenport p = {found.p_value:.3g}, critical difference "
        f"{found.critical_difference:.2f}"
    )
    console.table(("model", "mean rank", "not told apart from"), rows, title=title)


def _show_published(console: Console, records: Sequence[Record]) -> None:
    from medssl_models.experiments.command import released_table
    from medssl_models.experiments.released import compare_with_released

    from medssl_eval.errors import ResultsError

    found, refused = compare_with_released(records), _refusals(records)
    if not found:
        why = f": {refused[0]}" if refused else ""
        message = (
            "no record measures what the study released under the same conditions; --protocol "
            f"published sets them{why}"
        )
        raise ResultsError(message)
    table = released_table(found)
    console.table(table.columns, table.rows, title=table.title)
    console.write(
        "agrees: the difference is within both intervals together; higher, lower: yours is, beyond "
        "them; disputed: the study's number contradicts itself. A flag says why the study's number "
        "may not be repeatable."
    )
    console.document({"cells": [_published_document(entry) for entry in found], "refused": refused})
    for line in refused:
        console.say(f"note: {line}")
    phantoms = sum(bool(entry.record.details.get("synthetic")) for entry in found)
    if phantoms:
        console.say(
            f"note: {phantoms} of these records are of synthetic phantoms; they show that the "
            "commands work and say nothing about the study"
        )
    others = sum(entry.record.provenance.protocol != "published" for entry in found)
    if others:
        console.say(
            f"note: {others} of these records follow the corrected protocol; they differ from the "
            "study by intent: `medssl-eval protocol diff EXPERIMENT` lists how"
        )


def _refusals(records: Sequence[Record]) -> list[str]:
    """Say of each record that the study has a number for, but under other conditions, which."""
    from medssl_models.experiments.released import find_released

    found = []
    for record in records:
        differences = find_released(record).differences
        if differences:
            found.append(f"{record} is not compared: {'; '.join(differences)}")
    return list(dict.fromkeys(found))


def _published_document(entry: Agreement) -> dict[str, object]:
    return {
        "record": entry.record,
        "published": entry.number,
        "difference": entry.difference,
        "verdict": entry.verdict,
        "reason": entry.reason,
    }


def _draw(ranked: Sequence[RankedCells], plot: Path) -> None:
    from medssl_eval.errors import ResultsError

    if not ranked:
        message = (
            "nothing to draw: ranks need two models or more on five data sets or more, with equal "
            "settings"
        )
        raise ResultsError(message)
    from medssl_eval.report.drawing import rank_chart

    rank_chart([(entry.title, entry.ranking) for entry in ranked], plot)
