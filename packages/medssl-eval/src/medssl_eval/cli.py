"""The command line of medssl-eval: parse, call the library, show what came back."""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from medssl_models.console import (
    BatchSizeOption,
    Console,
    DatasetsOption,
    DeviceOption,
    ForceOption,
    JsonOption,
    ModelsOption,
    PrecisionOption,
    ProtocolOption,
    QuietOption,
    ResultsOption,
    RootOption,
    SeedOption,
    WorkersOption,
    create_app,
    examples,
    run,
)

if TYPE_CHECKING:
    from medssl_models import Record

    from medssl_eval.features import Means

__all__ = ["app", "main"]

RESULTS, DATA = Path("results.jsonl"), Path("data")
SHOW = ("few-shot -m random_r18 -m random_r50 -d folder:scans --shots 1,5,20", "demo")

app = create_app(
    "medssl-eval",
    "How well pretrained backbones separate the classes of your images.",
    epilog=examples(*(f"medssl-eval {line}" for line in SHOW)),
)
protocol_app = typer.Typer(
    no_args_is_help=True, help="The settings of an experiment: the study's, and the corrected ones."
)
app.add_typer(protocol_app, name="protocol")

SkipOption = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave unreadable images out, and record it.")
]
ShotsOption = Annotated[
    str,
    typer.Option("--shots", metavar="K,...", help="Support images of a class; several at once."),
]
WaysOption = Annotated[
    str | None,
    typer.Option("--ways", metavar="N|all", help="Classes in an episode; else the protocol's."),
]
ExperimentArgument = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Such as few-shot.")]


@app.command(
    epilog=examples("medssl-eval extract -m random_r18 -d folder:scans --precision bf16"),
)
def extract(
    model: ModelsOption,
    dataset: DatasetsOption,
    root: RootOption = DATA,
    protocol: ProtocolOption = "corrected",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    batch_size: BatchSizeOption = None,
    workers: WorkersOption = None,
    skip_unreadable: SkipOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compute features and keep them; the experiments find them there."""
    from medssl_eval.extracting import extract_all
    from medssl_eval.matrix import open_datasets
    from medssl_eval.protocols import KnnSettings, preset

    console = Console(json=json, quiet=quiet)
    means = _means(
        console,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        skip_unreadable=skip_unreadable,
        force=force,
    )
    datasets = open_datasets(dataset, root=root, labels=preset(KnnSettings, protocol).labels)
    found = extract_all(model, datasets, protocol=protocol, means=means)
    console.table(
        ("model", "data set", "images", "dimension", "computed now", "unreadable", "key"),
        [
            (e.model, e.dataset, e.images, e.dimension, e.computed, len(e.unreadable), e.key[:12])
            for e in found
        ],
    )
    console.document({"features": [dataclasses.asdict(entry) for entry in found]})


@app.command(
    epilog=examples(
        "medssl-eval few-shot -m moco-v2 -m random_r50 -d shenzhencxr --shots 1,5,20",
        "medssl-eval few-shot -m random_r18 -d medmnist:pneumoniamnist.npz --protocol published",
    ),
)
def few_shot(
    model: ModelsOption,
    dataset: DatasetsOption,
    root: RootOption = DATA,
    protocol: ProtocolOption = "corrected",
    shots: ShotsOption = "20",
    ways: WaysOption = None,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Query images of a class.")] = 15,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="How many episodes.")] = 600,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    batch_size: BatchSizeOption = None,
    workers: WorkersOption = None,
    skip_unreadable: SkipOption = False,
    results: ResultsOption = RESULTS,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Classify by prototypes of a few images each, over many episodes."""
    from medssl_eval.few_shot import feasible
    from medssl_eval.few_shot import few_shot as evaluate
    from medssl_eval.matrix import Matrix, open_datasets
    from medssl_eval.protocols import FewShotSettings, preset

    console = Console(json=json, quiet=quiet)
    settings = preset(
        FewShotSettings,
        protocol,
        shots=_numbers("--shots", shots),
        ways=None if ways is None else _ways(ways),
        queries=queries,
        episodes=episodes,
        seed=seed,
    )
    means = _means(
        console,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        skip_unreadable=skip_unreadable,
        force=force,
    )
    matrix = Matrix(
        models=model,
        datasets=open_datasets(dataset, root=root, labels=settings.labels),
        results=results,
        networks="published" if settings.padding == "study" else "corrected",
        force=force,
        say=console.say,
        warn=console.warn,
    )
    records = matrix.run(
        lambda backbone, data, given: evaluate(backbone, data, settings=settings, means=given),
        check=partial(feasible, settings=settings),
        means=means,
    )
    _show(console, records, results)


@app.command(epilog=examples("medssl-eval knn -m random_r18 -d folder:scans --neighbours 5"))
def knn(
    model: ModelsOption,
    dataset: DatasetsOption,
    root: RootOption = DATA,
    protocol: ProtocolOption = "corrected",
    neighbours: Annotated[
        int, typer.Option("--neighbours", "-k", min=1, help="How many images vote.")
    ] = 20,
    folds: Annotated[
        int, typer.Option("--folds", min=2, help="Folds of the cross-validation.")
    ] = 5,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    batch_size: BatchSizeOption = None,
    workers: WorkersOption = None,
    skip_unreadable: SkipOption = False,
    results: ResultsOption = RESULTS,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Let the most similar images vote on the class, in cross-validation."""
    from medssl_eval.knn import foldable
    from medssl_eval.knn import knn as evaluate
    from medssl_eval.matrix import Matrix, open_datasets
    from medssl_eval.protocols import KnnSettings, preset

    console = Console(json=json, quiet=quiet)
    settings = preset(KnnSettings, protocol, neighbours=neighbours, folds=folds, seed=seed)
    means = _means(
        console,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        skip_unreadable=skip_unreadable,
        force=force,
    )
    matrix = Matrix(
        models=model,
        datasets=open_datasets(dataset, root=root, labels=settings.labels),
        results=results,
        networks="published" if settings.padding == "study" else "corrected",
        force=force,
        say=console.say,
        warn=console.warn,
    )
    records = matrix.run(
        lambda backbone, data, given: evaluate(backbone, data, settings=settings, means=given),
        check=partial(foldable, settings=settings),
        means=means,
    )
    _show(console, records, results)


@app.command(epilog=examples("medssl-eval demo", "medssl-eval demo --output somewhere --seed 1"))
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where pictures and results go.")
    ] = Path("medssl-demo"),
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Try everything without a download: three untrained controls on synthetic radiographs."""
    from medssl_eval.demo import run_demo

    console = Console(json=json, quiet=quiet)
    means = _means(console, device=device, force=force)
    outcome = run_demo(output, seed=seed, force=force, means=means, say=console.say)
    _show(console, outcome.records, outcome.results)
    for path in (outcome.chart, outcome.sheet, outcome.results):
        console.write(str(path))


@protocol_app.command("show", epilog=examples("medssl-eval protocol show few-shot"))
def protocol_show(
    experiment: ExperimentArgument,
    protocol: ProtocolOption = "corrected",
    json: JsonOption = False,
) -> None:
    """Show the settings of an experiment, and what each decides."""
    from medssl_eval.protocols import describe

    console = Console(json=json)
    fields = describe(experiment, protocol)
    console.table(
        ("setting", "value", "what it decides"), fields, title=f"{experiment}, {protocol}"
    )
    console.document(
        {"experiment": experiment, "protocol": protocol, "settings": [
            {"setting": name, "value": value, "why": why} for name, value, why in fields
        ]}
    )  # fmt: skip


@protocol_app.command("diff", epilog=examples("medssl-eval protocol diff few-shot"))
def protocol_diff(experiment: ExperimentArgument, json: JsonOption = False) -> None:
    """Show where the study's way and the corrected one differ, and why."""
    from medssl_eval.protocols import differences

    console = Console(json=json)
    found = differences(experiment)
    console.table(
        ("setting", "published", "corrected", "quirks", "why"),
        [(d.field, d.published, d.corrected, " ".join(d.entries), d.why) for d in found],
        title=f"{experiment}: published against corrected",
    )
    console.document({"experiment": experiment, "differences": [vars(d) for d in found]})


def _means(console: Console, **extraction: object) -> Means:
    """Gather what the extraction may use from a command's options."""
    from medssl_models import ExtractionSettings, FeatureStore

    from medssl_eval import features

    settings = ExtractionSettings.model_validate(extraction)
    return features.Means(extraction=settings, store=FeatureStore(), progress=console.progress)


def _show(console: Console, records: list[Record], results: Path) -> None:
    from medssl_eval import tables

    ordered = tables.best_first(records)
    console.table(tables.COLUMNS, tables.rows(records))
    console.document({"records": ordered, "results": str(results)})
    for note in dict.fromkeys(note for record in ordered for note in record.notes):
        console.say(f"note: {note}")


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """Read `1,5,20`; what is no number above 0 is refused."""
    from medssl_eval.errors import SettingsError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        message = f"{option} is {text!r}; give numbers above 0 with commas between, such as 1,5,20"
        raise SettingsError(message)
    return tuple(dict.fromkeys(int(part) for part in parts))


def _ways(text: str) -> int | str:
    from medssl_eval.errors import SettingsError

    if text in {"all", "study"}:
        return text
    if not text.isdecimal() or int(text) < 2:
        message = f"--ways is {text!r}; give a number from 2 on, all, or study"
        raise SettingsError(message)
    return int(text)


def main() -> None:
    """Run the command line; the entry point of the distribution."""
    sys.exit(run(app))


if __name__ == "__main__":
    main()
