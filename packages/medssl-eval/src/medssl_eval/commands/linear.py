"""`medssl-eval linear`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

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
)

from medssl_eval.commands.shared import (
    DATA,
    RESULTS,
    FractionsOption,
    LabelsOption,
    OrderedOption,
    SelectOption,
    SkipOption,
    SplitOption,
    gather_means,
    numbers,
    show_metrics,
)

__all__ = ["linear"]

StrengthsOption = Annotated[
    str | None,
    typer.Option(
        "--C", metavar="C,...", help="Strengths to choose from; else the study's 45 values."
    ),
]


def linear(
    model: ModelsOption,
    dataset: DatasetsOption,
    root: RootOption = DATA,
    protocol: ProtocolOption = "corrected",
    split: SplitOption = None,
    labels: LabelsOption = None,
    fractions: FractionsOption = "1",
    strengths: StrengthsOption = None,
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
    """Fit a linear classifier on the features of training images, and test it."""
    from medssl_eval.experiments.linear import linear as evaluate
    from medssl_eval.experiments.linear import separable
    from medssl_eval.experiments.settings import LinearSettings, preset
    from medssl_eval.sweep import Sweep, open_datasets

    console = Console(json=json, quiet=quiet)
    settings = preset(
        LinearSettings,
        protocol,
        strengths=None if strengths is None else numbers("--C", strengths),
        fractions=numbers("--fractions", fractions),
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
        datasets=open_datasets(
            dataset,
            root=root,
            labels=settings.labels,
            policy=labels,
            split=split,
            seed=seed,
            trains=True,
        ),
        results=results,
        networks="published" if settings.padding == "study" else "corrected",
        force=force,
        say=console.say,
        warn=console.warn,
    )
    records = sweep.run(
        lambda backbone, data, given: evaluate(backbone, data, settings=settings, means=given),
        check=partial(separable, settings=settings),
        means=means,
    )
    show_metrics(console, records, results)
