"""k-nearest-neighbour evaluation: the classes of the most similar images vote.

Cosine similarity on frozen features, cross-validated in folds that keep the classes' shares and
hold all images of a patient together.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.errors import InfeasibleError
from medssl_eval.features import Means, collect, marks, patients_of, prepare, provenance_of
from medssl_eval.protocols import KnnSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Record
    from numpy.typing import NDArray

    from medssl_eval.features import FeatureSet

__all__ = ["assign_folds", "foldable", "knn", "vote"]


def knn(
    backbone: Backbone,
    data: ImageDataset,
    *,
    settings: KnnSettings | None = None,
    means: Means | None = None,
) -> list[Record]:
    """Measure how well the nearest images predict the class, in cross-validation.

    Args:
        backbone: The network; features are the same as in the other experiments.
        data: The images.
        settings: Neighbours, folds and so on; None is the corrected preset.
        means: Extraction, store and what is known already.

    Returns:
        One record: accuracy in percent over all images, each of which is a question once, with the
        Wilson interval of a share of images. `details` holds each image's row, answer and fold.

    Raises:
        InfeasibleError: A class has fewer images or patients than folds; said before extraction.
        FeatureError: A feature is not finite.
    """
    from medssl_models.records import record_key  # noqa: PLC0415 # imports torch

    settings, means = settings or KnnSettings(), means or Means()
    foldable(data, settings)
    preprocessing = prepare(backbone, settings)
    provenance = provenance_of(
        backbone, data, settings, preprocessing=preprocessing, extraction=means.extraction
    )
    known = means.known.get(record_key("knn", "accuracy", _identity(settings), provenance))
    if known is not None:
        return [known]
    features = collect(
        backbone, data, preprocessing=preprocessing, provenance=provenance, means=means
    )
    groups = patients_of(features.groups, separate=settings.patients == "separate")
    fold_of = assign_folds(
        features.labels, settings.folds, seed=settings.seed, groups=groups, names=data.classes
    )
    answers = _answers(features, fold_of, neighbours=settings.neighbours, classes=len(data.classes))
    return [_record(backbone, data, features, settings, answers=answers, fold_of=fold_of)]


def foldable(data: ImageDataset, settings: KnnSettings) -> None:
    """Say before any image is opened whether the folds can be dealt.

    Raises:
        InfeasibleError: One class only, or a class with fewer images or patients than folds.
    """
    groups = patients_of(data.groups, separate=settings.patients == "separate")
    _check_folds(data.labels, settings.folds, groups=groups, names=data.classes)


def assign_folds(
    labels: NDArray[np.int64],
    folds: int,
    *,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> NDArray[np.int64]:
    """Deal rows into folds, stratified by class.

    Args:
        labels: (N,) int64.
        folds: Number of folds, at least 2.
        seed: Decides who meets whom.
        groups: N patient names; all images of one are in one fold.
        names: Class names, for messages.

    Returns:
        (N,) int64 in 0..folds-1, the fold in which a row is a question.

    Raises:
        InfeasibleError: Fewer than two classes, or a class with fewer images or patients than
            folds.
    """
    from sklearn.model_selection import (  # noqa: PLC0415 # slow
        StratifiedGroupKFold,
        StratifiedKFold,
    )

    _check_folds(labels, folds, groups=groups, names=names)
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(n_splits=folds, shuffle=True, random_state=seed)
    fold_of = np.empty(len(labels), dtype=np.int64)
    for fold, (_, asked) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
        fold_of[asked] = fold
    return fold_of


def vote(
    reference: NDArray[np.float32],
    labels: NDArray[np.int64],
    questions: NDArray[np.float32],
    *,
    neighbours: int,
    classes: int,
) -> NDArray[np.float64]:
    """Let the nearest reference images vote on each question.

    Args:
        reference: (N, D) float32.
        labels: (N,) int64 in 0..classes-1.
        questions: (M, D) float32.
        neighbours: Voters of a question; all of them where the reference holds fewer.
        classes: Number of classes C.

    Returns:
        (M, C) float64, shares of the votes; a row sums to 1.
    """
    from sklearn.neighbors import NearestNeighbors  # noqa: PLC0415 # slow to import

    count = min(neighbours, len(reference))
    search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute")
    nearest = search.fit(reference).kneighbors(questions, return_distance=False)
    one_hot = np.eye(classes)[labels]
    return np.asarray(one_hot[nearest].mean(axis=1), dtype=np.float64)


def _check_folds(
    labels: NDArray[np.int64],
    folds: int,
    *,
    groups: Sequence[str] | None,
    names: Sequence[str] | None,
) -> None:
    present = np.unique(labels)
    if len(present) < 2:
        message = "all images are of one class; k-NN needs images of at least two"
        raise InfeasibleError(message)
    who = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    noun = "images" if groups is None else "patients"
    for label in present.tolist():
        size = len(np.unique(who[labels == label]))
        if size < folds:
            name = names[label] if names is not None else str(label)
            message = f"class {name!r} has {size} {noun} for {folds} folds; " + (
                f"use --folds {size} or less" if size >= 2 else "add images, or leave the class out"
            )
            raise InfeasibleError(message)


def _answers(
    features: FeatureSet, fold_of: NDArray[np.int64], *, neighbours: int, classes: int
) -> NDArray[np.int64]:
    """Predict each image from the images of the other folds; a tied vote takes the first class."""
    answers = np.empty(len(features.labels), dtype=np.int64)
    for fold in np.unique(fold_of):
        asked = fold_of == fold
        shares = vote(
            features.features[~asked],
            features.labels[~asked],
            features.features[asked],
            neighbours=neighbours,
            classes=classes,
        )
        answers[asked] = shares.argmax(axis=1)
    return answers


def _record(
    backbone: Backbone,
    data: ImageDataset,
    features: FeatureSet,
    settings: KnnSettings,
    *,
    answers: NDArray[np.int64],
    fold_of: NDArray[np.int64],
) -> Record:
    from medssl_models import Record as Result  # noqa: PLC0415 # imports torch

    right = answers == features.labels
    low, high = _wilson_interval(int(right.sum()), len(right))
    skipped = len(features.unreadable)
    return Result(
        experiment="knn",
        metric="accuracy",
        unit="%",
        value=100.0 * float(right.mean()),
        ci_low=100.0 * low,
        ci_high=100.0 * high,
        n=len(right),
        settings=_identity(settings),
        details={
            "rows": features.rows.tolist(),
            "answers": answers.tolist(),
            "folds": fold_of.tolist(),
            "chance": 100.0 * float(np.bincount(features.labels).max()) / len(right),
            "images": len(right),
            "unreadable": skipped,
            "control": backbone.card.control,
            "synthetic": data.manifest.synthetic,
        },
        notes=marks(backbone, data, skipped=skipped),
        provenance=features.provenance,
    )


def _identity(settings: KnnSettings) -> dict[str, object]:
    return settings.model_dump(exclude={"protocol", "seed"})


def _wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Give the 95 % Wilson score interval of a share.

    Args:
        successes: 0..trials.
        trials: At least 1.

    Returns:
        Low and high, in 0..1.

    References:
        Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    z = 1.959963984540054
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return (centre - spread) / scale, (centre + spread) / scale
