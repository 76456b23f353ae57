"""The declarations of this package's experiments: entry points of the group `medssl.experiments`.

Each says all that the command line, `matrix`, `rank`, `protocol`, `compare` and `report` need; the
arithmetic is imported when it is run.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from medssl_models.experiments.experiment import Experiment
from medssl_models.experiments.released import Released
from medssl_models.experiments.translation import Formerly

from medssl_eval.experiments.settings import (
    FewShotSettings,
    FinetuneOptions,
    FinetuneSettings,
    KnnSettings,
    LinearSettings,
)
from medssl_eval.statistics.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medssl_data import ImageDataset
    from medssl_data.card import DatasetCard
    from medssl_models import Backbone, Preprocessing, Record, RunContext
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


# ------------------------------------------------------------------------------------- few-shot


def _run_few_shot(
    backbone: Backbone, data: ImageDataset, settings: FewShotSettings, context: RunContext
) -> list[Record]:
    from medssl_eval.experiments.few_shot import run_few_shot

    return run_few_shot(backbone, data, settings, context)


def _check_few_shot(data: ImageDataset, settings: FewShotSettings) -> None:
    from medssl_eval.experiments.few_shot import feasible

    feasible(data, settings)


def _prepare_few_shot(
    backbone: Backbone, data: ImageDataset, settings: FewShotSettings
) -> Preprocessing:
    from medssl_eval.experiments.few_shot import few_shot_preprocessing

    return few_shot_preprocessing(backbone, data, settings)


def _quick_few_shot(data: ImageDataset, seed: int) -> FewShotSettings:
    from medssl_eval.experiments.few_shot import quick_few_shot

    return quick_few_shot(data, seed)


def _episodes_of(number: ReleasedNumber) -> Mapping[str, object]:
    found = _EPISODES.search(number.setting)
    return {} if found is None else {name: int(n) for name, n in found.groupdict().items()}


def _few_shot_label(settings: Mapping[str, Any]) -> str:
    ways = f"{settings['ways']}-way " if "ways" in settings else ""
    return f"{ways}{settings.get('shots')}-shot"


FEW_SHOT = Experiment(
    name="few-shot",
    title="few-shot classification",
    summary="Classify by prototypes of a few images each, over many episodes.",
    settings=FewShotSettings,
    metrics=(_ACCURACY,),
    run=_run_few_shot,
    check=_check_few_shot,
    preprocessing=_prepare_few_shot,
    quick=_quick_few_shot,
    decides=False,  # episodes share images
    transfer=True,
    place=1,
    examples=(
        "medssl-eval few-shot -m moco-v2 -m random_r50 -d shenzhencxr --shots 1,5,20",
        "medssl-eval few-shot -m random_r18 -d medmnist:pneumoniamnist.npz --protocol published",
    ),
    label=_few_shot_label,
    sorted_by=("ways", "shots"),
    per_dataset=frozenset({"ways"}),
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
        }
    ),
)


# --------------------------------------------------------------- linear, k-NN, fine-tuning


def _prepare(backbone: Backbone, _: ImageDataset, settings: Any) -> Preprocessing:  # noqa: ANN401 # linear's or k-NN's
    from medssl_eval.experiments.features import prepare

    return prepare(backbone, settings)


def _training_labels(card: DatasetCard, settings: TrainedSettings) -> Mapping[str, str]:
    """The study labelled some data sets otherwise where it fitted a classifier."""
    labels = card.published_training_labels
    return {"labels": labels} if settings.labels == "published" and labels else {}


def _metric_of(number: ReleasedNumber) -> str:
    return "balanced_accuracy" if number.metric == "mean per-class accuracy" else "accuracy"


def _whole(_: ReleasedNumber) -> Mapping[str, object]:
    return {"fraction": 1.0}


def _fraction_label(name: str, settings: Mapping[str, Any]) -> str:
    fraction = settings.get("fraction")
    if not isinstance(fraction, int | float):
        return name
    return f"{name}, {'all' if fraction == 1 else f'{100 * fraction:g} %'}"


def _run_linear(
    backbone: Backbone, data: ImageDataset, settings: LinearSettings, context: RunContext
) -> list[Record]:
    from medssl_eval.experiments.linear import run_linear

    return run_linear(backbone, data, settings, context)


def _check_linear(data: ImageDataset, settings: LinearSettings) -> None:
    from medssl_eval.experiments.linear import separable

    separable(data, settings)


def _quick_linear(data: ImageDataset, seed: int) -> LinearSettings:
    settings = LinearSettings(seed=seed)
    _check_linear(data, settings)
    return settings


LINEAR = Experiment(
    name="linear",
    alike=_ALIKE,
    title="linear evaluation",
    summary="Fit a linear classifier on the features of training images, and test it.",
    settings=LinearSettings,
    metrics=_SCORES,
    run=_run_linear,
    check=_check_linear,
    preprocessing=_prepare,
    quick=_quick_linear,
    trains=True,
    of_dataset=_training_labels,
    transfer=True,
    place=2,
    examples=(
        "medssl-eval linear -m moco-v2 -m random_r50 -d shenzhencxr",
        "medssl-eval linear -m random_r18 -d medmnist:pneumoniamnist.npz --fractions 0.01,0.1,1",
        "medssl-eval linear -m moco-v2 -d chexpert --labels u-ones-lsr --select auroc",
    ),
    label=lambda settings: _fraction_label("linear", settings),
    sorted_by=("fraction",),
    released=Released(("linear", "imagenet-top1"), _metric_of, _whole),
    formerly=Formerly(
        fields={"strengths": "Cs"},
        values={**_INPUT, "refit": {"from_last_strength": "from_last_C"}},
    ),
)


def _run_knn(
    backbone: Backbone, data: ImageDataset, settings: KnnSettings, context: RunContext
) -> list[Record]:
    from medssl_eval.experiments.knn import run_knn

    return run_knn(backbone, data, settings, context)


def _check_knn(data: ImageDataset, settings: KnnSettings) -> None:
    from medssl_eval.experiments.knn import foldable

    foldable(data, settings)


def _quick_knn(data: ImageDataset, seed: int) -> KnnSettings:
    from medssl_eval.experiments.knn import quick_knn

    return quick_knn(data, seed)


def _knn_label(settings: Mapping[str, Any]) -> str:
    chosen = settings.get("neighbours")
    votes = "k by validation" if chosen == "validated" else f"k = {chosen}"
    return votes if settings.get("evaluation") == "test_part" else f"{votes}, folds"


KNN = Experiment(
    name="knn",
    alike=_ALIKE,
    title="k-nearest-neighbour classification",
    summary="Let the most similar images vote on the class.",
    settings=KnnSettings,
    metrics=_SCORES,
    run=_run_knn,
    check=_check_knn,
    preprocessing=_prepare,
    quick=_quick_knn,
    on_split={"evaluation": "test_part"},
    transfer=True,
    place=3,
    examples=(
        "medssl-eval knn -m random_r18 -d folder:scans --neighbours 5",
        "medssl-eval knn -m moco-v2 -d shenzhencxr --split patient",
    ),
    label=_knn_label,
    formerly=Formerly(values=_INPUT),
)


def _run_finetune(
    backbone: Backbone, data: ImageDataset, settings: FinetuneSettings, context: RunContext
) -> list[Record]:
    from medssl_eval.experiments.finetune import run_finetune

    return run_finetune(backbone, data, settings, context)


def _check_finetune(data: ImageDataset, settings: FinetuneSettings) -> None:
    from medssl_eval.experiments.finetune import trainable

    trainable(data, settings)


def _training_passes(data: ImageDataset, settings: FinetuneSettings) -> int:
    from medssl_eval.experiments.finetune import training_passes

    return training_passes(data, settings)


FINETUNE = Experiment(
    name="finetune",
    alike=_ALIKE,
    title="fine-tuning",
    summary="Train the whole network on the training images, and test it; a run goes on where it "
    "was.",
    settings=FinetuneSettings,
    metrics=_SCORES,
    run=_run_finetune,
    check=_check_finetune,
    options=FinetuneOptions,
    output="finetuned",
    passes=_training_passes,
    controls=False,  # training a network takes hours
    trains=True,
    of_dataset=_training_labels,
    transfer=True,
    place=4,
    examples=(
        "medssl-eval finetune -m moco-v2 -d chexpert --precision bf16",
        "medssl-eval finetune -m random_r18 -d medmnist:pneumoniamnist.npz --side 64 --steps 600",
    ),
    label=lambda settings: _fraction_label("finetune", settings),
    sorted_by=("fraction",),
    released=Released(("finetune",), _metric_of, _whole),
    formerly=Formerly(values=_INPUT),
)
