"""The declarations of this package's experiments: entry points of the group `medssl.experiments`.

Each says all that the command line, `matrix`, `rank`, `protocol`, `compare` and `report` need; the
arithmetic is imported when it is run. Importing this module imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medssl_models.experiments.experiment import Experiment
from medssl_models.experiments.former.translation import Formerly
from medssl_models.experiments.released import Released

from medssl_dip.errors import SettingsError
from medssl_dip.experiments.tables import distance_tables, reconstruction_tables
from medssl_dip.images import check_names
from medssl_dip.perceptual.metrics import METRICS
from medssl_dip.settings import (
    DistanceOptions,
    DistanceSettings,
    ReconstructionOptions,
    ReconstructionSettings,
    complete,
    settings_for,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Record, RunContext
    from medssl_models.experiments.experiment import ImageFiles
    from medssl_models.experiments.released import ReleasedNumber

__all__ = ["DISTANCE", "RECONSTRUCTION"]

_FORMER_METRICS = {name.replace("_", "-"): name for name in METRICS}
_NO_CONDITION = {"labels", "restarts", "measure_every", "snapshot_every"}


# -------------------------------------------------------------------------------- reconstruction


def _reconstruct(
    backbone: Backbone,
    data: ImageDataset | ImageFiles,
    settings: ReconstructionSettings,
    context: RunContext,
) -> Iterable[Record]:
    from medssl_dip.experiments.reconstruct import run_reconstruction

    return run_reconstruction(backbone, data, settings, context)


def _conclude(
    _: object, __: ReconstructionSettings, context: RunContext, records: Sequence[Record]
) -> Iterable[Record]:
    from medssl_dip.experiments.reconstruct import conclude

    return conclude(context, records)


def _passes(_: ImageDataset, settings: ReconstructionSettings) -> int:
    """Each step runs forwards and backwards; the prior itself comes on top."""
    pictures = 1 if settings.pictures == "published" else max(len(settings.pictures), 1)
    return 3 * settings.steps * settings.restarts * pictures * len(settings.layer)


def _net(number: ReleasedNumber) -> str:
    net = number.setting.removeprefix("lpips ")
    return "lpips_average" if net == "mean of the three nets" else f"lpips_{net}"


def _as_the_study(number: ReleasedNumber) -> Mapping[str, object]:
    """List what decides a distance; only the number of restarts and the seed are free."""
    from medssl_data.catalog import published_pictures

    made = settings_for("published").of_record("layer4", "")
    conditions = {name: value for name, value in made.items() if name not in _NO_CONDITION}
    pictures = published_pictures(number.dataset)
    del conditions["picture"]
    return conditions | ({"picture": frozenset(pictures)} if pictures else {})


def _move_picture(record: dict[str, Any]) -> None:
    record["settings"]["picture"] = record.get("details", {}).get("picture", "")


RECONSTRUCTION = Experiment(
    name="reconstruction",
    title="reconstruction from features",
    summary="Reconstruct pictures from what layers of backbones say about them, and measure the "
    "rest.",
    settings=ReconstructionSettings,
    metrics=(METRICS["lpips_average"], *(METRICS[n] for n in METRICS if n != "lpips_average")),
    run=_reconstruct,
    check=check_names,
    across=_conclude,
    subject="images",
    command="reconstruct",
    examples=(
        "medssl-dip reconstruct scan.png -m moco-v2 --preset quick",
        "medssl-dip reconstruct scan.png -m moco-v2 -m byol --layer layer1,layer2,layer3,layer4",
        "medssl-dip reconstruct -d shenzhencxr --picture CHNCXR_0076_0.png -m swav "
        "--protocol published",
    ),
    options=ReconstructionOptions,
    output="reconstructions",
    complete=complete,
    control_sees_model_input=True,
    passes=_passes,
    place=21,
    label=lambda settings: ", ".join(
        str(settings[name]) for name in ("layer", "picture") if settings.get(name)
    ),
    per_dataset=frozenset({"picture"}),
    tables=reconstruction_tables,
    released=Released(("perceptual-distance",), _net, _as_the_study),
    alike={"I-38": "one picture stands for a data set unless picture names more"},
    formerly=Formerly(
        metrics=_FORMER_METRICS,
        fields={"scale": "preset"},
        added=("padding", "labels"),
        adapt=_move_picture,
    ),
)


# -------------------------------------------------------------------------------------- distance


def _measure(
    backbone: Backbone | None, data: ImageFiles, settings: DistanceSettings, context: RunContext
) -> Iterable[Record]:
    from medssl_dip.experiments.distance import run_distance

    return run_distance(backbone, data, settings, context)


def _compare_pixels(
    data: ImageFiles, settings: DistanceSettings, context: RunContext, records: Sequence[Record]
) -> Iterable[Record]:
    from medssl_dip.experiments.distance import compare_pixels

    return compare_pixels(data, settings, context, records)


def _need_two(data: ImageFiles, _: DistanceSettings) -> None:
    paths = getattr(data, "paths", ())
    if len(paths) != 2:
        message = f"two picture files are compared, the original first; got {len(paths)}"
        raise SettingsError(message)


DISTANCE = Experiment(
    name="distance",
    title="distance of two pictures",
    summary="Measure how far apart two pictures are: LPIPS, SSIM, PSNR, and in models' features.",
    settings=DistanceSettings,
    metrics=tuple(METRICS[name] for name in METRICS if name != "loss"),
    run=_measure,
    check=_need_two,
    across=_compare_pixels,
    subject="images",
    examples=(
        "medssl-dip distance scan.png other.png",
        "medssl-dip distance scan.png other.png -m moco-v2 --net none --side 224",
    ),
    options=DistanceOptions,
    controls=False,
    needs_model=False,
    place=22,
    label=lambda settings: f"{settings.get('first')} and {settings.get('second')}",
    tables=distance_tables,
)
