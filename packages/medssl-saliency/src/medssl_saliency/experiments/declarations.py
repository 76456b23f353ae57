"""The declarations of this package's experiments: entry points of the group `medssl.experiments`.

Each says all that the command line, `matrix`, `rank`, `protocol`, `compare` and `report` need; the
arithmetic is imported when it is run. Importing this module imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medssl_models.experiments.experiment import Experiment, later
from medssl_models.experiments.former.translation import Formerly
from medssl_models.experiments.metric import Metric
from medssl_models.experiments.released import Released
from medssl_models.experiments.settings import make_settings

from medssl_saliency.experiments import tables
from medssl_saliency.experiments.settings import (
    MapOptions,
    SanitySettings,
    StatsOptions,
    StatsSettings,
)
from medssl_saliency.images import image_name
from medssl_saliency.maps.settings import PicturesSettings, expand_fast, fit_device

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medssl_models.experiments.released import ReleasedNumber

__all__ = ["MAP", "SANITY", "STATS"]


# ---------------------------------------------------------------------------------------- metrics

DIFFUSION = "attentive_diffusion"
_OF_A_MAP = (
    Metric(DIFFUSION, "attentive diffusion", "neither", "%", bounds=(0, 100)),
    Metric("gini", "Gini coefficient", "neither", bounds=(0, 1)),
    Metric("entropy", "entropy", "neither", bounds=(0, 1)),
    Metric("centre_of_mass_row", "centre of mass, row", "neither", bounds=(0, 1)),
    Metric("centre_of_mass_column", "centre of mass, column", "neither", bounds=(0, 1)),
    Metric("border_mass", "mass at the border", "lower", bounds=(0, 1)),
    Metric("corner_mass", "mass in the corners", "lower", bounds=(0, 1)),
)
_OF_A_MASK = (
    Metric("mask_mass", "mass in the mask", "higher", bounds=(0, 1)),
    Metric("mask_rank_accuracy", "rank accuracy in the mask", "higher", bounds=(0, 1)),
    Metric("pointing_game", "pointing game", "higher", bounds=(0, 1)),
)


def _of_two_maps(word: str) -> tuple[Metric, ...]:
    return (
        Metric(f"{word}_pearson", f"{word}, Pearson", "neither", bounds=(-1, 1)),
        Metric(f"{word}_spearman", f"{word}, Spearman", "neither", bounds=(-1, 1)),
        Metric(f"{word}_overlap", f"{word}, top tenth", "neither", chance=0.1, bounds=(0, 1)),
    )


_FORMER_METRICS = {
    "attentive diffusion": DIFFUSION,
    "centre of mass, row": "centre_of_mass_row",
    "centre of mass, column": "centre_of_mass_column",
    "border mass": "border_mass",
    "corner mass": "corner_mass",
    "mask mass": "mask_mass",
    "mask rank accuracy": "mask_rank_accuracy",
    "pointing game": "pointing_game",
    **{
        f"{word}, {measure}": f"{word}_{measure}"
        for word in ("agreement", "similarity")
        for measure in ("pearson", "spearman", "overlap")
    },
    "deletion area": "deletion_area",
    "insertion area": "insertion_area",
}
_ALIKE = {
    "I-1": "BatchNorm is in eval mode under both, as when the released maps were made; batchnorm "
    "training repeats what the study's newest code does",
}
_FORMER_VALUES = {"normalisation": {"study": "published"}}


def _adapt_means(record: dict[str, Any]) -> None:
    """Tell of means over pictures, as today's records do, how many they were."""
    record["settings"].setdefault("pictures", record.get("n"))
    details = record.get("details", {})
    if "by_area" in details:
        details["chance"] = details.pop("by_area")


def _label(settings: Mapping[str, Any]) -> str:
    words = ("method", "picture", "other", "test", "randomised", "order")
    return ", ".join(str(settings[name]) for name in words if settings.get(name))


# ------------------------------------------------------------------------------------ experiments


def _as_the_study(number: ReleasedNumber) -> Mapping[str, object]:
    """List what shapes a map: a record with another value is not held against the number."""
    from medssl_data.catalog import published_pictures

    settings = make_settings(PicturesSettings, "published", {})
    conditions = {**settings.of_the_map(), "padding": settings.padding}
    pictures = published_pictures(number.dataset)
    named = {"picture": frozenset(map(image_name, pictures))} if pictures else {}
    return {name: value for name, value in conditions.items() if name != "seed"} | named


MAP = Experiment(
    name="saliency-map",
    title="saliency maps",
    summary="Draw what each model looks at in pictures, without labels.",
    settings=PicturesSettings,
    metrics=_OF_A_MAP,
    run=later("medssl_saliency.experiments.map:run_map"),
    check=later("medssl_saliency.images:items_of"),
    across=later("medssl_saliency.experiments.map:draw_all_models"),
    subject="images",
    command="map",
    examples=(
        "medssl-saliency map scan.png -m random_r18 -m random_d121",
        "medssl-saliency map scan.png -m random_r50 --fast --occluder blur",
        "medssl-saliency map -d folder:scans --limit 5 -m random_r18 --protocol published",
        "medssl-saliency map scan.png -m random_r18 --method grad-cam",
    ),
    options=MapOptions,
    output="saliency",
    complete=expand_fast,
    on_device=fit_device,
    controls=False,  # a map takes minutes
    place=11,
    label=_label,
    per_dataset=frozenset({"picture"}),
    tables=tables.map_tables,
    released=Released(("attentive-diffusion",), lambda _: DIFFUSION, _as_the_study),
    alike=_ALIKE,
    formerly=Formerly(
        experiment="saliency",
        metrics=_FORMER_METRICS,
        values=_FORMER_VALUES,
        added=("padding", "labels"),
    ),
)


STATS = Experiment(
    name="saliency-stats",
    title="statistics of saliency maps",
    summary="Measure over many pictures how concentrated maps are and where their mass lies.",
    settings=StatsSettings,
    metrics=(*_OF_A_MAP, *_OF_A_MASK, *_of_two_maps("agreement")),
    run=later("medssl_saliency.experiments.stats:run_stats"),
    check=later("medssl_saliency.images:items_of"),
    across=later("medssl_saliency.experiments.stats:compare_models"),
    subject="images",
    command="stats",
    examples=(
        "medssl-saliency stats -d folder:scans --limit 20 -m random_r18 -m random_r50 --fast",
        "medssl-saliency stats -d shenzhencxr --limit 50 -m moco-v2 --masks lungs --fast",
    ),
    options=StatsOptions,
    output="saliency",
    complete=expand_fast,
    on_device=fit_device,
    controls=False,
    place=12,
    label=_label,
    per_dataset=frozenset({"pictures"}),
    tables=tables.stats_tables,
    findings=tables.alarms,
    alike=_ALIKE,
    formerly=Formerly(
        metrics=_FORMER_METRICS,
        values=_FORMER_VALUES,
        added=("padding", "labels"),
        adapt=_adapt_means,
    ),
)


SANITY = Experiment(
    name="saliency-sanity",
    title="sanity checks of saliency maps",
    summary="Check that maps depend on what the network has learnt, beside untrained networks.",
    settings=SanitySettings,
    metrics=(
        *_of_two_maps("similarity"),
        Metric("deletion_area", "area of deletion", "higher"),
        Metric("insertion_area", "area of insertion", "lower"),
    ),
    run=later("medssl_saliency.experiments.sanity:run_sanity"),
    check=later("medssl_saliency.images:items_of"),
    subject="images",
    command="sanity",
    examples=(
        "medssl-saliency sanity scan.png -m random_r18",
        "medssl-saliency sanity -d folder:scans --limit 5 -m moco-v2 --method grad-cam",
    ),
    options=MapOptions,
    output="saliency",
    complete=expand_fast,
    on_device=fit_device,
    controls=False,  # it draws untrained networks itself
    place=13,
    label=_label,
    per_dataset=frozenset({"pictures"}),
    tables=tables.sanity_tables,
    findings=tables.sanity_findings,
    alike=_ALIKE,
    formerly=Formerly(
        metrics=_FORMER_METRICS,
        values=_FORMER_VALUES,
        added=("padding", "labels", "untrained"),
        adapt=_adapt_means,
    ),
)
