"""The two experiments as everybody else knows them: entry points of `medssl.experiments`.

Importing this module imports no torch.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from medssl_models.experiments.experiment import Experiment
from medssl_models.experiments.former.translation import Formerly
from medssl_models.experiments.released import Released
from medssl_models.experiments.settings import Option, published_value, setting
from pydantic import BaseModel

from medssl_invariance.experiments.metrics import METRICS
from medssl_invariance.experiments.settings import SyntheticSettings, ViewsSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from medssl_data import DatasetCard, ImageDataset
    from medssl_models import Backbone, Record
    from medssl_models.experiments.context import RunContext
    from medssl_models.experiments.experiment import Table
    from medssl_models.experiments.released import ReleasedNumber

__all__ = ["CURVE", "SYNTHETIC", "VIEWS", "CurveOptions"]


def _run_synthetic(
    backbone: Backbone, data: ImageDataset, settings: SyntheticSettings, context: RunContext
) -> Iterable[Record]:
    from medssl_invariance.experiments.synthetic import run_synthetic

    return run_synthetic(backbone, data, settings, context)


def _check_synthetic(data: ImageDataset, settings: SyntheticSettings) -> None:
    from medssl_invariance.experiments.synthetic import check_synthetic

    check_synthetic(data, settings)


def _count_views(data: ImageDataset, settings: SyntheticSettings) -> int:
    from medssl_invariance.experiments.synthetic import count_views

    return count_views(data, settings)


def _run_views(
    backbone: Backbone, data: ImageDataset, settings: ViewsSettings, context: RunContext
) -> Iterable[Record]:
    from medssl_invariance.experiments.views import run_views

    return run_views(backbone, data, settings, context)


def _check_views(data: ImageDataset, settings: ViewsSettings) -> None:
    from medssl_invariance.experiments.pairs import plan_pairs

    plan_pairs(data, settings)


def _rows_in_order(card: DatasetCard, settings: ViewsSettings) -> Mapping[str, str]:
    """Keep rows in the order of their owner's table where the study paired views by it."""
    by_order = settings.pairing == "published" and card.published_pairs == "alternate-rows"
    return {"split": "official"} if by_order else {}


def _tables(records: Sequence[Record]) -> Sequence[Table]:
    from medssl_invariance.figures.tables import tables

    return tables(records)


def _label(settings: Mapping[str, Any]) -> str:
    return str(settings["transform"])


_OF_QUANTITY = ("covariance", "covariance_from", "images")
_OF_FAMILIES = (*_OF_QUANTITY, "ranges", "applied", "border", "identity_in_mean")
_STUDY_NAMES = {"hflip": "h_flip", "multiview": "views"}


def _released(
    settings: type[SyntheticSettings | ViewsSettings], names: tuple[str, ...]
) -> Released:
    """Declare the study's numbers: its transform and k, and what makes the cosine what it is.

    Args:
        settings: Of the experiment.
        names: Settings that a record must have as the study had them.
    """

    def metric(number: ReleasedNumber) -> str:
        views = _transform(number) == "views"
        return "whitened_cosine" if views == (settings is ViewsSettings) else ""

    def conditions(number: ReleasedNumber) -> Mapping[str, object]:
        found = {name: published_value(settings.model_fields[name]) for name in names}
        found["transform"] = _transform(number)
        known = re.search(r"; k=(\d+)", number.setting)  # of hue nobody knows it
        return found if known is None else found | {"members": int(known[1])}

    return Released(experiments=("invariance",), metric=metric, conditions=conditions)


def _transform(number: ReleasedNumber) -> str:
    name = number.setting.partition(";")[0]
    return _STUDY_NAMES.get(name, name)


def _are_views(record: Mapping[str, Any]) -> bool:
    return bool(record["settings"].get("transform") == "views")


def _rename_baselines(record: dict[str, Any]) -> None:
    details = record.get("details", {})
    baselines = details.get("baselines", {})
    details["baselines"] = {kind.replace(" ", "_"): found for kind, found in baselines.items()}


_METRICS_OF_0_1 = {
    "whitened cosine": "whitened_cosine",
    "raw cosine": "raw_cosine",
    "Mahalanobis distance": "mahalanobis_distance",
    "raw retrieval": "raw_retrieval",
}
_TO_PUBLISHED = {"study": "published"}
_VALUES_OF_0_1 = {
    "ranges": {"honest": "corrected", **_TO_PUBLISHED},
    **dict.fromkeys(("normalisation", "padding", "labels", "pairing"), _TO_PUBLISHED),
}

_ALIKE = {
    "I-1": "both run BatchNorm in evaluation mode, as most released numbers were made; "
    "--batchnorm training repeats the rest",
}

SYNTHETIC = Experiment(
    name="invariance",
    command="synthetic",
    title="invariance to transforms",
    summary="Compare features of images with those of their transformed versions.",
    settings=SyntheticSettings,
    metrics=METRICS,
    run=_run_synthetic,
    check=_check_synthetic,
    examples=(
        "medssl-invariance synthetic -m moco-v2 -d shenzhencxr -t rotation -t gamma",
        "medssl-invariance synthetic -m random_r18 -d medmnist:pneumoniamnist.npz -t published "
        "--protocol published --k 16",
    ),
    passes=_count_views,
    place=31,
    label=_label,
    tables=_tables,
    released=_released(SyntheticSettings, _OF_FAMILIES),
    alike={
        **_ALIKE,
        "I-34": "deformations are seeded under both; what is deformed differs with ranges",
    },
    formerly=Formerly(
        metrics=_METRICS_OF_0_1,
        values=_VALUES_OF_0_1,
        applies=lambda record: not _are_views(record),
        adapt=_rename_baselines,
    ),
)
VIEWS = Experiment(
    name="views",
    title="invariance to the view of a patient",
    summary="Compare the two views of a patient: frontal and lateral, left and right.",
    settings=ViewsSettings,
    metrics=METRICS,
    run=_run_views,
    check=_check_views,
    examples=(
        "medssl-invariance views -m moco-v2 -d chexpert",
        "medssl-invariance views -m random_r50 -d table:pairs.csv --missing refuse",
    ),
    of_dataset=_rows_in_order,
    place=32,
    label=_label,
    tables=_tables,
    released=_released(ViewsSettings, _OF_QUANTITY),
    alike=_ALIKE,
    formerly=Formerly(
        experiment="invariance",
        metrics=_METRICS_OF_0_1,
        values=_VALUES_OF_0_1,
        applies=_are_views,
        adapt=_rename_baselines,
    ),
)


_METRIC_NAMES = tuple(metric.name for metric in METRICS)


class CurveOptions(BaseModel):
    """How curves are drawn."""

    metric: Literal[_METRIC_NAMES] = setting(  # type: ignore[valid-type] # as declared
        "What the pictures show.", corrected=_METRIC_NAMES[0], option=Option()
    )


def _draw_curves(
    data: ImageDataset,
    settings: SyntheticSettings,
    context: RunContext,
    records: Sequence[Record],
) -> Iterable[Record]:
    """Draw the curves of a data set into the context's output folder; no record comes of it."""
    del data, settings
    from medssl_invariance.figures.curves import write_curves

    if records and context.output is not None:
        options = context.options or CurveOptions()
        context.files.extend(write_curves(records, context.output, metric=options.metric))
    return ()


CURVE = replace(
    SYNTHETIC,
    command="curve",
    summary="Draw similarity against the parameter, and models against families.",
    output="invariance-curves",
    options=CurveOptions,
    across=_draw_curves,
    examples=(
        "medssl-invariance curve -m moco-v2 -m pirl -d shenzhencxr -t all -o curves",
        "medssl-invariance curve -m random_r18 -d phantom:chest-xray -t medical --images 20",
    ),
)
"""The experiment on transforms, with its pictures."""
