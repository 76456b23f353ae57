"""What the commands share: options, and how models, pictures and maps are made from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from medssl_models.console import Console, choice

from medssl_saliency.choices import MapMethod, Occluder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medssl_models import Record

    from medssl_saliency.mapping import Maps, Viewer
    from medssl_saliency.protocols import MapSettings
    from medssl_saliency.subjects import Subject

__all__ = [
    "DATA",
    "OUTPUT",
    "RESULTS",
    "CropOption",
    "FastOption",
    "FidelityOption",
    "ImagesArgument",
    "LimitOption",
    "MemoryOption",
    "MethodOption",
    "OccluderOption",
    "OutputOption",
    "ResizeOption",
    "SkipOption",
    "StrideOption",
    "WindowOption",
    "gather_settings",
    "gather_subjects",
    "keep",
    "open_maps",
    "open_viewers",
]

DATA, OUTPUT, RESULTS = Path("data"), Path("saliency"), Path("results.jsonl")
GIB = 2**30
LEAVE_OUT = ("stride", "fidelity")

ImagesArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[IMAGE]...", help="Picture files; or name data sets with -d."),
]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Pictures of a data set, drawn evenly over its classes."),
]
OutputOption = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Maps and pictures go here.")
]
MethodOption = Annotated[
    MapMethod,
    typer.Option("--method", help="Occlusion, or through captum another.", **choice(MapMethod)),
]
WindowOption = Annotated[
    int | None, typer.Option("--window", help="Side of the window in pixels; else 10.")
]
StrideOption = Annotated[
    int | None,
    typer.Option("--stride", help="Distance of windows; above 1 the map is near-exact."),
]
FastOption = Annotated[
    bool,
    typer.Option("--fast", help="Near-exact, as --fidelity 0.995; in bf16 where that is native."),
]
FidelityOption = Annotated[
    float | None,
    typer.Option(
        "--fidelity",
        metavar="R",
        help="Near-exact: as few windows as the map needs to correlate so with the exact one.",
    ),
]
OccluderOption = Annotated[
    Occluder | None,
    typer.Option("--occluder", help="What a window shows.", **choice(Occluder)),
]
ResizeOption = Annotated[
    int | None, typer.Option("--resize", min=1, help="Short side; else the model's own.")
]
CropOption = Annotated[
    int | None, typer.Option("--crop", min=1, help="Side of the crop; else the model's own.")
]
MemoryOption = Annotated[
    float,
    typer.Option("--memory", min=0.0, metavar="GIB", help="For feature maps; bounds the batch."),
]
SkipOption = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave unreadable pictures out, with a warning.")
]


def gather_settings(
    console: Console,
    protocol: Literal["published", "corrected"],
    *,
    device: Literal["auto", "cpu", "cuda", "mps"],
    fast: bool = False,
    **changes: object,
) -> MapSettings:
    """Make the settings of a command from its options; an option that is None changes nothing.

    bf16 is asked for by `--fast` and `--precision bf16`; where it would be emulated, and so be
    slower than fp32, the settings say fp32 and the user is told.

    Raises:
        SettingsError: Options contradict each other, or a value is not allowed.
    """
    from medssl_models.features.runtime import multiplies_in_bf16, resolve_device

    from medssl_saliency.errors import SettingsError
    from medssl_saliency.protocols import FAST_FIDELITY, preset

    ways = {"--fast": fast or None} | {f"--{name}": changes.get(name) for name in LEAVE_OUT}
    given = [option for option, value in ways.items() if value is not None]
    if len(given) > 1:
        message = f"{' and '.join(given)} leave out windows, each in its way: give one of them"
        raise SettingsError(message)
    if fast:
        changes = {**changes, "fidelity": FAST_FIDELITY, "precision": "bf16"}
    if changes.get("precision") == "bf16" and not multiplies_in_bf16(resolve_device(device)):
        changes["precision"] = "fp32"
        console.say("this processor has no bf16 arithmetic and would only emulate it: fp32 instead")
    return preset(protocol, **changes)


def gather_subjects(
    images: Sequence[Path] | None,
    datasets: Sequence[str],
    *,
    root: Path,
    limit: int | None,
    settings: MapSettings,
) -> list[Subject]:
    """Name the pictures of a command; none is opened.

    Raises:
        SettingsError: There are none.
    """
    from medssl_data import load_dataset

    from medssl_saliency.errors import SettingsError
    from medssl_saliency.subjects import from_dataset, from_files

    subjects = from_files(images or [])
    for name in datasets:
        data = load_dataset(name, root=root, protocol=settings.protocol)
        subjects += from_dataset(data, limit=limit, seed=settings.seed)
    if not subjects:
        message = "no picture: name files, or data sets with -d"
        raise SettingsError(message)
    return subjects


def open_maps(
    console: Console,
    output: Path,
    results: Path,
    *,
    device: Literal["auto", "cpu", "cuda", "mps"],
    memory: float,
    force: bool,
    skip_unreadable: bool = False,
) -> Maps:
    """Open the folder of maps that a command works in, when all folders can be written."""
    from medssl_data.files import check_writable
    from medssl_models.features.runtime import resolve_device

    from medssl_saliency.mapping import Maps, Voice

    check_writable(output, option="--output")
    check_writable(results.parent, option="--results")

    return Maps(
        output,
        device=resolve_device(device),
        memory=int(memory * GIB),
        force=force,
        skip_unreadable=skip_unreadable,
        voice=Voice(console.say, console.warn, console.progress),
    )


def open_viewers(names: Sequence[str], settings: MapSettings) -> Iterator[Viewer]:
    """Create the models one after the other, when all names are known to be right."""
    from medssl_models import create_model
    from medssl_models.experiments.models import check_models

    from medssl_saliency.mapping import Viewer

    check_models(names)
    for name in dict.fromkeys(names):
        yield Viewer(create_model(name, protocol=settings.protocol), settings)


def keep(records: Sequence[Record], results: Path, *, force: bool) -> None:
    """Append records that the file does not hold yet; with `force` all of them."""
    from medssl_models import append_records, read_records

    known = set()
    if results.exists() and not force:
        known = {record.key for record in read_records(results)}
    append_records(results, [record for record in records if record.key not in known])
