"""The training loop: steps, validations, early stopping, and going on after a kill.

What is trained on and what is validated come as arguments; what the numbers mean is decided in
`finetune`. On one machine a run that was killed and goes on has the same weights, bit for bit, as a
run in one piece.
"""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from medssl_eval.errors import DivergedError, FeatureError
from medssl_eval.training.checkpoint import read_checkpoint, write_checkpoint
from medssl_eval.training.classifier import (
    Classifier,
    laid_out,
    learning_rate,
    make_optimiser,
    random_numbers,
    training_step,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from medssl_models.console import Advance, Progress

    from medssl_eval.experiments.settings import FinetuneSettings

    Batches = Callable[[int], Iterable[tuple[Tensor, Tensor]]]

__all__ = ["Point", "Trainer", "TrainerOptions", "TrainingState", "Validation"]

POINT_EVERY = 10
"""Steps whose mean loss is one point of the learning curve."""
DIVERGED = 10.0
"""No return from a mean loss of so many times the larger of ln(classes) and the loss at first."""
USUAL_RATE = 0.01
"""No larger rate is advised where one has diverged."""
_MODEL, _MOMENTUM, _BEST = "model.", "momentum.", "best."


@dataclass(frozen=True)
class Point:
    """One point of the learning curves.

    Args:
        step: Steps done.
        learning_rate: Of the last of them.
        train_loss: Mean cross-entropy over the steps since the point before.
        validation_loss: Cross-entropy of the validation images, where they were looked at.
        validation_score: The metric that selects, likewise.
    """

    step: int
    learning_rate: float
    train_loss: float
    validation_loss: float | None = None
    validation_score: float | None = None


@dataclass(frozen=True)
class Validation:
    """One validation.

    Args:
        loss: Cross-entropy of the validation images.
        score: The metric that selects; higher is better.
    """

    loss: float
    score: float


@dataclass
class TrainingState:
    """How far a run is and how it went.

    Args:
        step: Steps done.
        points: Of the learning curves.
        pending: Losses since the last point.
        best_step: When the validation was best; 0 before the first.
        best_score: The metric then.
        worse: Validations without progress in a row.
        finished: All steps are done, or it was stopped early.
    """

    step: int = 0
    points: list[Point] = field(default_factory=list)
    pending: list[float] = field(default_factory=list)
    best_step: int = 0
    best_score: float | None = None
    worse: int = 0
    finished: bool = False


@dataclass(frozen=True)
class TrainerOptions:
    """Where a run is computed and kept.

    Args:
        device: Where it is computed.
        precision: bf16 multiplies in half precision; weights and their updates stay float32.
        checkpoint: The file that keeps the run; None keeps nothing.
        every: Steps between checkpoints.
        progress: Shows how far it is.
        say: Takes a note on each validation.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint: Path | None = None
    every: int = 200
    progress: Progress | None = None
    say: Callable[[str], None] = lambda _: None


class Trainer:
    """Trains a classifier in place.

    Args:
        classifier: Moved to the device and laid out for training.
        settings: Steps, rates and stopping.
        validate: Looks at the validation images; None trains to the end.
        options: Where it is computed and kept.
        title: Shown beside the progress.
    """

    def __init__(
        self,
        classifier: Classifier,
        settings: FinetuneSettings,
        *,
        validate: Callable[[Classifier], Validation] | None = None,
        options: TrainerOptions | None = None,
        title: str = "training",
    ) -> None:
        self.options = options or TrainerOptions()
        self.classifier = laid_out(classifier, self.options.device)
        self.settings = settings
        self.validate = validate
        self.title = title
        self.state = TrainingState()
        self.best: dict[str, Tensor] = {}
        self.optimiser = make_optimiser(self.classifier, settings)

    def run(self, batches: Batches) -> TrainingState:
        """Train to the end, from the last checkpoint on where there is one.

        The classifier then has the weights that are to be tested.

        Args:
            batches: Step to the batches from it on: images `(B, 3, H, W)` float32 normalised, and
                targets, `(B,)` int64 classes or `(B, K)` float32 shares.

        Raises:
            DivergedError: The loss left all bounds; nothing is kept.
            FeatureError: The loss is no number before any step.
            CheckpointFileError: The checkpoint is damaged.
        """
        self._resume()
        state, settings = self.state, self.settings
        with self._progress() as advance, self._deterministic():
            advance(state.step)
            for images, targets in self._until_finished(batches):
                self._step(images, targets)
                self._log_and_validate()
                if not state.finished and state.step % self.options.every == 0:
                    self._save()
                advance(note=self._note())
        if settings.tested_weights == "best" and self.best:
            self.classifier.load_state_dict(self.best)
        self._drop_optimiser()
        return state

    def _drop_optimiser(self) -> None:
        """Keep no more of a finished run than the weights that are tested."""
        if self.best or self.optimiser.state:
            self.best = {}
            self.optimiser.state.clear()
            self._save()

    def _until_finished(self, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
        if self.state.finished:
            return
        for batch in batches(self.state.step):
            yield batch
            if self.state.finished:
                return

    def _step(self, images: Tensor, targets: Tensor) -> None:
        state, settings = self.state, self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(settings, state.step)
        with random_numbers(settings.seed, state.step, self.options.device):
            loss = training_step(
                self.classifier,
                self.optimiser,
                images.to(self.options.device, non_blocking=True),
                targets.to(self.options.device, non_blocking=True),
                precision=self.options.precision,
            )
        state.step += 1
        state.pending.append(float(loss))
        if not math.isfinite(state.pending[-1]):
            if state.step == 1:
                self._stop_at_start(state.pending[-1])
            self._stop_diverged(state.pending[-1])

    def _log_and_validate(self) -> None:
        """Validate where it is due, and add the next point to the curves."""
        state, settings = self.state, self.settings
        last, found = state.step == settings.steps, None
        if self.validate is not None and (last or state.step % settings.validate_every == 0):
            found = self.validate(self.classifier)
            if not math.isfinite(found.loss):
                self._stop_diverged(found.loss)
        if found is not None or last or state.step % POINT_EVERY == 0:
            self._add_point(found)
        if found is not None:
            self._compare_with_best(found.score)
        state.finished = state.finished or last
        if state.finished:
            self._save()

    def _add_point(self, found: Validation | None) -> None:
        state = self.state
        mean = math.fsum(state.pending) / len(state.pending)
        rate = learning_rate(self.settings, state.step - 1)
        seen = (found.loss, found.score) if found else (None, None)
        state.points.append(Point(state.step, rate, mean, *seen))
        state.pending.clear()
        start = max(point.train_loss for point in state.points[:3])
        bound = DIVERGED * max(start, math.log(self.classifier.head.out_features))
        if mean > bound:
            self._stop_diverged(mean)

    def _compare_with_best(self, score: float) -> None:
        state, settings = self.state, self.settings
        best = state.best_score
        tie = score == best and settings.ties == "progress"
        if best is None or score > best or tie:
            state.best_score, state.best_step, state.worse = score, state.step, 0
            if settings.tested_weights == "best":
                weights = self.classifier.state_dict()
                self.best = {name: t.detach().cpu().clone() for name, t in weights.items()}
        else:
            state.worse += 1
            state.finished = state.worse >= settings.patience
        self.options.say(f"{self.title}, {self._note()}")

    def _stop_diverged(self, loss: float) -> None:
        if self.options.checkpoint is not None:
            self.options.checkpoint.unlink(missing_ok=True)
        rate = self.settings.learning_rate
        smaller = min(rate / 10, USUAL_RATE)
        message = (
            f"{self.title}: training diverged at step {self.state.step} (loss {loss:.3g}); "
            f"nothing is kept; try a smaller learning rate, such as {smaller:g}"
        )
        raise DivergedError(message)

    def _stop_at_start(self, loss: float) -> None:
        message = (
            f"{self.title}: the loss is {loss:.3g} before the first step; check the training "
            "images and the weights, or try another precision"
        )
        raise FeatureError(message)

    def _note(self) -> str:
        state = self.state
        if not state.points:
            return ""
        text = f"step {state.points[-1].step}, loss {state.points[-1].train_loss:.3f}"
        looks = [point for point in state.points if point.validation_score is not None]
        if looks:
            text += f", validation {looks[-1].validation_score:.3f} (best {state.best_score:.3f})"
        return text

    @contextmanager
    def _progress(self) -> Iterator[Advance]:
        shown = self.options.progress
        bar = shown(self.title, self.settings.steps) if shown else nullcontext(_count_nothing)
        with bar as advance:
            try:
                yield advance
            except KeyboardInterrupt as stop:
                stop.add_note(self._what_is_kept())
                raise

    def _what_is_kept(self) -> str:
        if self.options.checkpoint is None or not self.options.checkpoint.exists():
            return "no checkpoint was written yet: the same command starts anew"
        return "the last checkpoint is kept: the same command goes on from there"

    @contextmanager
    def _deterministic(self) -> Iterator[None]:
        """Compute the same numbers on every run; TF32 would round inputs of fp32 convolutions."""
        if self.options.device.type != "cuda":
            yield
            return
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield

    # ---- checkpoints

    def _save(self) -> None:
        if self.options.checkpoint is None:
            return
        tensors = {_MODEL + name: t for name, t in self.classifier.state_dict().items()}
        tensors |= {_BEST + name: t for name, t in self.best.items()}
        for name, parameter in self.classifier.named_parameters():
            momentum = self.optimiser.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[_MOMENTUM + name] = momentum
        write_checkpoint(self.options.checkpoint, tensors, asdict(self.state))

    def _resume(self) -> None:
        path = self.options.checkpoint
        found = None if path is None else read_checkpoint(path)
        if found is None:
            return
        tensors, state = found
        points = [Point(**point) for point in state.pop("points")]
        self.state = TrainingState(**state, points=points)
        self.classifier.load_state_dict(_under(_MODEL, tensors))
        self.best = _under(_BEST, tensors)
        momenta = _under(_MOMENTUM, tensors)
        for name, parameter in self.classifier.named_parameters():
            if name in momenta:
                buffer = torch.empty_like(parameter).copy_(momenta[name])  # in its memory layout
                self.optimiser.state[parameter]["momentum_buffer"] = buffer
        if not self.state.finished:
            self.options.say(f"{self.title}: goes on from step {self.state.step}")


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _count_nothing(n: int = 1, *, note: str = "") -> None:
    """Stand in for the progress bar."""
