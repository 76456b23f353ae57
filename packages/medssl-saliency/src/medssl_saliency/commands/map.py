"""`medssl-saliency map`."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from medssl_saliency.mapping import Mapped

__all__ = ["map_"]


def map_(
    model: ModelsOption,
    image: ImagesArgument = None,
    dataset: DatasetsOption = [],  # noqa: B006 # Typer copies it
    root: RootOption = DATA,
    limit: LimitOption = None,
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
    """Draw what each model looks at in pictures, without labels."""
    from medssl_saliency import tables
    from medssl_saliency.pictures import draw_map, draw_panels

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
    everything: list[Mapped] = []
    for viewer in open_viewers(model, settings):
        for mapped in maps.each(viewer, subjects):
            draw_map(mapped)
            keep(tables.map_records(mapped), results, force=force)
            everything.append(mapped)
    panels = draw_panels(everything, maps)
    console.table(tables.MAP_COLUMNS, tables.map_rows(everything))
    console.document(
        {"maps": tables.map_documents(everything), "panels": panels, "results": results}
    )
    console.say(f"pictures are in {output}")
