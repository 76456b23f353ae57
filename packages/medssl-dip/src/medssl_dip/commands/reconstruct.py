"""`medssl-dip reconstruct`."""

from __future__ import annotations

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
    choice,
)

from medssl_dip.commands.shared import (
    DATA,
    OUTPUT,
    RESULTS,
    NetOption,
    SizeOption,
    create_models,
    gather_perceptual,
    keep,
    warn_of_slow_precision,
)
from medssl_dip.settings import PresetName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_models import Record

    from medssl_dip.images import ImageItem
    from medssl_dip.inversion.reconstruction import Reconstruction
    from medssl_dip.settings import ReconstructionSettings

__all__ = ["reconstruct"]

ImagesArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[IMAGE]...", help="Picture files; or name data sets with -d."),
]
PictureOption = Annotated[
    list[str],
    typer.Option("--picture", metavar="ID", help="Image of the data set; else its first one."),
]
LayerOption = Annotated[
    str | None,
    typer.Option(
        "--layer", metavar="NAME,...", help="Such as layer4, pooled or last; several are a sweep."
    ),
]
PresetOption = Annotated[
    PresetName,
    typer.Option("--preset", help="quick is small enough for a CPU.", **choice(PresetName)),
]
PatienceOption = Annotated[
    int | None,
    typer.Option(
        "--patience", min=0, help="Steps without progress before a stop; 0 never stops early."
    ),
]
ControlsOption = Annotated[
    bool,
    typer.Option(
        "--controls/--no-controls", help="The same networks with random weights, beside the models."
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume/--no-resume", help="Go on with what was cut off.")
]


def reconstruct(
    model: ModelsOption,
    image: ImagesArgument = None,
    dataset: DatasetsOption = [],  # noqa: B006 # Typer copies it
    picture: PictureOption = [],  # noqa: B006 # likewise
    root: RootOption = DATA,
    layer: LayerOption = None,
    protocol: ProtocolOption = "corrected",
    preset: PresetOption = "full",
    size: SizeOption = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Updates at most.")] = None,
    patience: PatienceOption = None,
    restarts: Annotated[
        int | None, typer.Option("--restarts", min=1, help="Runs from seeds that count upwards.")
    ] = None,
    net: NetOption = None,
    controls: ControlsOption = True,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Each run keeps a folder there.")
    ] = OUTPUT,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    batch_size: BatchSizeOption = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    resume: ResumeOption = True,
    results: ResultsOption = RESULTS,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Reconstruct pictures from what layers of backbones say about them, and measure the rest."""
    from medssl_models.experiments.models import check_models

    from medssl_dip.experiments.records import records_of
    from medssl_dip.feature_extractor import resolve_layer
    from medssl_dip.gallery.run_summary import summarise, table
    from medssl_dip.inversion.reconstruction import BATCH_SIZE, Work
    from medssl_dip.inversion.reconstruction import reconstruct as invert
    from medssl_dip.settings import settings_for

    console = Console(json=json, quiet=quiet)
    settings = settings_for(protocol, preset, size=size, steps=steps, restarts=restarts)
    if patience is not None:
        settings = settings.replace(patience=patience or None)
    layers = _layers(layer, settings)
    check_models(model)
    pictures = _read(image, dataset, picture, root=root, settings=settings)
    warn_of_slow_precision(console, precision, device)
    work = Work(
        device=device,
        precision=precision,
        batch_size=batch_size or BATCH_SIZE,
        compiled=compiled,
        resume=resume,
        force=force,
        perceptual=gather_perceptual(console, net, needed=False),
        progress=console.progress,
    )
    runs: list[Reconstruction] = []
    records: list[Record] = []
    for backbone in create_models(model, protocol=protocol, controls=controls):
        for name in layers:
            resolve_layer(backbone, name)
        for name in layers:
            chosen = settings.replace(layer=name)
            found = invert(backbone, pictures, settings=chosen, out=output, seed=seed, work=work)
            made = records_of(backbone, found, chosen)
            keep(made, results, force=force)
            runs, records = runs + found, records + made
    _tell_of_divergence(console, runs)
    console.table(*table(summarise(run.path for run in runs)))
    console.document({"records": records, "runs": [run.path for run in runs], "results": results})
    console.say(
        f"pictures, traces and curves are in {output}; draw them: medssl-dip gallery {output}"
    )


def _layers(text: str | None, settings: ReconstructionSettings) -> list[str]:
    parts = (text or settings.layer).split(",")
    return list(dict.fromkeys(part.strip() for part in parts if part.strip())) or [settings.layer]


def _read(
    files: Sequence[Path] | None,
    datasets: Sequence[str],
    names: Sequence[str],
    *,
    root: Path,
    settings: ReconstructionSettings,
) -> list[ImageItem]:
    from medssl_data import load_dataset

    from medssl_dip.errors import SettingsError
    from medssl_dip.images import from_dataset, from_files

    if names and not datasets:
        message = "--picture names an image of a data set; say which data set with -d"
        raise SettingsError(message)
    pictures = from_files(files or (), reading=settings.reading)
    for dataset in datasets:
        data = load_dataset(dataset, root=root, protocol=settings.protocol)
        pictures += from_dataset(data, names, reading=settings.reading)
    if not pictures:
        message = "nothing to reconstruct: give picture files, or a data set with -d"
        raise SettingsError(message)
    return pictures


def _tell_of_divergence(console: Console, runs: Sequence[Reconstruction]) -> None:
    """Warn of runs whose loss diverged; where none is left, there is no result."""
    from medssl_dip.errors import DivergedError

    diverged = [run for run in runs if run.stopped == "diverged"]
    for run in diverged:
        console.warn(f"{run.path.name} diverged; its picture of step {run.steps} is kept")
    if len(diverged) == len(runs):
        message = "every run diverged, so there is nothing to measure; try other steps or a seed"
        raise DivergedError(message)
