"""`medssl-saliency stats`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from medssl_models.console import (
    BatchNormOption,
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
)

from medssl_saliency.commands.shared import (
    DATA,
    OUTPUT,
    RESULTS,
    CropOption,
    FastOption,
    FidelityOption,
    ImagesArgument,
    LimitOption,
    MemoryOption,
    MethodOption,
    OccluderOption,
    OutputOption,
    ResizeOption,
    SkipOption,
    StrideOption,
    WindowOption,
    gather_settings,
    gather_subjects,
    keep,
    open_maps,
    open_viewers,
)

__all__ = ["stats"]

MasksOption = Annotated[
    Path | None,
    typer.Option("--masks", metavar="DIR", help="A mask for each picture, of the same name."),
]


def stats(
    model: ModelsOption,
    image: ImagesArgument = None,
    dataset: DatasetsOption = [],  # noqa: B006 # Typer copies it
    root: RootOption = DATA,
    limit: LimitOption = None,
    masks: MasksOption = None,
    protocol: ProtocolOption = "corrected",
    method: MethodOption = "occlusion",
    window: WindowOption = None,
    stride: StrideOption = None,
    fast: FastOption = False,
    fidelity: FidelityOption = None,
    occluder: OccluderOption = None,
    resize: ResizeOption = None,
    crop: CropOption = None,
    batchnorm: BatchNormOption = None,
    precision: PrecisionOption = "fp32",
    device: DeviceOption = "auto",
    memory: MemoryOption = 2.0,
    seed: SeedOption = 0,
    output: OutputOption = OUTPUT,
    results: ResultsOption = RESULTS,
    skip_unreadable: SkipOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure over many pictures how concentrated maps are and where their mass lies."""
    from medssl_saliency import survey
    from medssl_saliency.surveying import survey_all

    console = Console(json=json, quiet=quiet)
    settings = gather_settings(
        console,
        protocol,
        device=device,
        fast=fast,
        method=method,
        window=window,
        stride=stride,
        fidelity=fidelity,
        occluder=occluder,
        resize=resize,
        crop=crop,
        batchnorm=batchnorm,
        precision=precision,
        seed=seed,
    )
    subjects = gather_subjects(image, dataset, root=root, limit=limit, settings=settings)
    maps = open_maps(
        console,
        output,
        results,
        device=device,
        memory=memory,
        force=force,
        skip_unreadable=skip_unreadable,
    )
    viewers = open_viewers(model, settings)
    outcome = survey_all(viewers, subjects, maps=maps, masks=masks)
    keep(outcome.records, results, force=force)
    for alarm in outcome.alarms:
        console.warn(alarm)
    console.table(survey.COLUMNS, survey.rows(outcome.records))
    published = survey.published_rows(outcome.records)
    if published:
        console.table(survey.PUBLISHED_COLUMNS, published, title="The study: one picture a set")
    console.document({"statistics": outcome, "published": published, "results": results})
    console.say(f"plots are in {output}")
