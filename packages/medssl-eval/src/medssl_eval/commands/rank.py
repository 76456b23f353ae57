"""`medssl-eval rank`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from medssl_models.console import (
    BatchSizeOption,
    Console,
    DeviceOption,
    JsonOption,
    LabelsOption,
    ModelsOption,
    PrecisionOption,
    QuietOption,
    RootOption,
    SeedOption,
    SkipUnreadableOption,
    SplitOption,
    WorkersOption,
)
from medssl_models.experiments.command import RESULTS, ROOT

if TYPE_CHECKING:
    from medssl_eval.rank.ranking import ModelRank, RankingResult
    from medssl_eval.rank.verdict import Verdict

__all__ = ["rank"]

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
SOURCES = {".npz": "medmnist", ".csv": "table"}

DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="A folder of class folders, a CSV or npz file, or a name as for -d."
    ),
]
BudgetOption = Annotated[
    str,
    typer.Option("--budget", metavar="TIME", help="Such as 90s, 10m or 2h; none measures all."),
]


def rank(
    data: DataArgument,
    model: ModelsOption = [],  # noqa: B006 # Typer copies it
    budget: BudgetOption = "10m",
    root: RootOption = ROOT,
    labels: LabelsOption = None,
    split: SplitOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    batch_size: BatchSizeOption = None,
    workers: WorkersOption = None,
    skip_unreadable: SkipUnreadableOption = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where records and report go.")
    ] = Path("medssl-rank"),
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Answer which backbone suits these images: all models here, ranked, with the reasons."""
    from medssl_data.opening import open_datasets
    from medssl_models.catalog import available_models
    from medssl_models.experiments.context import RunContext

    from medssl_eval.rank.ranking import Ranker
    from medssl_eval.rank.verdict import caveats_of, judge

    console = Console(json=json, quiet=quiet)
    seconds = _seconds(budget)
    (source,) = open_datasets([_named(data)], root=root, labels=labels, split=split, seed=seed)
    context = RunContext.of_command(
        console,
        results=output / RESULTS,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        skip_unreadable=skip_unreadable,
    )
    ranker = Ranker(source, model or available_models(), context, budget=seconds, seed=seed)
    result = ranker.run()
    verdict = judge(result, caveats_of(source))
    report = _report(output, verdict, console)
    _show(console, result, verdict)
    console.write(f"\nrecords: {output / RESULTS}" + (f"\nreport: {report}" if report else ""))
    console.document(_document(result, verdict, results=output / RESULTS, report=report))


def _named(data: str) -> str:
    """Read a path as the source that it is; names of data sets stay as they are."""
    path = Path(data).expanduser()
    if path.is_dir():
        return f"folder:{path}"
    prefix = SOURCES.get(path.suffix.lower()) if path.is_file() else None
    return f"{prefix}:{path}" if prefix else data


def _seconds(text: str) -> float | None:
    from medssl_eval.errors import SettingsError

    if text == "none":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None or float(found[1]) <= 0:
        message = f"--budget is {text!r}; give a time such as 90s, 10m or 2h, or none"
        raise SettingsError(message)
    return float(found[1]) * UNITS[found[2]]


def _report(output: Path, verdict: Verdict, console: Console) -> Path | None:
    """Write the page; the answer does not wait for it."""
    from dataclasses import replace

    from medssl_models.files import write_atomically

    from medssl_eval.errors import EvalError
    from medssl_eval.report import read_content, write_page

    path = output / "report.html"
    title = f"{verdict.best}: which backbone for these images"
    try:
        content = read_content([output / RESULTS], title=title)
        content = replace(
            content,
            verdict=verdict.sentences,
            warnings=(*verdict.caveats, *content.warnings),
        )
        write_atomically(path, write_page(content).encode())
    except (EvalError, ImportError) as error:
        console.warn(f"no report: {error}")
        return None
    return path


def _show(console: Console, result: RankingResult, verdict: Verdict) -> None:
    experiments = list(result.ranks[0].records)
    console.table(
        (
            *("model", "images", "mean rank", *experiments),
            *("against the best", "ms an image", "GFLOP", "million weights", "MB"),
        ),
        [_row(rank, result, verdict, experiments) for rank in result.ranks],
        title=f"Best first, after {result.seconds:.0f} s",
    )
    for sentence in verdict.sentences:
        console.write(sentence)
    for caveat in verdict.caveats:
        console.write(f"  but: {caveat}")


def _row(
    rank: ModelRank, result: RankingResult, verdict: Verdict, experiments: list[str]
) -> tuple[object, ...]:
    from medssl_models.experiments.cells import asked_of, interval

    cells = []
    for name in experiments:
        record = rank.records.get(name)
        if record is None:
            cells.append("")
            continue
        reach, asked = interval(record), f"n {asked_of(record)[0]}"
        cells.append(f"{record.value:.1f} ({'; '.join(filter(None, (reach, asked)))})")
    return (
        rank.model + (" (control)" if rank.control else ""),
        rank.images,
        f"{rank.mean_rank:.2f} of {rank.ranked}",
        *cells,
        _relation(rank, result, verdict),
        f"{rank.cost.milliseconds:.1f}",
        f"{rank.cost.operations:.1f}",
        f"{rank.cost.parameters / 1e6:.1f}",
        f"{rank.cost.memory:.0f}",
    )


def _relation(rank: ModelRank, result: RankingResult, verdict: Verdict) -> str:
    if rank.images < result.images:
        return f"skipped: {rank.dropped}"
    if rank.model == verdict.best:
        return "best"
    return "not told apart" if rank.model in verdict.alike else "worse"


def _document(
    result: RankingResult, verdict: Verdict, *, results: Path, report: Path | None
) -> dict[str, object]:
    return {
        "verdict": verdict,
        "ranks": [
            {
                "model": rank.model,
                "control": rank.control,
                "images": rank.images,
                "mean_rank": rank.mean_rank,
                "ranked": rank.ranked,
                "relation": _relation(rank, result, verdict),
                "cost": rank.cost,
                "seconds": rank.seconds,
                "records": rank.records,
            }
            for rank in result.ranks
        ],
        "pairs": [pair.as_dict() for pair in result.pairs],
        "level": result.level,
        "images": result.images,
        "total": result.total,
        "seconds": result.seconds,
        "results": results,
        "report": report,
    }
