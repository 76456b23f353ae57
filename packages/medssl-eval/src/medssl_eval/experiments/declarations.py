"""The declarations of this package's experiments: entry points of the group `medssl.experiments`.

Each says all that the command line, `matrix`, `rank`, `protocol`, `compare` and `report` need; the
arithmetic is imported when it is run.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from medssl_models.experiments.experiment import Curve, Experiment, later
from medssl_models.experiments.former.translation import Formerly
from medssl_models.experiments.released import Released

from medssl_eval.experiments.settings import (
    FewShotSettings,
    FinetuneOptions,
    FinetuneSettings,
    KnnSettings,
    LinearSettings,
)
from medssl_eval.statistics.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from medssl_data.card import DatasetCard
    from medssl_models import Record
    from medssl_models.experiments.released import ReleasedNumber

    from medssl_eval.experiments.settings import TrainedSettings

__all__ = ["FEW_SHOT", "FINETUNE", "KNN", "LINEAR"]

_ACCURACY, _SCORES = METRICS["accuracy"], tuple(METRICS.values())
_PREPARED = {"study": "published"}
_INPUT = {"normalisation": _PREPARED, "padding": _PREPARED, "labels": _PREPARED}
_ALIKE = {
    "I-18": "STOIC gives its middle slice from -1000 to 250 HU under both",
    "I-48": "frontal and lateral views are used under both, and view=frontal chooses",
}
"""Entries about images and labels in which the protocols do not differ."""
_EPISODES = re.compile(r"(?P<ways>\d+)-way (?P<shots>\d+)-shot (?P<queries>\d+)-query")


def _later(place: str) -> Callable[..., Any]:
    return later(f"medssl_eval.experiments.{place}")


# ------------------------------------------------------------------------------------- few-shot


def _episodes_of(number: ReleasedNumber) -> Mapping[str, object]:
    found = _EPISODES.search(number.setting)
    return {} if found is None else {name: int(n) for name, n in found.groupdict().items()}


def _few_shot_label(settings: Mapping[str, Any]) -> str:
    named = [f"{settings[f'{noun}s']}-{noun}" for noun in ("way", "shot") if f"{noun}s" in settings]
    return " ".join(named)


def _shots(record: Record) -> float | None:
    shots = record.settings.get("shots")
    return float(shots) if isinstance(shots, int) else None


def _over_episodes(record: dict[str, Any]) -> None:
    """Under both protocols intervals were over episodes."""
    record["settings"]["interval"] = "episodes"


FEW_SHOT = Experiment(
    name="few-shot",
    title="few-shot classification",
    summary="Classify by prototypes of a few images each, over many episodes.",
    settings=FewShotSettings,
    metrics=(_ACCURACY,),
    run=_later("few_shot:run_few_shot"),
    images=_later("few_shot:drawable_images"),
    check=_later("few_shot:feasible"),
    preprocessing=_later("few_shot:few_shot_preprocessing"),
    quick=_later("few_shot:quick_few_shot"),
    transfer=True,
    place=1,
    examples=(
        "medssl-eval few-shot -m moco-v2 -m random_r50 -d shenzhencxr --shots 1,5,20",
        "medssl-eval few-shot -m random_r18 -d medmnist:pneumoniamnist.npz --protocol published",
    ),
    label=_few_shot_label,
    sorted_by=("ways", "shots"),
    tables=_later("few_shot:few_shot_tables"),
    per_dataset=frozenset({"ways"}),
    curve=Curve("shots", _shots, "labelled images of a class"),
    released=Released(("few-shot",), lambda _: "accuracy", _episodes_of),
    alike={
        "I-12": "training and test images are drawn together under both, as features are frozen",
        **_ALIKE,
    },
    formerly=Formerly(
        values={
            **_INPUT,
            "ways": {"study": "published"},
            "duplicate_images": {"study": "published"},
        },
        adapt=_over_episodes,
    ),
)


# --------------------------------------------------------------- linear, k-NN, fine-tuning


def _training_labels(card: DatasetCard, settings: TrainedSettings) -> Mapping[str, str]:
    """The study labelled some data sets otherwise where it fitted a classifier."""
    labels = card.published_training_labels
    return {"labels": labels} if settings.labels == "published" and labels else {}


def _metric_of(number: ReleasedNumber) -> str:
    return "balanced_accuracy" if number.metric == "mean per-class accuracy" else "accuracy"


def _whole(_: ReleasedNumber) -> Mapping[str, object]:
    return {"fraction": 1.0, "stratum": None, "adjusted": None}


def _within(settings: Mapping[str, Any]) -> str:
    """Word the part of the test images that was scored, and what scores are adjusted for."""
    stratum, adjusted = settings.get("stratum"), settings.get("adjusted")
    return (f", {stratum}" if stratum else "") + (f", adjusted for {adjusted}" if adjusted else "")


def _test_part(number: ReleasedNumber) -> Mapping[str, object]:
    return {**_whole(number), "evaluation": "test_part"}


def _asked_a_test_part(record: dict[str, Any]) -> None:
    """Version 0.1 knew nothing else."""
    former = {"evaluation": "test_part", "refits": 0, "interval": "percentile"}
    record["settings"] = former | record["settings"]


def _labelled(record: Record) -> float | None:
    """Count the images whose labels trained or chose; version 0.1 kept the parts alone."""
    for names in (("labelled_images",), ("train_images", "validation_images")):
        counts = [record.details.get(name) for name in names]
        found = [count for count in counts if isinstance(count, int)]
        if len(found) == len(names):
            return float(sum(found))
    return None


_LABELS = Curve("fraction", _labelled, "labelled images")


def _stated_percentiles(record: dict[str, Any]) -> None:
    """Version 0.1 knew nothing else."""
    record["settings"] = {"interval": "percentile", "refits": 0} | record["settings"]


def _filled_every_batch(record: dict[str, Any]) -> None:
    """Version 0.1 knew nothing else."""
    former = {"last_batch": "full", "search_stopping": "early", "interval": "percentile"}
    record["settings"] = former | record["settings"]


def _linear_label(settings: Mapping[str, Any]) -> str:
    folds = ", folds" if settings.get("evaluation") == "nested_folds" else ""
    return _fraction_label("linear", settings) + folds + _within(settings)


def _fraction_label(name: str, settings: Mapping[str, Any]) -> str:
    fraction = settings.get("fraction")
    if not isinstance(fraction, int | float):
        return name
    return f"{name}, {'all' if fraction == 1 else f'{100 * fraction:g} %'}"


LINEAR = Experiment(
    name="linear",
    alike=_ALIKE,
    title="linear evaluation",
    summary="Fit a linear classifier on the features of training images, and test it.",
    settings=LinearSettings,
    metrics=_SCORES,
    run=_later("linear:run_linear"),
    check=_later("linear:separable"),
    preprocessing=_later("features:prepare_for"),
    quick=_later("linear:quick_linear"),
    trains=True,
    of_dataset=_training_labels,
    transfer=True,
    place=2,
    examples=(
        "medssl-eval linear -m moco-v2 -m random_r50 -d shenzhencxr",
        "medssl-eval linear -m random_r18 -d medmnist:pneumoniamnist.npz --fractions 0.01,0.1,1",
        "medssl-eval linear -m moco-v2 -d chexpert --labels u-ones-lsr --select auroc",
    ),
    label=_linear_label,
    on_split={"evaluation": "test_part"},
    sorted_by=("fraction",),
    per_dataset=frozenset({"evaluation", "folds", "repeats"}),
    curve=_LABELS,
    released=Released(("linear", "imagenet-top1"), _metric_of, _test_part),
    formerly=Formerly(
        fields={"strengths": "Cs"},
        values={**_INPUT, "refit": {"from_last_strength": "from_last_C"}},
        adapt=_asked_a_test_part,
    ),
)


def _knn_label(settings: Mapping[str, Any]) -> str:
    chosen = settings.get("neighbours")
    votes = "k by validation" if chosen == "validated" else f"k = {chosen}"
    folds = "" if settings.get("evaluation") == "test_part" else ", folds"
    return votes + folds + _within(settings)


KNN = Experiment(
    name="knn",
    alike=_ALIKE,
    title="k-nearest-neighbour classification",
    summary="Let the most similar images vote on the class.",
    settings=KnnSettings,
    metrics=_SCORES,
    run=_later("knn:run_knn"),
    check=_later("knn:foldable"),
    preprocessing=_later("features:prepare_for"),
    quick=_later("knn:quick_knn"),
    on_split={"evaluation": "test_part"},
    transfer=True,
    place=3,
    examples=(
        "medssl-eval knn -m random_r18 -d folder:scans --neighbours 5",
        "medssl-eval knn -m moco-v2 -d shenzhencxr --split patient",
    ),
    label=_knn_label,
    formerly=Formerly(values=_INPUT, adapt=_stated_percentiles),
)


FINETUNE = Experiment(
    name="finetune",
    alike=_ALIKE,
    title="fine-tuning",
    summary="Train the whole network on the training images, and test it; a run goes on where it "
    "was.",
    settings=FinetuneSettings,
    metrics=_SCORES,
    run=_later("finetune:run_finetune"),
    check=_later("finetune:trainable"),
    options=FinetuneOptions,
    output="finetuned",
    passes=_later("finetune:training_passes"),
    controls=False,  # training a network takes hours
    trains=True,
    of_dataset=_training_labels,
    transfer=True,
    place=4,
    examples=(
        "medssl-eval finetune -m moco-v2 -d chexpert --precision bf16",
        "medssl-eval finetune -m random_r18 -d medmnist:pneumoniamnist.npz --side 64 --steps 600",
    ),
    label=lambda settings: _fraction_label("finetune", settings) + _within(settings),
    sorted_by=("fraction",),
    curve=_LABELS,
    released=Released(("finetune",), _metric_of, _whole),
    formerly=Formerly(values=_INPUT, adapt=_filled_every_batch),
)
