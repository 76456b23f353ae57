"""One run of fine-tuning: a backbone, a data set, a folder that keeps it, and what it sees.

`trainer` takes the steps and `images` decides what each sees; `finetune` makes records.
"""

from __future__ import annotations

import math
import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.experiments.partition import partition
from medssl_eval.experiments.scoring import resolved, selection
from medssl_eval.statistics.metrics import validation_score

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from medssl_data import ImageDataset
    from medssl_models import Backbone, ImageSource, Preprocessing, Provenance, RunContext
    from medssl_models.features.source import Reader
    from numpy.typing import NDArray
    from torch import Tensor

    from medssl_eval.experiments.partition import Partition
    from medssl_eval.experiments.settings import FinetuneSettings
    from medssl_eval.training.classifier import Classifier
    from medssl_eval.training.trainer import TrainingState, Validation

    Floats = NDArray[np.float64]
    Rows = NDArray[np.int64]

__all__ = ["TrainingRun", "parts_of"]

EVALUATED_AT_ONCE = 32
WORKERS = 2
CHECKPOINT_EVERY = 200
CHECKPOINT = "training.safetensors"


@dataclass(frozen=True)
class TrainingRun:
    """One fraction of one experiment.

    Args:
        backbone: Where training starts.
        data: Images with their parts.
        settings: Steps, rates, stopping and so on.
        context: Device, precision and workers, and the folder that keeps the run: checkpoint,
            curves and model. Without a folder a run that is cut off starts anew.
        preprocessing: What the network is fed.
        provenance: Of the records.
        fraction: Share of the training and validation patients.
    """

    backbone: Backbone
    data: ImageDataset
    settings: FinetuneSettings
    context: RunContext
    preprocessing: Preprocessing
    provenance: Provenance
    fraction: float

    @property
    def identity(self) -> dict[str, object]:
        """The settings as a record keeps them, for one fraction."""
        return resolved(self.data, self.settings, "fractions") | {"fraction": self.fraction}

    @property
    def parts(self) -> Partition:
        """Who trains, who validates, who is tested."""
        return parts_of(self.data, self.settings, self.fraction)

    @property
    def classes(self) -> Rows:
        """Labels that occur in training; a class that nobody has seen has no output."""
        return np.asarray(np.unique(self.data.labels[self.parts.train]), np.int64)

    @property
    def title(self) -> str:
        """What messages call the run."""
        share = "" if self.fraction == 1 else f", fraction {self.fraction:g}"
        return f"{self.backbone.name} on {self.data.name}{share}"

    def changed(self, **changes: object) -> TrainingRun:
        """Make the run with other settings, and without a search."""
        chosen = self.settings.model_copy(update={**changes, "search": False})
        return replace(self, settings=chosen)

    @contextmanager
    def locked(self) -> Iterator[Path | None]:
        """Yield the run's folder; of two processes with the same run one waits."""
        from filelock import FileLock, Timeout

        if self.context.output is None:
            yield None
            return
        folder = self.context.output / self._folder_name()
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.context.say(f"{self.title}: another process trains this; waiting for it")
            lock.acquire()
        try:
            yield folder
        finally:
            lock.release()

    def _folder_name(self) -> str:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{self.backbone.name}-{self.data.name}")
        return f"{plain.strip('-')}-{self.key[:12]}"

    @property
    def key(self) -> str:
        """Digits that say which run this is."""
        from medssl_models.experiments.record import record_key

        # How an interval is stated trains nothing: no run is repeated for another.
        trained = {name: value for name, value in self.identity.items() if name != "interval"}
        return record_key("finetune", "training", trained, self.provenance)

    @property
    def device(self) -> torch.device:
        """Where the run is computed."""
        from medssl_models.features.runtime import resolve_device

        return resolve_device(self.context.extracting.device)

    def trained(self, folder: Path | None) -> tuple[Classifier, TrainingState]:
        """Train, or go on where the folder's checkpoint is."""
        from medssl_eval.training.classifier import Classifier as Network
        from medssl_eval.training.trainer import Trainer, TrainerOptions

        context = self.context
        checkpoint = None if folder is None else folder / CHECKPOINT
        if checkpoint is not None and context.extracting.force:
            checkpoint.unlink(missing_ok=True)
        trainer = Trainer(
            Network(self.backbone, len(self.classes), seed=self.settings.seed),
            self.settings,
            validate=self._validated if self.settings.early_stopping else None,
            options=TrainerOptions(
                device=self.device,
                precision=context.extracting.precision,
                checkpoint=checkpoint,
                every=getattr(context.options, "checkpoint_every", CHECKPOINT_EVERY),
                progress=context.progress,
                say=context.say,
            ),
            title=self.title,
        )
        return trainer.classifier, trainer.run(self._batches)

    def _batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Read the batches from a step on, cropped and mirrored at random."""
        import torch

        from medssl_eval.training.images import Augmentation, TrainingImages, stretches

        settings, own = self.settings, self.preprocessing
        parts, size = self.parts, settings.batch_size
        rows = parts.train
        if not settings.early_stopping:
            rows = np.sort(np.concatenate([parts.train, parts.validation]))
        augment = Augmentation(own.crop, own.interpolation, settings.smallest_crop, settings.flip)
        length = settings.steps * size
        images = TrainingImages(self.data, rows, length, augment, seed=settings.seed)
        reader = self._reader(images, own.replace(resize=(own.crop, own.crop)), size)
        targets = self._targets()
        full = settings.last_batch == "full"
        for positions in stretches(len(rows), size, settings.steps, start=start, full=full):
            for batch in reader.batches(positions):
                good = np.flatnonzero(batch.readable)
                chosen = [images.row(int(position)) for position in batch.rows[good]]
                if chosen:
                    yield batch.images[torch.from_numpy(good)], torch.from_numpy(targets[chosen])

    def _reader(self, images: ImageSource, preprocessing: Preprocessing, size: int) -> Reader:
        from medssl_models.features.source import Reader as BatchReader

        extracting = self.context.extracting
        workers = WORKERS if extracting.workers is None else extracting.workers
        return BatchReader(images, preprocessing, size, workers, extracting.skip_unreadable)

    def _targets(self) -> NDArray[np.generic]:
        """Return (N,) int64 classes by place in `classes`, or (N, 2) float32 soft ones."""
        soft = self.data.targets
        if soft is None:
            return np.asarray(np.searchsorted(self.classes, self.data.labels), np.int64)
        return np.stack([1 - soft, soft], axis=1).astype(np.float32)

    def _validated(self, classifier: Classifier) -> Validation:
        from medssl_eval.training.trainer import Validation as Found

        probabilities, rows = self.predicted(classifier, self.parts.validation)
        if not np.isfinite(probabilities).all():
            return Found(math.nan, math.nan)
        targets = self._targets()[rows]
        shares = targets if targets.ndim == 2 else np.eye(len(self.classes))[targets]
        tiny = np.finfo(np.float64).tiny
        loss = float(-(shares * np.log(np.maximum(probabilities, tiny))).sum(axis=1).mean())
        chosen = selection(self.data, self.settings)
        labels = np.searchsorted(self.classes, self.data.labels[rows])
        return Found(loss, validation_score(chosen, labels, self.judged(chosen, probabilities)))

    def judged(self, name: str, probabilities: Floats) -> Floats:
        """Return decisions for probabilities where the area under the curve is to see those."""
        if name != "auroc" or self.settings.auroc == "probabilities":
            return probabilities
        return np.asarray(np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)])

    def predicted(self, classifier: Classifier, rows: Rows) -> tuple[Floats, Rows]:
        """Predict probabilities (M, K) of the readable rows, and return which they are."""
        import torch

        from medssl_eval.training.classifier import predict

        seen: list[Rows] = []
        reader = self._reader(self.data, self.preprocessing, min(EVALUATED_AT_ONCE, len(rows)))

        def readable() -> Iterator[Tensor]:
            for batch in reader.batches(np.sort(rows)):
                seen.append(batch.rows[batch.readable])
                good = np.flatnonzero(batch.readable)
                yield batch.images[torch.from_numpy(good)]

        precision = self.context.extracting.precision
        found = predict(classifier, readable(), device=self.device, precision=precision)
        return np.asarray(found.exp().numpy(), np.float64), np.concatenate(seen)


def parts_of(data: ImageDataset, settings: FinetuneSettings, fraction: float) -> Partition:
    """Cut the data as the settings say."""
    separate = settings.patients == "separate"
    return partition(data, separate=separate, fraction=fraction, seed=settings.seed)
