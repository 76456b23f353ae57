"""Fine-tuning: the whole network and a new linear layer are trained on a data set, and tested.

`training` runs the steps, `training_images` decides what each step sees; here it is joined with a
backbone, a data set and a folder that keeps the run.
"""

from __future__ import annotations

import math
import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.errors import DivergedError
from medssl_eval.features import Means, marks, prepare, provenance_of
from medssl_eval.metrics import metric
from medssl_eval.outcome import Outcome, known_records, metric_names, primary_metric
from medssl_eval.partition import partition, truncate_targets
from medssl_eval.predictions import Predictions
from medssl_eval.protocols import FinetuneSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Preprocessing, Provenance, Record
    from numpy.typing import NDArray
    from torch import Tensor

    from medssl_eval.classifier import Classifier
    from medssl_eval.partition import Partition
    from medssl_eval.training import Course, Place, Validation

    Floats = NDArray[np.float64]
    Rows = NDArray[np.int64]

__all__ = ["Keep", "candidates", "finetune", "trainable"]

EVALUATED_AT_ONCE = 32
WORKERS = 2
CHECKPOINT, CURVES, PICTURE, MODEL = "training.safetensors", "curves.csv", "curves.png", "model"


@dataclass(frozen=True)
class Keep:
    """What a run leaves behind, and what it tells on the way.

    Attributes:
        folder: Each run gets a folder in it: checkpoint, curves and model. None keeps nothing, so
            that a run that is cut off starts anew.
        every: Steps between checkpoints.
        say: Takes notes on how far it is.
    """

    folder: Path | None = None
    every: int = 200
    say: Callable[[str], None] = lambda _: None


def finetune(
    backbone: Backbone,
    data: ImageDataset,
    *,
    settings: FinetuneSettings | None = None,
    means: Means | None = None,
    keep: Keep | None = None,
) -> list[Record]:
    """Train a copy of a backbone on the training images and test it on the test images.

    Args:
        backbone: Where training starts; it is not changed.
        data: Images with a training and a test part; see `medssl_eval.partition`.
        settings: Steps, rates, stopping and so on; None is the corrected preset.
        means: Device, precision, workers and what is known already. The batch size of the
            extraction is not used.
        keep: Where the run is kept.

    Returns:
        One record for each fraction and metric, each with its interval. `details` holds the course
        of the run, the folder that keeps it, and where the predictions lie.

    Raises:
        InfeasibleError: A part is missing or cannot serve; said before training.
        DivergedError: The loss left all bounds.
        FeatureError: The loss is no number before any step.
        CheckpointFileError: The checkpoint of the run is damaged.
    """
    settings, means, keep = settings or FinetuneSettings(), means or Means(), keep or Keep()
    trainable(data, settings)
    if settings.targets == "truncated":
        data = truncate_targets(data)
    preprocessing = _resized(prepare(backbone, settings), settings.side)
    provenance = provenance_of(
        backbone,
        data,
        settings,
        preprocessing=preprocessing,
        extraction=means.extraction,
        split=data.manifest.split_policy,
    )
    found: list[Record] = []
    for fraction in settings.fractions:
        task = _Task(backbone, data, settings, means, keep, preprocessing, provenance, fraction)
        names = _names(data, settings)
        known = known_records(means.known, "finetune", names, task.identity, provenance)
        found += task.run(names) if known is None else known
    return found


def trainable(data: ImageDataset, settings: FinetuneSettings) -> None:
    """Say before any image is opened whether the parts can serve.

    Raises:
        InfeasibleError: A part is missing, or lacks a class.
        UnknownNameError: No metric has the name that the best weights are chosen by.
    """
    metric(_selection(data, settings))
    if settings.targets == "truncated":
        data = truncate_targets(data)
    for fraction in settings.fractions:
        _parts(data, settings, fraction)


@dataclass(frozen=True)
class _Task:
    """One fraction of one experiment."""

    backbone: Backbone
    data: ImageDataset
    settings: FinetuneSettings
    means: Means
    keep: Keep
    preprocessing: Preprocessing
    provenance: Provenance
    fraction: float

    @property
    def identity(self) -> dict[str, object]:
        """The settings as a record keeps them, for one fraction."""
        fields = self.settings.model_dump(exclude={"protocol", "seed", "fractions", "ordered"})
        chosen = _selection(self.data, self.settings)
        return fields | {"fraction": self.fraction, "select": chosen}

    @property
    def parts(self) -> Partition:
        return _parts(self.data, self.settings, self.fraction)

    @property
    def classes(self) -> Rows:
        """Labels that occur in training; a class that nobody has seen has no output."""
        return np.asarray(np.unique(self.data.labels[self.parts.train]), np.int64)

    @property
    def title(self) -> str:
        share = "" if self.fraction == 1 else f", fraction {self.fraction:g}"
        return f"{self.backbone.name} on {self.data.name}{share}"

    def run(self, names: tuple[str, ...]) -> list[Record]:
        """Search if wanted, train, test, and write down."""
        task: _Task = self
        notes: tuple[str, ...] = ()
        if self.settings.search:
            task, notes = self._searched()
        with task._locked() as folder:
            classifier, course = task._trained(folder)
            probabilities, rows = task._predicted(classifier, self.parts.test)
            details = task._left_behind(classifier, course, folder)
        return self._written(names, probabilities, rows, details, notes)

    # ---- training

    def _searched(self) -> tuple[_Task, tuple[str, ...]]:
        """Train all candidates with early stopping; a run that diverges is none."""
        scores: dict[tuple[float, float], float] = {}
        notes = []
        for rate, decay in candidates():
            task = self._with(learning_rate=rate, weight_decay=decay, early_stopping=True)
            try:
                with task._locked() as folder:
                    _, course = task._trained(folder)
            except DivergedError as error:
                notes.append(f"learning rate {rate:g}, weight decay {decay:g} diverged")
                last = error
                continue
            scores[rate, decay] = -math.inf if course.best_score is None else course.best_score
        if not scores:
            raise last
        rate, decay = max(scores, key=scores.__getitem__)
        notes.append(f"search chose learning rate {rate:g} and weight decay {decay:g}")
        return self._with(learning_rate=rate, weight_decay=decay), tuple(notes)

    def _with(self, **changes: object) -> _Task:
        chosen = self.settings.model_copy(update={**changes, "search": False})
        return replace(self, settings=chosen)

    @contextmanager
    def _locked(self) -> Iterator[Path | None]:
        """Give the run's folder; of two processes with the same run one waits."""
        from filelock import FileLock, Timeout  # noqa: PLC0415 # only where a run is kept

        if self.keep.folder is None:
            yield None
            return
        folder = self.keep.folder / self._folder_name()
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.keep.say(f"{self.title}: another process trains this; waiting for it")
            lock.acquire()
        try:
            yield folder
        finally:
            lock.release()

    def _folder_name(self) -> str:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{self.backbone.name}-{self.data.name}")
        return f"{plain.strip('-')}-{self._key()[:12]}"

    def _key(self) -> str:
        from medssl_models.records import record_key  # noqa: PLC0415 # imports torch

        return record_key("finetune", "training", self.identity, self.provenance)

    def _trained(self, folder: Path | None) -> tuple[Classifier, Course]:
        from medssl_eval.classifier import Classifier as Network  # noqa: PLC0415 # imports torch
        from medssl_eval.training import Trainer  # noqa: PLC0415 # as above

        place = self._place(folder)
        if folder is not None and self.means.extraction and self.means.extraction.force:
            (folder / CHECKPOINT).unlink(missing_ok=True)
        trainer = Trainer(
            Network(self.backbone, len(self.classes), seed=self.settings.seed),
            self.settings,
            validate=self._validated if self.settings.early_stopping else None,
            place=place,
            title=self.title,
        )
        return trainer.classifier, trainer.run(self._batches)

    def _place(self, folder: Path | None) -> Place:
        from medssl_models.runtime import resolve_device  # noqa: PLC0415 # imports torch

        from medssl_eval.training import Place as Where  # noqa: PLC0415 # as above

        extraction = self.means.extraction
        return Where(
            device=resolve_device(extraction.device if extraction else "auto"),
            precision=extraction.precision if extraction else "fp32",
            checkpoint=None if folder is None else folder / CHECKPOINT,
            every=self.keep.every,
            progress=self.means.progress,
            say=self.keep.say,
        )

    def _batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Read the batches from a step on, cropped and mirrored at random."""
        import torch  # noqa: PLC0415 # slow to import
        from medssl_models.source import Reader  # noqa: PLC0415 # imports torch

        from medssl_eval.training_images import Augmentation, TrainingImages  # noqa: PLC0415

        settings, own = self.settings, self.preprocessing
        parts, size = self.parts, settings.batch_size
        rows = parts.train
        if not settings.early_stopping:
            rows = np.sort(np.concatenate([parts.train, parts.validation]))
        augment = Augmentation(own.crop, own.interpolation, settings.smallest_crop, settings.flip)
        length = settings.steps * size
        images = TrainingImages(self.data, rows, length, augment, seed=settings.seed)
        reader = Reader(
            images, own.replace(resize=(own.crop, own.crop)), size, self._workers(), self._skips()
        )
        targets = self._targets()
        for batch in reader.batches(np.arange(start * size, length)):
            good = batch.readable
            chosen = [images.row(int(position)) for position in batch.rows[good]]
            if chosen:
                yield batch.images[torch.from_numpy(good)], torch.from_numpy(targets[chosen])

    def _targets(self) -> NDArray[np.generic]:
        """(N,) int64 classes by place in `classes`, or (N, 2) float32 soft ones."""
        soft = self.data.targets
        if soft is None:
            return np.asarray(np.searchsorted(self.classes, self.data.labels), np.int64)
        return np.stack([1 - soft, soft], axis=1).astype(np.float32)

    # ---- looking at images

    def _validated(self, classifier: Classifier) -> Validation:
        from medssl_eval.training import Validation as Look  # noqa: PLC0415 # imports torch

        probabilities, rows = self._predicted(classifier, self.parts.validation)
        if not np.isfinite(probabilities).all():
            return Look(math.nan, math.nan)
        targets = self._targets()[rows]
        shares = targets if targets.ndim == 2 else np.eye(len(self.classes))[targets]
        tiny = np.finfo(np.float64).tiny
        loss = float(-(shares * np.log(np.maximum(probabilities, tiny))).sum(axis=1).mean())
        chosen = metric(_selection(self.data, self.settings))
        labels = np.searchsorted(self.classes, self.data.labels[rows])
        measured = chosen(labels, self._judged(chosen.name, probabilities))
        value = -math.inf if measured.value is None else measured.value
        return Look(loss, value if chosen.higher_is_better else -value)

    def _judged(self, name: str, probabilities: Floats) -> Floats:
        """Under the study's way, the area under the curve sees decisions, not probabilities."""
        if name != "auroc" or self.settings.auroc == "probabilities":
            return probabilities
        return np.asarray(np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)])

    def _predicted(self, classifier: Classifier, rows: Rows) -> tuple[Floats, Rows]:
        """Probabilities (M, K) of the readable rows, and which they are."""
        import torch  # noqa: PLC0415 # slow to import
        from medssl_models.source import Reader  # noqa: PLC0415 # imports torch

        from medssl_eval.classifier import predict  # noqa: PLC0415 # as above

        place, seen = self._place(None), []
        size = min(EVALUATED_AT_ONCE, len(rows))
        reader = Reader(self.data, self.preprocessing, size, self._workers(), self._skips())

        def readable() -> Iterator[Tensor]:
            for batch in reader.batches(np.sort(rows)):
                seen.append(batch.rows[batch.readable])
                good = np.flatnonzero(batch.readable)
                yield batch.images[torch.from_numpy(good)]

        found = predict(classifier, readable(), device=place.device, precision=place.precision)
        return np.asarray(found.exp().numpy(), np.float64), np.concatenate(seen)

    def _workers(self) -> int:
        chosen = self.means.extraction.workers if self.means.extraction else None
        return WORKERS if chosen is None else chosen

    def _skips(self) -> bool:
        return bool(self.means.extraction and self.means.extraction.skip_unreadable)

    # ---- what remains

    def _left_behind(
        self, classifier: Classifier, course: Course, folder: Path | None
    ) -> dict[str, object]:
        """Write curves and model, and give what a record tells of the run."""
        best = self.settings.tested_weights == "best" and course.best_step
        tested = course.best_step if best else course.step
        details: dict[str, object] = {
            "steps": course.step,
            "tested_step": tested,
            "best_step": course.best_step,
            "validation": course.best_score,
            "learning_rate": self.settings.learning_rate,
            "weight_decay": self.settings.weight_decay,
            "curve": [[point.step, point.train_loss] for point in course.points],
            "validation_curve": [
                [point.step, point.validation_loss, point.validation_score]
                for point in course.points
                if point.validation_score is not None
            ],
        }
        if folder is None:
            return details
        self._draw(course, folder, tested)
        from medssl_eval.finetuned_model import save_backbone  # noqa: PLC0415 # imports torch

        save_backbone(
            classifier.backbone,
            self.backbone,
            self.data,
            folder / MODEL,
            preprocessing=self.preprocessing,
            key=self._key(),
        )
        return details | {
            "folder": str(folder),
            "model": str(folder / MODEL),
            "curves": str(folder / CURVES),
        }

    def _draw(self, course: Course, folder: Path, tested: int) -> None:
        from medssl_eval.learning_curves import draw_curves, write_curves  # noqa: PLC0415 # slow

        write_curves(course.points, folder / CURVES)
        chosen = _selection(self.data, self.settings)
        draw_curves(course, folder / PICTURE, title=self.title, metric=chosen, tested=tested)

    def _written(
        self,
        names: tuple[str, ...],
        probabilities: Floats,
        rows: Rows,
        details: dict[str, object],
        notes: tuple[str, ...],
    ) -> list[Record]:
        data, parts = self.data, self.parts
        sizes = {"train": len(parts.train), "validation": len(parts.validation)}
        flags = {"control": self.backbone.card.control, "synthetic": data.manifest.synthetic}
        skipped = len(parts.test) - len(rows)
        outcome = Outcome(
            experiment="finetune",
            predictions=Predictions(
                ids=tuple(data.ids[row] for row in rows),
                groups=tuple(data.groups[row] for row in rows),
                classes=tuple(data.classes[label] for label in self.classes),
                labels=np.searchsorted(self.classes, data.labels[rows]),
                probabilities=probabilities,
            ),
            settings=self.identity,
            provenance=self.provenance.model_copy(update={"device": str(self._place(None).device)}),
            details={**details, **sizes, **flags, "unreadable": skipped},
            notes=(*marks(self.backbone, data, skipped=skipped), *parts.notes, *notes),
        )
        found: list[Record] = outcome.records(names, folder=self.means.predictions)
        if self.settings.auroc == "probabilities" or "auroc" not in names:
            return found
        decided = self._judged("auroc", probabilities)
        judged = replace(outcome, predictions=replace(outcome.predictions, probabilities=decided))
        areas = {record.metric: record for record in judged.records(("auroc",), folder=None)}
        return [areas.get(record.metric, record) for record in found]


def candidates() -> list[tuple[float, float]]:
    """Learning rates and weight decays of the study's search."""
    return [(rate, factor / rate) for rate in (0.1, 1e-4) for factor in (0.0, 1e-6, 1e-3)]


def _names(data: ImageDataset, settings: FinetuneSettings) -> tuple[str, ...]:
    graded = data.card is not None and data.card.ordered
    return metric_names(ordered=graded if settings.ordered == "card" else settings.ordered)


def _selection(data: ImageDataset, settings: FinetuneSettings) -> str:
    return primary_metric(data) if settings.select == "study" else settings.select


def _parts(data: ImageDataset, settings: FinetuneSettings, fraction: float) -> Partition:
    separate = settings.patients == "separate"
    return partition(data, separate=separate, fraction=fraction, seed=settings.seed)


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
