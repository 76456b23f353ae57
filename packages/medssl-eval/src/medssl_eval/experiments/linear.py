"""Linear evaluation: logistic regression on frozen features, its C chosen on validation.

The solver is `logistic`'s business, the parts `partition`'s, metrics and intervals `outcome`'s.
`fit_linear` takes arrays; `linear` joins it with a backbone and a data set.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.errors import InfeasibleError
from medssl_eval.experiments.features import collect, patients_of, prepare
from medssl_eval.experiments.nested_folds import NestedFolds
from medssl_eval.experiments.partition import (
    LEAST_FOLDS,
    assign_folds,
    bootstrap_times,
    check_folds,
    keep_fraction,
    partition,
    truncate_targets,
)
from medssl_eval.experiments.predictions import Predictions
from medssl_eval.experiments.scoring import (
    Scored,
    metrics_of,
    resolved,
    selection,
)
from medssl_eval.experiments.settings import LinearSettings
from medssl_eval.solver.logistic import choose_c, published_cs, solve, solve_path
from medssl_eval.solver.published_fit import fit_published
from medssl_eval.solver.scaling import Scaling
from medssl_eval.statistics.metrics import validation_score
from medssl_eval.stratified.columns import check_columns
from medssl_eval.stratified.records import records_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Record, Records, RunContext
    from medssl_models.experiments.settings import ProtocolName
    from numpy.typing import NDArray

    from medssl_eval.experiments.features import FeatureSet
    from medssl_eval.experiments.partition import Partition
    from medssl_eval.solver.logistic import LogisticSolution

    Floats = NDArray[np.float64]
    Features = NDArray[np.floating]
    Labels = NDArray[np.int64]
    Part = tuple[Features, NDArray[np.generic]]

__all__ = [
    "ENOUGH",
    "LinearFit",
    "Scaling",
    "evaluated",
    "fit_linear",
    "linear",
    "quick_linear",
    "run_linear",
    "separable",
]


ENOUGH = 50
"""Test patients from which on a test part is asked: of 50 right or wrong answers, half of them
right, a 95 % interval reaches 14 points to either side."""
REFITS = 30
"""In nested folds: enough for a deviation that is known to a seventh."""


def linear(
    backbone: Backbone,
    data: ImageDataset,
    *,
    protocol: ProtocolName = "corrected",
    settings: LinearSettings | None = None,
    context: RunContext | None = None,
    **changes: object,
) -> Records:
    """Measure how well a linear classifier on the features predicts images that it did not see.

    Args:
        backbone: The network; its features are computed once.
        data: Images. With a training part and a test part of 50 patients or more the test part is
            asked; else every image is, in nested folds. See `evaluated`.
        protocol: `published` or `corrected`, where there are no settings.
        settings: Cs, solver and so on, ready made.
        context: Extraction, store and what is known already; None is the command's way.
        changes: Fields of `LinearSettings` as keywords, such as `Cs=(0.1, 1)`.

    Returns:
        One record for each fraction and metric, each with its interval. `details` holds the chosen
        C, how well each fit converged, and where the predictions lie.

    Raises:
        InfeasibleError: A part is missing or cannot serve; said before extraction.
        FeatureError: A feature is not finite.
        UnknownNameError: No metric has the name that C is to be chosen by.

    Example:
        >>> from medssl_data import load_dataset
        >>> from medssl_models import create_model
        >>> data = load_dataset("phantom:chest-xray").select(range(60))
        >>> records = linear(create_model("random_r18"), data, Cs=1.0)
        >>> sorted(record.metric for record in records)[:3]
        ['accuracy', 'auprc', 'auroc']
    """
    from medssl_models.experiments.runner import measure

    from medssl_eval.experiments.declarations import LINEAR

    return measure(
        LINEAR, backbone, data, protocol=protocol, settings=settings, context=context, **changes
    )


def run_linear(
    backbone: Backbone, data: ImageDataset, settings: LinearSettings, context: RunContext
) -> list[Record]:
    """Evaluate the fractions that are not known yet; see `linear`."""
    if settings.targets == "truncated":
        data = truncate_targets(data)
    settings = evaluated(data, settings)
    preprocessing = prepare(backbone, settings)
    provenance = context.provenance(
        backbone,
        data,
        settings,
        preprocessing=preprocessing.fingerprint,
        split="all" if settings.evaluation == "nested_folds" else data.manifest.split_policy,
    )
    names = metrics_of(data, settings)
    known = {
        fraction: context.recall("linear", names, _identity(data, settings, fraction), provenance)
        for fraction in settings.fractions
    }
    if None in known.values():
        features = collect(
            backbone, data, preprocessing=preprocessing, provenance=provenance, context=context
        )
    found: list[Record] = []
    for fraction, records in known.items():
        scored = _evaluate(data, features, settings, fraction) if records is None else records
        found += records_of(scored, names, data, settings, context)
    return found


def separable(data: ImageDataset, settings: LinearSettings) -> None:
    """Say before any image is opened whether the parts, or the folds, can serve.

    Raises:
        InfeasibleError: A part is missing, or lacks a class; or a class has too few patients.
        UnknownNameError: No metric has the name that C is to be chosen by.
    """
    selection(data, settings)
    check_columns(data, settings)
    if settings.targets == "truncated":
        data = truncate_targets(data)
    settings = evaluated(data, settings)
    if settings.evaluation == "nested_folds":
        _check_folds(data, settings)
        return
    for fraction in settings.fractions:
        _parts(data, settings, fraction)


def evaluated(data: ImageDataset, settings: LinearSettings) -> LinearSettings:
    """Decide from the data what is asked, where the settings leave it open.

    Args:
        data: The images; none is opened.
        settings: With `evaluation` auto, a test part of 50 patients or more (images where patients
            are unknown) is asked. With fewer, every image is asked in nested folds: in as many as
            the settings say, or in three, which is the least. Where no class can be dealt so, the
            test part remains.

    Returns:
        The same settings with `evaluation` test_part or nested_folds, and the numbers of folds and
        of refits.

    Example:
        >>> from medssl_data import load_dataset
        >>> small = load_dataset("phantom:chest-xray").select(range(60))
        >>> evaluated(small, LinearSettings()).evaluation
        'nested_folds'
    """
    chosen = settings if settings.evaluation != "auto" else _asked(data, settings)
    if chosen.refits == "auto":
        refits = REFITS if chosen.evaluation == "nested_folds" else 0
        chosen = chosen.model_copy(update={"refits": refits})
    return chosen


def _asked(data: ImageDataset, settings: LinearSettings) -> LinearSettings:
    splits = zip(data.groups, data.splits, strict=True)
    tested = [group for group, split in splits if split == "test"]
    patients = patients_of(tested, separate=settings.patients == "separate")
    if settings.solver == "converged" and len(set(patients or range(len(tested)))) < ENOUGH:
        for folds in dict.fromkeys((settings.folds, LEAST_FOLDS)):
            chosen = settings.model_copy(update={"evaluation": "nested_folds", "folds": folds})
            with contextlib.suppress(InfeasibleError):
                _check_folds(data, chosen)
                return chosen
    return settings.model_copy(update={"evaluation": "test_part"})


def quick_linear(data: ImageDataset, seed: int) -> LinearSettings:
    """Choose the settings of a ranking.

    Raises:
        InfeasibleError: The data set cannot carry them.
    """
    settings = LinearSettings(seed=seed)
    separable(data, settings)
    return settings


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A classifier of features and how it was found.

    Args:
        solution: The fit on training and validation part with the chosen C.
        path: The fits on the training part, one for each C.
        scores: What each of them scored on the validation part; higher is better.
        scaling: Of training and validation part.
    """

    solution: LogisticSolution
    path: tuple[LogisticSolution, ...]
    scores: tuple[float, ...]
    scaling: Scaling

    def probabilities(self, features: Features) -> Floats:
        """Class probabilities, (N, K), of features (N, D)."""
        return self.solution.probabilities(self.scaling(features))

    def summary(self) -> dict[str, object]:
        """What a record keeps of the fit."""
        return {
            "strength": self.solution.c,
            "fit": _measures([self.solution]),
            "path": {"strengths": [s.c for s in self.path], "scores": list(self.scores)}
            | _measures(self.path),
            "constant_features": self.scaling.constant,
        }

    def notes(self) -> tuple[str, ...]:
        """Say which fits are not optima."""
        short = sum(not solution.converged for solution in (*self.path, self.solution))
        if not short:
            return ()
        return (f"{short} of {len(self.path) + 1} fits stopped before their optimum",)


def fit_linear(
    training: Part,
    validation: Part,
    *,
    settings: LinearSettings,
    select: str = "accuracy",
) -> LinearFit:
    """Choose C on the validation part, and fit both parts with it.

    Args:
        training: Features (N, D), and labels (N,) int64 in 0..K-1 or soft targets (N, K).
        validation: The same of V images.
        settings: Cs, solver and so on.
        select: The metric that chooses; ties keep the larger C.

    Raises:
        InfeasibleError: The metric is not defined on the validation part.
        FeatureError: Features of a wrong shape or not finite.
        LabelError: A class without a training image.
    """
    cs = published_cs() if settings.Cs == "grid" else settings.Cs
    scaling = Scaling.of(training[0], standardise=settings.standardise)
    if settings.solver == "lbfgs_2022":
        return _cut_off(training, validation, settings, cs=cs, select=select)
    factor = _factor(training[1], settings)
    path: list[LogisticSolution] = []
    scores: list[float] = []
    if len(cs) > 1:
        candidates = [c * factor for c in cs]
        path = solve_path(scaling(training[0]), training[1], cs=candidates)
        held, truth = scaling(validation[0]).astype(np.float64), _hard(validation[1])
        scores = [
            validation_score(select, truth, solution.probabilities(held)) for solution in path
        ]
    chosen = choose_c(cs, scores) if scores else 0
    both, targets = _joined(training, validation)
    scaling = Scaling.of(both, standardise=settings.standardise)
    final = solve(scaling(both), targets, c=cs[chosen] * factor)
    return LinearFit(
        solution=replace(final, c=cs[chosen]),
        path=tuple(replace(s, c=c) for s, c in zip(path, cs, strict=False)),
        scores=tuple(scores),
        scaling=scaling,
    )


def _cut_off(
    training: Part,
    validation: Part,
    settings: LinearSettings,
    *,
    cs: Sequence[float],
    select: str,
) -> LinearFit:
    """Search as the study did; features are standardised first where the settings say so."""
    both, _ = _joined(training, validation)
    scaling = Scaling.of(both, standardise=settings.standardise)
    held = _hard(validation[1])
    found = fit_published(
        (scaling(training[0]), _hard(training[1])),
        (scaling(validation[0]), held),
        score=lambda _, probabilities: validation_score(select, held, probabilities),
        cs=cs,
        softmax=settings.binary_form == "softmax",
        warm_refit=settings.refit == "from_last_C",
    )
    return LinearFit(solution=found.final, path=found.path, scores=found.scores, scaling=scaling)


def _factor(targets: NDArray[np.generic], settings: LinearSettings) -> float:
    """Two weight vectors of two classes, each penalised, are one vector with twice the C."""
    classes = targets.shape[1] if targets.ndim == 2 else len(np.unique(targets))
    return 2.0 if settings.binary_form == "softmax" and classes == 2 else 1.0


def _joined(training: Part, validation: Part) -> Part:
    return (
        np.concatenate([training[0], validation[0]]),
        np.concatenate([training[1], validation[1]]),
    )


def _hard(targets: NDArray[np.generic]) -> Labels:
    return np.asarray(targets if targets.ndim == 1 else targets.argmax(axis=1), np.int64)


def _measures(solutions: Sequence[LogisticSolution]) -> dict[str, object]:
    return {
        "objective": [solution.objective for solution in solutions],
        "gradient_norm": [solution.gradient_norm for solution in solutions],
        "iterations": [solution.iterations for solution in solutions],
        "converged": [solution.converged for solution in solutions],
    }


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """What was predicted of some images.

    Args:
        rows: Their positions among the readable images.
        present: The classes that were learnt.
        probabilities: (M, K).
        refits: The same of each refit to resampled training patients.
        given: What the answers are conditional on.
        details: Of the fits.
        notes: Of the fits.
    """

    rows: Labels
    present: Labels
    probabilities: Floats
    refits: tuple[Floats, ...]
    given: str
    details: dict[str, object]
    notes: tuple[str, ...] = ()


def _evaluate(
    data: ImageDataset, features: FeatureSet, settings: LinearSettings, fraction: float
) -> Scored:
    """Fit one fraction and predict the test part, or every image."""
    ask = _ask_folds if settings.evaluation == "nested_folds" else _ask_test_part
    answers = ask(data, features, settings, fraction)
    rows = features.rows[answers.rows]
    return Scored(
        experiment="linear",
        predictions=Predictions(
            ids=tuple(data.ids[row] for row in rows),
            groups=tuple(data.groups[row] for row in rows),
            classes=tuple(data.classes[label] for label in answers.present),
            labels=np.searchsorted(answers.present, features.labels[answers.rows]),
            probabilities=answers.probabilities,
        ),
        settings=_identity(data, settings, fraction),
        provenance=features.provenance,
        details=answers.details
        | {"selected_by": selection(data, settings), "unreadable": len(features.unreadable)},
        notes=answers.notes,
        given=answers.given,
        refits=answers.refits,
        apart=settings.evaluation == "test_part",
    )


def _ask_test_part(
    data: ImageDataset, features: FeatureSet, settings: LinearSettings, fraction: float
) -> _Answers:
    """Choose C on the validation part, and predict the test part."""
    parts = _parts(data, settings, fraction, readable=features.rows)
    held = parts.among(features.rows)
    learnt, table = (held.train, held.validation), features.features
    present = np.unique(features.labels[held.train])
    targets, select = _targets(data, features, present), selection(data, settings)

    def fitted(rows: Sequence[Labels], settings: LinearSettings) -> LinearFit:
        train, validation = ((table[part], targets[part]) for part in rows)
        return fit_linear(train, validation, settings=settings, select=select)

    def drawn(times: Labels) -> list[Labels]:
        return [np.repeat(part, times[part]) for part in learnt]

    def serves(times: Labels) -> bool:
        pairs = zip(drawn(times), learnt, strict=True)
        return all(set(features.labels[one]) == set(features.labels[all_]) for one, all_ in pairs)

    fit = fitted(learnt, settings)
    again = settings.model_copy(update={"Cs": (fit.solution.c,)})
    resampled = bootstrap_times(
        features.groups, learnt, count=_refits(settings), seed=settings.seed, serves=serves
    )
    refits = (fitted(drawn(times), again) for times in resampled)
    return _Answers(
        rows=held.test,
        present=present,
        probabilities=fit.probabilities(table[held.test]),
        refits=tuple(refit.probabilities(table[held.test]) for refit in refits),
        given="one fit",
        details=fit.summary()
        | {
            "train_images": len(held.train),
            "validation_images": len(held.validation),
            "labelled_images": len(held.train) + len(held.validation),
        },
        notes=(*parts.notes, *fit.notes()),
    )


def _ask_folds(
    data: ImageDataset, features: FeatureSet, settings: LinearSettings, fraction: float
) -> _Answers:
    """Predict every image from the others, with a C that was chosen without it."""
    present = np.unique(features.labels)
    deals = list(_deals(data, features, settings, fraction))
    cs = published_cs() if settings.Cs == "grid" else settings.Cs
    chosen = [deal.choose(cs, selection(data, settings)) for deal in deals]
    fits = [deal.fit(own) for deal, own in zip(deals, chosen, strict=True)]
    resampled = bootstrap_times(
        features.groups,
        (np.arange(len(features.rows)),),
        count=_refits(settings),
        seed=settings.seed,
        serves=lambda times: all(deal.serves(times) for deal in deals),
    )
    # One deal serves a refit: what the others would average away is not the training sample.
    refits = (
        deals[place % len(deals)].fit(chosen[place % len(deals)], times)
        for place, times in enumerate(resampled)
    )
    solutions = [solution for fit in fits for solution in fit.solutions]
    short = sum(not solution.converged for solution in solutions)
    trained = float(np.mean([deal.trained for deal in deals]))
    return _Answers(
        rows=np.arange(len(features.rows)),
        present=present,
        probabilities=np.asarray(np.mean([fit.probabilities for fit in fits], axis=0)),
        refits=tuple(refit.probabilities for refit in refits),
        given=f"the fits of {settings.repeats} x {settings.folds} folds",
        details={
            "strength": [list(fit.cs) for fit in fits],
            "fit": _measures(solutions),
            "constant_features": max(fit.constant_features for fit in fits),
            "labelled_images": round(trained),
        },
        notes=(f"{short} of {len(solutions)} fits stopped before their optimum",) if short else (),
    )


def _deals(
    data: ImageDataset, features: FeatureSet, settings: LinearSettings, fraction: float
) -> Iterator[NestedFolds]:
    """Deal the readable images into folds, several times."""
    present, every = np.unique(features.labels), np.arange(len(features.rows))
    labels = np.searchsorted(present, features.labels)
    groups = patients_of(features.groups, separate=settings.patients == "separate")
    seeds = np.random.SeedSequence(settings.seed).generate_state(settings.repeats)
    for seed in seeds.tolist():
        fold_of = assign_folds(
            features.labels, settings.folds, seed=seed, groups=groups, names=data.classes
        )
        kept = every
        if fraction < 1:
            kept = keep_fraction(labels, every, fraction, groups=groups, seed=seed, folds=fold_of)
        yield NestedFolds(
            features.features,
            _targets(data, features, present),
            labels,
            fold_of,
            np.isin(every, kept),
            standardise=settings.standardise,
            factor=_factor(labels, settings),
        )


def _refits(settings: LinearSettings) -> int:
    return 0 if settings.refits == "auto" else settings.refits


def _check_folds(data: ImageDataset, settings: LinearSettings) -> None:
    groups = patients_of(data.groups, separate=settings.patients == "separate")
    check_folds(data.labels, settings.folds, groups=groups, names=data.classes)


def _targets(data: ImageDataset, features: FeatureSet, present: Labels) -> NDArray[np.generic]:
    """What is fitted: places among the classes that are present, or both classes' soft targets."""
    if data.targets is None:
        return np.searchsorted(present, features.labels)
    return _soft(data.targets[features.rows])


def _soft(targets: NDArray[np.float32]) -> Floats:
    """Both classes' targets, (N, 2)."""
    second = targets.astype(np.float64)
    return np.stack([1 - second, second], axis=1)


def _parts(
    data: ImageDataset, settings: LinearSettings, fraction: float, *, readable: Labels | None = None
) -> Partition:
    return partition(
        data,
        separate=settings.patients == "separate",
        fraction=fraction,
        seed=settings.seed,
        readable=readable,
    )


def _identity(data: ImageDataset, settings: LinearSettings, fraction: float) -> dict[str, object]:
    """The settings as a record keeps them: resolved, for one fraction."""
    unused = () if settings.evaluation == "nested_folds" else ("folds", "repeats")
    return resolved(data, settings, "fractions", *unused) | {"fraction": fraction}
