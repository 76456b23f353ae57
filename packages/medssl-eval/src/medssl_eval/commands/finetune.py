"""`medssl-eval finetune`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from medssl_models.console import (
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

__all__ = ["finetune"]

BatchOption = Annotated[
    int, typer.Option("--train-batch-size", min=1, help="Images of a training step.")
]
RateOption = Annotated[float, typer.Option("--learning-rate", "--lr", help="At the first step.")]
SideOption = Annotated[
    int | None,
    typer.Option("--side", min=16, max=2048, help="Side of the images; else the model's own."),
]
OutputOption = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="DIR", help="Keeps each run: checkpoint, curves and model."
    ),
]


def finetune(
    model: ModelsOption,
    dataset: DatasetsOption,
    root: RootOption = DATA,
    protocol: ProtocolOption = "corrected",
    split: SplitOption = None,
    labels: LabelsOption = None,
    fractions: FractionsOption = "1",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps at most.")] = 5000,
    batch_size: BatchOption = 64,
    learning_rate: RateOption = 0.01,
    weight_decay: Annotated[float, typer.Option("--weight-decay", min=0)] = 1e-8,
    search: Annotated[
        bool, typer.Option("--search", help="Choose rate and decay among six on validation.")
    ] = False,
    early_stopping: Annotated[
        bool,
        typer.Option(
            "--early-stopping/--all-steps", help="Stop on validation, or train on it too."
        ),
    ] = True,
    validate_every: Annotated[
        int, typer.Option("--validate-every", min=1, help="Steps between validations.")
    ] = 200,
    side: SideOption = None,
    smallest_crop: Annotated[
        float, typer.Option("--smallest-crop", help="Least share of an image in random crops.")
    ] = 0.08,
    flip: Annotated[bool, typer.Option("--flip/--no-flip", help="Mirror half of them.")] = True,
    select: SelectOption = "study",
    ordered: OrderedOption = False,
    checkpoint_every: Annotated[
        int, typer.Option("--checkpoint-every", min=1, help="Steps between checkpoints.")
    ] = 200,
    output: OutputOption = Path("finetuned"),
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    workers: WorkersOption = None,
    skip_unreadable: SkipOption = False,
    results: ResultsOption = RESULTS,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train the whole network on the training images, and test it; a run goes on where it was."""
    from medssl_eval.experiments.finetune import Keep, trainable
    from medssl_eval.experiments.finetune import finetune as evaluate
    from medssl_eval.experiments.settings import FinetuneSettings, preset
    from medssl_eval.sweep import Sweep, open_datasets

    console = Console(json=json, quiet=quiet)
    settings = preset(
        FinetuneSettings,
        protocol,
        fractions=numbers("--fractions", fractions),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        search=search,
        early_stopping=early_stopping,
        validate_every=validate_every,
        side=side,
        smallest_crop=smallest_crop,
        flip=flip,
        select=select,
        ordered=ordered or None,
        seed=seed,
    )
    means = gather_means(
        console,
        device=device,
        precision=precision,
        workers=workers,
        skip_unreadable=skip_unreadable,
        force=force,
    )
    keep = Keep(output, every=checkpoint_every, say=console.say)
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
        lambda backbone, data, given: evaluate(
            backbone, data, settings=settings, means=given, keep=keep
        ),
        check=partial(trainable, settings=settings),
        means=means,
    )
    show_metrics(console, records, results)
