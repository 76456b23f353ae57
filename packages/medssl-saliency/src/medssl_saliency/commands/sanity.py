"""`medssl-saliency sanity`."""

from __future__ import annotations

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
    ImagesArgument,
    LimitOption,
    MemoryOption,
    MethodOption,
    OccluderOption,
    OutputOption,
    ResizeOption,
    SkipOption,
    WindowOption,
    gather_settings,
    gather_subjects,
    keep,
    open_maps,
    open_viewers,
)

__all__ = ["sanity"]

SanityStrideOption = Annotated[
    int, typer.Option("--stride", help="Distance of windows; a check makes a dozen maps.")
]
ControlsOption = Annotated[
    int, typer.Option("--controls", min=0, help="Untrained networks beside each model.")
]


def sanity(
    model: ModelsOption,
    image: ImagesArgument = None,
    dataset: DatasetsOption = [],  # noqa: B006 # Typer copies it
    root: RootOption = DATA,
    limit: LimitOption = None,
    controls: ControlsOption = 2,
    protocol: ProtocolOption = "corrected",
    method: MethodOption = "occlusion",
    window: WindowOption = None,
    stride: SanityStrideOption = 8,
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
    """Check that maps depend on what the network has learnt, beside untrained networks."""
    from medssl_saliency.checking import check_all
    from medssl_saliency.sanity import AREA_COLUMNS, SIMILARITY_COLUMNS, area_rows, similarity_rows

    console = Console(json=json, quiet=quiet)
    settings = gather_settings(
        console,
        protocol,
        device=device,
        method=method,
        window=window,
        stride=stride,
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
    outcome = check_all(open_viewers(model, settings), subjects, maps=maps, controls=controls)
    keep(outcome.records, results, force=force)
    console.table(SIMILARITY_COLUMNS, similarity_rows(outcome.records))
    console.table(AREA_COLUMNS, area_rows(outcome.records))
    for finding in outcome.findings:
        console.write(finding)
    console.document({"sanity": outcome, "results": results})
    console.say(f"pictures and tables are in {output / 'sanity'}")
