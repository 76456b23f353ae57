"""k-nearest-neighbour evaluation: the classes of the most similar images vote.

Cosine similarity on frozen features. Every image is asked once in cross-validation, in folds that
keep the classes' shares and hold all images of a patient together; or the test part is asked.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.experiments.intervals import units_of

from medssl_eval.errors import InfeasibleError
from medssl_eval.experiments.features import collect, patients_of, prepare
from medssl_eval.experiments.partition import (
    assign_folds,
    bootstrap_times,
    check_folds,
    partition,
)
from medssl_eval.experiments.predictions import Predictions
from medssl_eval.experiments.scoring import (
    Scored,
    metrics_of,
    resolved,
    selection,
)
from medssl_eval.experiments.settings import KnnSettings
from medssl_eval.statistics.metrics import validation_score
from medssl_eval.stratified.columns import check_columns
from medssl_eval.stratified.records import records_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Record, Records, RunContext
    from medssl_models.experiments.settings import ProtocolName
    from numpy.typing import NDArray

    from medssl_eval.experiments.features import FeatureSet

    Floats = NDArray[np.float64]
    Features = NDArray[np.float32]
    Integers = NDArray[np.int64]

    _Answers = tuple[Integers, Floats, dict[str, object], Sequence[Floats]]
    """Rows that were asked, their probabilities, what records keep, and those of resamples."""

__all__ = [
    "CANDIDATES",
    "Neighbours",
    "foldable",
    "knn",
    "quick_knn",
    "resampled_votes",
    "run_knn",
    "vote",
]

CANDIDATES = (1, 2, 5, 10, 20, 50, 100, 200)
"""Numbers of neighbours to choose from."""
REFITS = 30
"""In folds: enough for a deviation that is known to a seventh."""
FOLDS = (5, 3, 2)
"""For a ranking: the first that the data can carry."""


def knn(
    backbone: Backbone,
    data: ImageDataset,
    *,
    protocol: ProtocolName = "corrected",
    settings: KnnSettings | None = None,
    context: RunContext | None = None,
    **changes: object,
) -> Records:
    """Measure how well the nearest images predict the class.

    Args:
        backbone: The network; features are the same as in the other experiments.
        data: The images.
        protocol: `published` or `corrected`, where there are no settings.
        settings: Neighbours, folds and so on, ready made.
        context: Extraction, store and what is known already; None is the command's way.
        changes: Fields of `KnnSettings` as keywords, such as `neighbours=5`.

    Returns:
        One record for each metric, with its interval. `details` holds the number of neighbours (of
        each fold, in cross-validation) and where the predictions lie.

    Raises:
        InfeasibleError: A class has fewer images or patients than folds, or a part is missing;
            said before extraction.
        FeatureError: A feature is not finite.

    Example:
        >>> from medssl_data import load_dataset
        >>> from medssl_models import create_model
        >>> data = load_dataset("phantom:chest-xray").select(range(40))
        >>> records = knn(create_model("random_r18"), data, neighbours=5)
        >>> records[0].settings["neighbours"]
        5
    """
    from medssl_models.experiments.runner import measure

    from medssl_eval.experiments.declarations import KNN

    return measure(
        KNN, backbone, data, protocol=protocol, settings=settings, context=context, **changes
    )


def run_knn(
    backbone: Backbone, data: ImageDataset, settings: KnnSettings, context: RunContext
) -> list[Record]:
    """Let images vote, unless that is known already; see `knn`."""
    preprocessing = prepare(backbone, settings)
    provenance = context.provenance(
        backbone,
        data,
        settings,
        preprocessing=preprocessing.fingerprint,
        split="all" if settings.evaluation == "folds" else data.manifest.split_policy,
    )
    names, identity = metrics_of(data, settings), resolved(data, settings)
    known = context.recall("knn", names, identity, provenance)
    if known is not None:
        return records_of(known, names, data, settings, context)
    features = collect(
        backbone, data, preprocessing=preprocessing, provenance=provenance, context=context
    )
    in_folds = settings.evaluation == "folds"
    evaluate = _ask_folds if in_folds else _ask_test_part
    asked, probabilities, details, refits = evaluate(data, features, settings)
    scored = Scored(
        experiment="knn",
        predictions=_predictions(data, features, asked, probabilities),
        settings=identity,
        provenance=features.provenance,
        details=details | {"unreadable": len(features.unreadable)},
        given=f"these {settings.folds} folds" if in_folds else "the images that answer",
        refits=refits,
        apart=not in_folds,
    )
    return records_of(scored, names, data, settings, context)


def quick_knn(data: ImageDataset, seed: int) -> KnnSettings:
    """Choose the most folds that a data set can carry, for a ranking.

    Raises:
        InfeasibleError: It can carry none.
    """
    # Choosing the number of neighbours needs a fold of its own.
    sizes = [
        KnnSettings(folds=folds, neighbours="validated" if folds > 2 else 5, seed=seed)
        for folds in FOLDS
    ]
    for settings in sizes:
        with contextlib.suppress(InfeasibleError):
            foldable(data, settings)
            return settings
    foldable(data, sizes[-1])
    return sizes[-1]


def foldable(data: ImageDataset, settings: KnnSettings) -> None:
    """Say before any image is opened whether the folds can be dealt, or the parts can serve.

    Raises:
        InfeasibleError: One class only, a class with fewer images or patients than folds, or a part
            that is missing or lacks a class.
        UnknownNameError: No metric has the name that neighbours are to be chosen by.
    """
    selection(data, settings)
    check_columns(data, settings)
    if settings.evaluation == "test_part":
        partition(data, separate=settings.patients == "separate", seed=settings.seed)
        return
    if settings.folds < 3 and settings.neighbours == "validated":
        message = "choosing the number of neighbours needs at least 3 folds; or name the number"
        raise InfeasibleError(message)
    groups = patients_of(data.groups, separate=settings.patients == "separate")
    check_folds(data.labels, settings.folds, groups=groups, names=data.classes)


class Neighbours:
    """The nearest reference images of some questions, found once for all numbers of voters.

    Args:
        reference: (N, D) float32.
        labels: (N,) int64 in 0..classes-1.
        questions: (M, D) float32.
        most: The largest number of voters that will be asked for.
        classes: Number of classes C.
    """

    def __init__(
        self, reference: Features, labels: Integers, questions: Features, *, most: int, classes: int
    ) -> None:
        from sklearn.neighbors import NearestNeighbors

        count = min(most, len(reference))
        search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute")
        distances, nearest = search.fit(reference).kneighbors(questions)
        self._cosines = 1.0 - np.asarray(distances, np.float64)
        self._nearest, self._labels = nearest, labels[nearest]
        self._classes = classes

    def shares(
        self,
        neighbours: int,
        *,
        temperature: float | None = None,
        times: Integers | None = None,
    ) -> Floats:
        """Shares of the votes, (M, C) float64; a row sums to 1.

        Args:
            neighbours: Voters of a question; all of them where the reference holds fewer.
            temperature: A vote weighs exp(cosine / temperature); None weighs all the same.
            times: How often each reference image stands there, as in a resample; None is once. Then
                as many of the nearest found vote as together stand there `neighbours` times.

        References:
            Wu et al., Unsupervised feature learning via non-parametric instance discrimination,
            2018, section 3.4 (the weights and the temperature 0.07).
        """
        cosines, labels = self._cosines, self._labels
        if times is None:
            cosines, labels = cosines[:, :neighbours], labels[:, :neighbours]
        weights = np.ones_like(cosines)
        if temperature is not None:
            weights = np.exp((cosines - cosines[:, :1]) / temperature)
        if times is not None:
            copies = times[self._nearest]
            before = np.cumsum(copies, axis=1) - copies
            weights *= np.clip(neighbours - before, 0, copies)
        votes = [(weights * (labels == label)).sum(axis=1) for label in range(self._classes)]
        table = np.stack(votes, axis=1)
        return np.asarray(table / table.sum(axis=1, keepdims=True), np.float64)


def vote(
    reference: Features,
    labels: Integers,
    questions: Features,
    *,
    neighbours: int,
    classes: int,
    temperature: float | None = None,
) -> Floats:
    """Let the nearest reference images vote on each question; see `Neighbours`."""
    found = Neighbours(reference, labels, questions, most=neighbours, classes=classes)
    return found.shares(neighbours, temperature=temperature)


def _ask_folds(data: ImageDataset, features: FeatureSet, settings: KnnSettings) -> _Answers:
    """Predict each image from the images of the other folds.

    Where the number of neighbours is to be chosen, the fold after it serves for that alone.
    """
    groups = patients_of(features.groups, separate=settings.patients == "separate")
    fold_of = assign_folds(
        features.labels, settings.folds, seed=settings.seed, groups=groups, names=data.classes
    )
    classes = len(data.classes)
    probabilities = np.zeros((len(fold_of), classes))
    chosen = []
    for fold in range(settings.folds):
        asked, held = fold_of == fold, fold_of == (fold + 1) % settings.folds
        count = _count(data, features, settings, reference=~asked & ~held, held=held)
        probabilities[asked] = vote(
            features.features[~asked],
            features.labels[~asked],
            features.features[asked],
            neighbours=count,
            classes=classes,
            temperature=_temperature(settings),
        )
        chosen.append(count)
    details: dict[str, object] = {"neighbours": chosen, "folds": fold_of.tolist()}
    refits = resampled_votes(
        features.features, features.labels, features.groups, settings, folds=fold_of, voters=chosen
    )
    return np.arange(len(fold_of)), probabilities, details, refits


def resampled_votes(
    features: Features,
    labels: Integers,
    groups: Sequence[str],
    settings: KnnSettings,
    *,
    folds: Integers,
    voters: Sequence[int],
) -> tuple[Floats, ...]:
    """Let bootstrap samples of the patients answer in the same folds.

    In folds every image answers for the others: which images there are moves what is asked and who
    answers, and the first alone makes intervals of small sets too narrow.

    Args:
        features: (N, D) float32.
        labels: (N,) int64.
        groups: N patient names, "" where unknown.
        settings: How many samples, their seed, and how votes weigh.
        folds: (N,) int64, the fold in which an image is a question.
        voters: How many vote in each fold.

    Returns:
        Shares of the votes in each sample, (N, classes that have an image).
    """
    count = REFITS if settings.refits == "auto" else settings.refits
    present, own = np.unique(labels, return_inverse=True)
    # Of the nearest 2 k + 20 patients a sample holds k images, but for one in millions.
    most = int(np.bincount(units_of(groups)[0]).max())
    found = [
        Neighbours(
            features[folds != fold],
            own[folds != fold],
            features[folds == fold],
            most=most * (2 * voting + 20),
            classes=len(present),
        )
        for fold, voting in enumerate(voters if count else ())
    ]
    drawn = bootstrap_times(
        groups,
        (np.arange(len(folds)),),
        count=count,
        seed=settings.seed,
        serves=lambda times: all(
            len(np.unique(own[(folds != fold) & (times > 0)])) == len(present)
            for fold in range(len(found))
        ),
    )
    tables = []
    for times in drawn:
        tables.append(np.zeros((len(folds), len(present))))
        for fold, (neighbours, voting) in enumerate(zip(found, voters, strict=True)):
            tables[-1][folds == fold] = neighbours.shares(
                voting, temperature=_temperature(settings), times=times[folds != fold]
            )
    return tuple(tables)


def _ask_test_part(data: ImageDataset, features: FeatureSet, settings: KnnSettings) -> _Answers:
    """Predict the test images from training and validation images."""
    parts = partition(
        data,
        separate=settings.patients == "separate",
        seed=settings.seed,
        readable=features.rows,
    ).among(features.rows)
    count = _count(data, features, settings, reference=parts.train, held=parts.validation)
    known = np.concatenate([parts.train, parts.validation])
    probabilities = vote(
        features.features[known],
        features.labels[known],
        features.features[parts.test],
        neighbours=count,
        classes=len(data.classes),
        temperature=_temperature(settings),
    )
    return parts.test, probabilities, {"neighbours": [count], "reference_images": len(known)}, ()


def _count(
    data: ImageDataset,
    features: FeatureSet,
    settings: KnnSettings,
    *,
    reference: NDArray[np.generic],
    held: NDArray[np.generic],
) -> int:
    """How many vote: as the settings say, or the best on the images held back; ties take more."""
    if settings.neighbours != "validated":
        return settings.neighbours
    labels = features.labels[held]
    found = Neighbours(
        features.features[reference],
        features.labels[reference],
        features.features[held],
        most=CANDIDATES[-1],
        classes=len(data.classes),
    )
    most = len(features.labels[reference])
    counts = [count for count in CANDIDATES if count <= most]
    select, temperature = selection(data, settings), _temperature(settings)
    scores = {
        count: validation_score(select, labels, found.shares(count, temperature=temperature))
        for count in counts
    }
    return max(counts, key=lambda count: (scores[count], count))


def _predictions(
    data: ImageDataset, features: FeatureSet, asked: Integers, probabilities: Floats
) -> Predictions:
    """What was said about the images at these positions; classes without any image are left out."""
    present = np.unique(features.labels)
    return Predictions(
        ids=tuple(data.ids[row] for row in features.rows[asked]),
        groups=tuple(features.groups[row] for row in asked),
        classes=tuple(data.classes[label] for label in present),
        labels=np.searchsorted(present, features.labels[asked]),
        probabilities=probabilities[:, present],
    )


def _temperature(settings: KnnSettings) -> float | None:
    return settings.temperature if settings.weighting == "similarity" else None
