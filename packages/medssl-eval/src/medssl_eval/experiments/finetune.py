"""Fine-tuning: the whole network and a new linear layer are trained on a data set, and tested.

`training_run` is one run; here runs are searched, tested and written down.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.errors import DivergedError
from medssl_eval.experiments.features import prepare
from medssl_eval.experiments.partition import truncate_targets
from medssl_eval.experiments.predictions import Predictions
from medssl_eval.experiments.scoring import Scored, metrics_of, selection
from medssl_eval.statistics.metrics import metric, validation_score
from medssl_eval.stratified.columns import check_columns
from medssl_eval.stratified.records import records_of
from medssl_eval.training.run import TrainingRun, parts_of

if TYPE_CHECKING:
    from pathlib import Path

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Preprocessing, Record, Records, RunContext
    from medssl_models.experiments.settings import ProtocolName
    from numpy.typing import NDArray

    from medssl_eval.experiments.settings import FinetuneSettings
    from medssl_eval.training.classifier import Classifier
    from medssl_eval.training.trainer import TrainingState

    Floats = NDArray[np.float64]
    Rows = NDArray[np.int64]

__all__ = ["candidates", "finetune", "run_finetune", "trainable", "training_passes"]

CURVES, PICTURE, MODEL = "curves.csv", "curves.png", "model"


def finetune(
    backbone: Backbone,
    data: ImageDataset,
    *,
    protocol: ProtocolName = "corrected",
    settings: FinetuneSettings | None = None,
    context: RunContext | None = None,
    **changes: object,
) -> Records:
    """Train a copy of a backbone on the training images and test it on the test images.

    Args:
        backbone: Where training starts; it is not changed.
        data: Images with a training and a test part; see `medssl_eval.experiments.partition`.
        protocol: `published` or `corrected`, where there are no settings.
        settings: Steps, rates, stopping and so on, ready made.
        context: Device, precision, workers, the folder that keeps the run, and what is known
            already. The batch size of the extraction is not used.
        changes: Fields of `FinetuneSettings` as keywords, such as `steps=100`.

    Returns:
        One record for each fraction and metric, each with its interval. `details` holds the course
        of the run, the folder that keeps it, and where the predictions lie.

    Raises:
        InfeasibleError: A part is missing or cannot serve; said before training.
        DivergedError: The loss left all bounds.
        FeatureError: The loss is no number before any step.
        CheckpointFileError: The checkpoint of the run is damaged.

    Example:
        >>> from medssl_data import load_dataset
        >>> from medssl_models import create_model
        >>> data = load_dataset("phantom:chest-xray").select(range(60))
        >>> small = {"steps": 2, "side": 32, "batch_size": 8, "validate_every": 1}
        >>> records = finetune(create_model("random_r18"), data, **small)
        >>> records[0].details["steps"]
        2
    """
    from medssl_models.experiments.runner import measure

    from medssl_eval.experiments.declarations import FINETUNE

    return measure(
        FINETUNE, backbone, data, protocol=protocol, settings=settings, context=context, **changes
    )


def run_finetune(
    backbone: Backbone, data: ImageDataset, settings: FinetuneSettings, context: RunContext
) -> list[Record]:
    """Train and test the fractions that are not known yet; see `finetune`."""
    if settings.targets == "truncated":
        data = truncate_targets(data)
    preprocessing = _resized(prepare(backbone, settings), settings.side)
    provenance = context.provenance(
        backbone,
        data,
        settings,
        preprocessing=preprocessing.fingerprint,
        split=data.manifest.split_policy,
    )
    names = metrics_of(data, settings)
    found: list[Record] = []
    for fraction in settings.fractions:
        run = TrainingRun(backbone, data, settings, context, preprocessing, provenance, fraction)
        known = context.recall("finetune", names, run.identity, provenance)
        found += _run(run, names) if known is None else _known(run, names, known)
    return found


def training_passes(_: ImageDataset, settings: FinetuneSettings) -> int:
    """Count the images that run through the network; a step forwards and backwards counts 3."""
    runs = len(settings.fractions) * (len(candidates()) if settings.search else 1)
    return 3 * runs * settings.steps * settings.batch_size


def trainable(data: ImageDataset, settings: FinetuneSettings) -> None:
    """Say before any image is opened whether the parts can serve.

    Raises:
        InfeasibleError: A part is missing, or lacks a class, or the metric that decides has no
            value on the validation part.
        UnknownNameError: No metric has the name that the best weights are chosen by.
    """
    chosen = metric(selection(data, settings)).name
    check_columns(data, settings)
    if settings.targets == "truncated":
        data = truncate_targets(data)
    for fraction in settings.fractions:
        parts = parts_of(data, settings, fraction)
        if settings.early_stopping or settings.search:
            classes, held = np.unique(data.labels[parts.train]), data.labels[parts.validation]
            unsure = np.full((len(held), len(classes)), 1 / len(classes))
            validation_score(chosen, np.searchsorted(classes, held), unsure)


def _run(run: TrainingRun, names: tuple[str, ...]) -> list[Record]:
    """Search if wanted, train, test, and write down."""
    chosen, notes = _searched(run) if run.settings.search else (run, ())
    with chosen.locked() as folder:
        classifier, state = chosen.trained(folder)
        probabilities, rows = chosen.predicted(classifier, run.parts.test)
        details = _left_behind(chosen, classifier, state, folder)
    return _written(run, names, probabilities, rows, details, notes)


def _searched(run: TrainingRun) -> tuple[TrainingRun, tuple[str, ...]]:
    """Train all candidates on the training part alone; a run that diverges is none."""
    changes: dict[str, object] = {"early_stopping": True}
    if run.settings.search_stopping == "never":
        changes |= {"validate_every": run.settings.steps, "tested_weights": "last"}
    scores: dict[tuple[float, float], float] = {}
    notes = []
    for rate, decay in candidates():
        trial = run.changed(learning_rate=rate, weight_decay=decay, **changes)
        try:
            with trial.locked() as folder:
                _, state = trial.trained(folder)
        except DivergedError as error:
            notes.append(f"learning rate {rate:g}, weight decay {decay:g} diverged")
            last = error
            continue
        scores[rate, decay] = -math.inf if state.best_score is None else state.best_score
    if not scores:
        raise last
    rate, decay = max(scores, key=scores.__getitem__)
    notes.append(f"search chose learning rate {rate:g} and weight decay {decay:g}")
    return run.changed(learning_rate=rate, weight_decay=decay), tuple(notes)


def _left_behind(
    run: TrainingRun, classifier: Classifier, state: TrainingState, folder: Path | None
) -> dict[str, object]:
    """Write curves and model, and give what a record tells of the run."""
    best = run.settings.tested_weights == "best" and state.best_step
    tested = state.best_step if best else state.step
    details: dict[str, object] = {
        "steps": state.step,
        "tested_step": tested,
        "best_step": state.best_step,
        "best_score": state.best_score,
        "learning_rate": run.settings.learning_rate,
        "weight_decay": run.settings.weight_decay,
        "curve": [[point.step, point.train_loss] for point in state.points],
        "validation_curve": [
            [point.step, point.validation_loss, point.validation_score]
            for point in state.points
            if point.validation_score is not None
        ],
    }
    if folder is None:
        return details
    _draw(run, state, folder, tested)
    from medssl_eval.training.model_folder import save_backbone

    save_backbone(
        classifier.backbone,
        run.backbone,
        run.data,
        folder / MODEL,
        preprocessing=run.preprocessing,
        key=run.key,
    )
    return details | {
        "folder": str(folder),
        "model": str(folder / MODEL),
        "curves": str(folder / CURVES),
    }


def _draw(run: TrainingRun, state: TrainingState, folder: Path, tested: int) -> None:
    from medssl_eval.training.learning_curves import draw_curves, write_curves

    write_curves(state.points, folder / CURVES)
    chosen = selection(run.data, run.settings)
    draw_curves(state, folder / PICTURE, title=run.title, metric=chosen, tested=tested)


def _written(
    run: TrainingRun,
    names: tuple[str, ...],
    probabilities: Floats,
    rows: Rows,
    details: dict[str, object],
    notes: tuple[str, ...],
) -> list[Record]:
    data, parts = run.data, run.parts
    sizes = {
        "train": len(parts.train),
        "validation": len(parts.validation),
        "labelled_images": len(parts.train) + len(parts.validation),
    }
    scored = Scored(
        experiment="finetune",
        predictions=Predictions(
            ids=tuple(data.ids[row] for row in rows),
            groups=tuple(data.groups[row] for row in rows),
            classes=tuple(data.classes[label] for label in run.classes),
            labels=np.searchsorted(run.classes, data.labels[rows]),
            probabilities=probabilities,
        ),
        settings=run.identity,
        provenance=run.provenance.model_copy(update={"device": str(run.device)}),
        details={**details, **sizes, "unreadable": len(parts.test) - len(rows)},
        notes=(*parts.notes, *notes),
        given="one training run",
    )
    found = records_of(scored, names, data, run.settings, run.context)
    if run.settings.auroc == "probabilities" or "auroc" not in names:
        return found
    decided = run.judged("auroc", probabilities)
    judged = replace(scored, predictions=replace(scored.predictions, probabilities=decided))
    unkept = replace(run.context, results=None)
    areas = {r.key: r for r in records_of(judged, ("auroc",), data, run.settings, unkept)}
    return [areas.get(record.key, record) for record in found]


def _known(run: TrainingRun, names: tuple[str, ...], known: list[Record]) -> list[Record]:
    """Stratify what is known; areas of decisions cannot be read off the predictions."""
    kept = names if run.settings.auroc == "probabilities" else (n for n in names if n != "auroc")
    return records_of(known, tuple(kept), run.data, run.settings, run.context)


def candidates() -> list[tuple[float, float]]:
    """Learning rates and weight decays of the study's search."""
    return [(rate, factor / rate) for rate in (0.1, 1e-4) for factor in (0.0, 1e-6, 1e-3)]


def _resized(own: Preprocessing, side: int | None) -> Preprocessing:
    """The same geometry at another size."""
    if side is None:
        return own

    def scaled(length: int) -> int:
        return max(side, round(length * side / own.crop))

    resize = own.resize
    size = scaled(resize) if isinstance(resize, int) else (scaled(resize[0]), scaled(resize[1]))
    changed: Preprocessing = own.replace(resize=size, crop=side)
    return changed
