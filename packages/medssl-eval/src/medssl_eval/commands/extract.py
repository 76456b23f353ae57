"""`medssl-eval extract`."""

from __future__ import annotations

import dataclasses

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
    RootOption,
    SkipUnreadableOption,
    WorkersOption,
)
from medssl_models.experiments.command import ROOT

__all__ = ["extract"]


def extract(
    model: ModelsOption,
    dataset: DatasetsOption,
    root: RootOption = ROOT,
    protocol: ProtocolOption = "corrected",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    batch_size: BatchSizeOption = None,
    workers: WorkersOption = None,
    skip_unreadable: SkipUnreadableOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compute features and keep them; the experiments find them there."""
    from medssl_data.opening import open_datasets
    from medssl_models.experiments.context import RunContext

    from medssl_eval.experiments.extracting import extract_all

    console = Console(json=json, quiet=quiet)
    context = RunContext.of_command(
        console,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        skip_unreadable=skip_unreadable,
        force=force,
    )
    datasets = open_datasets(dataset, root=root, protocol=protocol)
    found = extract_all(model, datasets, protocol=protocol, context=context)
    console.table(
        ("model", "data set", "images", "dimension", "computed now", "unreadable", "key"),
        [
            (e.model, e.dataset, e.images, e.dimension, e.computed, len(e.unreadable), e.key[:12])
            for e in found
        ],
    )
    console.document({"features": [dataclasses.asdict(entry) for entry in found]})
