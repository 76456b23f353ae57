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
    ModelsOption,
    PrecisionOption,
    QuietOption,
    RootOption,
    SeedOption,
    WorkersOption,
)

from medssl_eval.commands.shared import DATA, SkipOption, SplitOption, gather_means

if TYPE_CHECKING:
    from medssl_eval.rank.ranking import Outcome, Standing
    from medssl_eval.rank.verdict import Verdict

__all__ = ["rank"]

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
WORDS = {"few-shot": "few-shot", "linear": "linear", "knn": "k-NN"}
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
    root: RootOption = DATA,
    split: SplitOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    batch_size: BatchSizeOption = None,
    workers: WorkersOption = None,
    skip_unreadable: SkipOption = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where records and report go.")
    ] = Path("medssl-rank"),
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Answer which backbone suits these images: all models here, ranked, with the reasons."""
    from medssl_eval.rank.ranking import Contest, available_models
    from medssl_eval.rank.verdict import caveats_of, judge
    from medssl_eval.sweep import open_datasets

    console = Console(json=json, quiet=quiet)
    seconds = _seconds(budget)
    (source,) = open_datasets([_named(data)], root=root, labels="corrected", split=split, seed=seed)
    means = gather_means(
        console,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        skip_unreadable=skip_unreadable,
    )
    results = output / "results.jsonl"
    contest = Contest(
        data=source,
        models=list(dict.fromkeys(model)) or available_models(),
        means=means,
        budget=seconds,
        results=results,
        seed=seed,
        say=console.say,
    )
    outcome = contest.run()
    verdict = judge(outcome, caveats_of(source))
    report = _report(output, results, verdict, console)
    _show(console, outcome, verdict)
    console.write(f"\nrecords: {results}" + (f"\nreport: {report}" if report else ""))
    console.document(_document(outcome, verdict, results=results, report=report))


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


def _report(output: Path, results: Path, verdict: Verdict, console: Console) -> Path | None:
    """Write the page; the answer does not wait for it."""
    from dataclasses import replace

    from medssl_eval.errors import EvalError
    from medssl_eval.report import read_content, write_page
    from medssl_eval.saving import save_text

    try:
        content = read_content([results], title=f"{verdict.best}: which backbone for these images")
        content = replace(
            content,
            verdict=verdict.sentences,
            warnings=(*verdict.caveats, *content.warnings),
        )
        return save_text(output / "report.html", write_page(content))
    except (EvalError, ImportError) as error:
        console.warn(f"no report: {error}")
        return None


def _show(console: Console, outcome: Outcome, verdict: Verdict) -> None:
    probes = list(outcome.standings[0].records)
    console.table(
        (
            *("model", "images", "mean rank", *(WORDS[name] for name in probes)),
            *("against the best", "ms an image", "million weights", "MB"),
        ),
        [_row(standing, outcome, verdict, probes) for standing in outcome.standings],
        title=f"Best first, after {outcome.seconds:.0f} s",
    )
    for sentence in verdict.sentences:
        console.write(sentence)
    for caveat in verdict.caveats:
        console.write(f"  but: {caveat}")


def _row(
    standing: Standing, outcome: Outcome, verdict: Verdict, probes: list[str]
) -> tuple[object, ...]:
    from medssl_eval.compare.tables import interval

    cells = []
    for name in probes:
        record = standing.records.get(name)
        reach = interval(record) if record is not None else ""
        text = "" if record is None else f"{record.value:.1f}"
        cells.append(f"{text} ({reach})" if reach else text)
    return (
        standing.model + (" (control)" if standing.control else ""),
        standing.images,
        f"{standing.mean_rank:.2f} of {standing.ranked}",
        *cells,
        _relation(standing, outcome, verdict),
        f"{standing.cost.milliseconds:.1f}",
        f"{standing.cost.parameters / 1e6:.1f}",
        f"{standing.cost.memory:.0f}",
    )


def _relation(standing: Standing, outcome: Outcome, verdict: Verdict) -> str:
    if standing.images < outcome.images:
        return f"skipped: {standing.dropped}"
    if standing.model == verdict.best:
        return "best"
    return "not told apart" if standing.model in verdict.alike else "worse"


def _document(
    outcome: Outcome, verdict: Verdict, *, results: Path, report: Path | None
) -> dict[str, object]:
    return {
        "verdict": verdict,
        "standings": [
            {
                "model": standing.model,
                "control": standing.control,
                "images": standing.images,
                "mean_rank": standing.mean_rank,
                "ranked": standing.ranked,
                "relation": _relation(standing, outcome, verdict),
                "cost": standing.cost,
                "seconds": standing.seconds,
                "records": standing.records,
            }
            for standing in outcome.standings
        ],
        "pairs": [pair.as_dict() for pair in outcome.pairs],
        "images": outcome.images,
        "total": outcome.total,
        "seconds": outcome.seconds,
        "results": results,
        "report": report,
    }
