"""`medssl-eval knn`."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

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
    choice,
)

from medssl_eval.commands.shared import (
    DATA,
    RESULTS,
    OrderedOption,
    SelectOption,
    SkipOption,
    gather_means,
    show_metrics,
)

__all__ = ["knn"]

_Weighting = Literal["similarity", "equal"]


def knn(
    model: ModelsOption,
    dataset: DatasetsOption,
    root: RootOption = DATA,
    protocol: ProtocolOption = "corrected",
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="RULE",
            help="Ask the test part of a split instead of cross-validation: official, patient, "
            "published, or a CSV file with columns id and split.",
        ),
    ] = None,
    neighbours: Annotated[
        int | None,
        typer.Option(
            "--neighbours", "-k", min=1, help="How many images vote; else chosen by validation."
        ),
    ] = None,
    weighting: Annotated[
        _Weighting,
        typer.Option(
            "--weighting", help="What a vote weighs by, similarity or not.", **choice(_Weighting)
        ),
    ] = "similarity",
    folds: Annotated[
        int, typer.Option("--folds", min=2, help="Folds of the cross-validation.")
    ] = 5,
    select: SelectOption = "study",
    ordered: OrderedOption = False,
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
    """Let the most similar images vote on the class."""
    from medssl_eval.experiments.knn import foldable
    from medssl_eval.experiments.knn import knn as evaluate
    from medssl_eval.experiments.settings import KnnSettings, preset
    from medssl_eval.sweep import Sweep, open_datasets

    console = Console(json=json, quiet=quiet)
    settings = preset(
        KnnSettings,
        protocol,
        evaluation="folds" if split is None else "test_part",
        neighbours=neighbours,
        weighting=weighting,
        folds=folds,
        select=select,
        ordered=ordered or None,
        seed=seed,
    )
    means = gather_means(
        console,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        skip_unreadable=skip_unreadable,
        force=force,
    )
    sweep = Sweep(
        models=model,
        datasets=open_datasets(dataset, root=root, labels=settings.labels, split=split, seed=seed),
        results=results,
        networks="published" if settings.padding == "study" else "corrected",
        force=force,
        say=console.say,
        warn=console.warn,
    )
    records = sweep.run(
        lambda backbone, data, given: evaluate(backbone, data, settings=settings, means=given),
        check=partial(foldable, settings=settings),
        means=means,
    )
    show_metrics(console, records, results)
