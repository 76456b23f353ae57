"""`medssl-eval matrix`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from medssl_models.console import Console, ForceOption, JsonOption, QuietOption, choice

if TYPE_CHECKING:
    from medssl_eval.matrix.estimate import Estimate
    from medssl_eval.matrix.executors import Executor
    from medssl_eval.matrix.plan import ExecutorPlan
    from medssl_eval.matrix.running import Matrix, PlannedCell

__all__ = ["matrix"]

_ExecutorName = Literal["local", "ray"]
PlanArgument = Annotated[
    Path, typer.Argument(metavar="PLAN.toml", help="Models, data sets, experiments and settings.")
]
ExecutorOption = Annotated[
    _ExecutorName,
    typer.Option(
        "--executor", help="Processes of this machine, or a Ray cluster.", **choice(_ExecutorName)
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT|auto",
        help="Of the Ray cluster (default: one is started here).",
    ),
]
ProcessesOption = Annotated[
    int | None,
    typer.Option("--processes", min=1, help="Cells at a time (default: the plan's). Local only."),
]


def matrix(
    plan: PlanArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done and how long it may take.")
    ] = False,
    skip_impossible: Annotated[
        bool,
        typer.Option("--skip-impossible", help="Leave out what a data set cannot carry."),
    ] = False,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    processes: ProcessesOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run all models on all data sets in all experiments of a plan; done cells are skipped."""
    from medssl_eval.matrix.plan import read_plan
    from medssl_eval.matrix.running import Matrix

    console = Console(json=json, quiet=quiet)
    read = read_plan(plan)
    chosen = _executor(executor, read.executor, address=address, processes=processes)
    work = Matrix(
        read,
        say=console.say,
        warn=console.warn,
        progress=console.progress,
        force=force,
        skip_impossible=skip_impossible,
    )
    if dry_run:
        _show_plan(console, work, chosen)
    else:
        _show_outcome(console, work.run(chosen), read.results)


def _executor(
    name: str, planned: ExecutorPlan, *, address: str | None, processes: int | None
) -> Executor:
    import os

    from medssl_eval.errors import SettingsError
    from medssl_eval.matrix.cluster import RayExecutor
    from medssl_eval.matrix.executors import LocalExecutor

    if name == "local":
        if address is not None:
            message = "--address is of a Ray cluster; say --executor ray too"
            raise SettingsError(message)
        most = max((os.cpu_count() or 1) // planned.cpus, 1)
        return LocalExecutor(processes or planned.processes or most, planned.retries)
    if processes is not None:
        message = "--processes is of the local executor; Ray knows its own CPUs"
        raise SettingsError(message)
    return RayExecutor(address, planned.cpus, planned.gpus, planned.retries, planned.shard)


def _show_plan(console: Console, work: Matrix, executor: Executor) -> None:
    from medssl_eval.matrix.estimate import estimate_cells, total_seconds

    cells = work.cells()
    estimates = estimate_cells(work, cells)
    console.table(
        ("model", "data set", "experiment", "images", "state", "features", "estimate", "basis"),
        [_plan_row(cell, one) for cell, one in zip(cells, estimates, strict=True)],
        title=f"{len(cells)} cells; nothing is run",
    )
    for cell in cells:
        if cell.state == "impossible":
            console.write(f"impossible: {cell.cell.name}: {cell.reason}")
    seconds = total_seconds(estimates, executor.workers)
    unknown = sum(one.experiment is None for one in estimates)
    console.write(
        f"{sum(cell.state == 'to do' for cell in cells)} cells to do, {executor.workers} at a "
        f"time: about {_time(seconds)}" + (f" and {unknown} of unknown time" if unknown else "")
    )
    console.document(
        {
            "cells": [
                {**_document(cell), "estimate": one}
                for cell, one in zip(cells, estimates, strict=True)
            ],
            "seconds": seconds,
            "unknown": unknown,
            "workers": executor.workers,
        }
    )


def _plan_row(planned: PlannedCell, estimate: Estimate) -> tuple[object, ...]:
    features = ("stored" if planned.cached else "to extract") if planned.features else "not used"
    known = estimate.features + (estimate.experiment or 0.0)
    text = _time(known) if planned.state == "to do" else ""
    if estimate.experiment is None:
        text = f"{text} + unknown" if known else "unknown"
    return (
        *(planned.cell.model, planned.cell.dataset.name, planned.cell.experiment),
        *(planned.images, planned.state, features, text, estimate.basis if text else ""),
    )


def _show_outcome(console: Console, cells: list[PlannedCell], results: Path) -> None:
    from medssl_eval.errors import UnfinishedError

    console.table(
        ("model", "data set", "experiment", "state", "records", "first of them", "seconds"),
        [_outcome_row(cell) for cell in cells],
    )
    failed = [cell for cell in cells if cell.state == "failed"]
    console.document(
        {
            "cells": [_document(cell) for cell in cells],
            "failed": [cell.cell.name for cell in failed],
            "results": results,
        }
    )
    console.say(f"records: {results}")
    if failed:
        named = "; ".join(f"{cell.cell.name}: {cell.reason}" for cell in failed)
        message = (
            f"{len(failed)} of {len(cells)} cells failed: {named}; the others are kept, the same "
            "command tries these again"
        )
        raise UnfinishedError(message)


def _outcome_row(planned: PlannedCell) -> tuple[object, ...]:
    from medssl_models.experiments.cells import interval

    first = planned.records[0] if planned.records else None
    text = ""
    if first is not None:
        reach = interval(first)
        text = f"{first.metric} {first.value:.4g}{' ' + first.unit if first.unit else ''}"
        text += f" ({reach})" if reach else ""
    return (
        *(planned.cell.model, planned.cell.dataset.name, planned.cell.experiment),
        *(planned.state, len(planned.records), text),
        None if planned.seconds is None else f"{planned.seconds:.1f}",
    )


def _document(planned: PlannedCell) -> dict[str, object]:
    return {
        "model": planned.cell.model,
        "dataset": planned.cell.dataset.name,
        "split": planned.cell.dataset.split,
        "experiment": planned.cell.experiment,
        "state": planned.state,
        "images": planned.images,
        "features": planned.features,
        "cached": planned.cached,
        "reason": planned.reason,
        "seconds": planned.seconds,
        "records": planned.records,
    }


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
