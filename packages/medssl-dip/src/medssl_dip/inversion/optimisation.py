"""The optimisation itself: a batch of runs, without files and without printing.

A run's course is a list of losses; `StopRule` reads from it alone when to stop, so that a resumed
run stops where an uninterrupted one does.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from medssl_dip.errors import CompilerError, OutOfMemoryError
from medssl_dip.feature_extractor import autocast
from medssl_dip.prior import Hourglass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from medssl_dip.inversion.objective import Objective
    from medssl_dip.settings import ReconstructionSettings

__all__ = [
    "Inversion",
    "StopRule",
    "Verdict",
    "compiler_advice",
    "memory_advice",
    "repeatable",
]

Verdict = Literal["go", "steps", "plateau", "diverged"]


@dataclass
class StopRule:
    """Decides after each loss whether a run goes on.

    Args:
        steps: Updates at most.
        patience: Steps without progress after which a run stops; None never stops it.
        tolerance: Least relative fall of the best loss that counts as progress.
        divergence: A loss so many times the first one, or not finite, has diverged.
    """

    steps: int
    patience: int | None
    tolerance: float
    divergence: float
    first: float = math.nan
    best: float = math.inf
    best_step: int = 0

    @classmethod
    def of(cls, settings: ReconstructionSettings) -> StopRule:
        """Make the rule of some settings."""
        return cls(settings.steps, settings.patience, settings.tolerance, settings.divergence)

    def see(self, step: int, loss: float) -> Verdict:
        """Judge the loss before update `step` (counted from 0).

        Returns:
            `go`; `diverged`; `plateau` when progress ended; `steps` when this is the last update.
        """
        if step == 0:
            self.first = loss
        if not math.isfinite(loss) or loss > self.divergence * self.first:
            return "diverged"
        if loss < self.best * (1 - self.tolerance):
            self.best, self.best_step = loss, step
        if step + 1 >= self.steps:
            return "steps"
        stalled = self.patience is not None and step - self.best_step >= self.patience
        return "plateau" if stalled else "go"


class Inversion:
    """Several runs that are optimised as one batch.

    Each run has its own prior and its own optimiser; only the backbone sees them together, and it
    treats pictures one by one. So a run does not depend on what runs beside it. (Priors as one
    grouped network were measured: a little faster on a CPU, but other kernels than a single run's,
    and the course of an optimisation magnifies their rounding a hundredfold a step.)

    Args:
        objective: One original a run.
        settings: Shape of the prior and the learning rate.
        seeds: One seed a run.
        crop: Side of the picture.
        compiled: Compile prior and objective with `torch.compile`.

    Attributes:
        step: How many updates were made.

    Example:
        >>> from medssl_dip import FeatureExtractor, Objective, settings_for
        >>> from medssl_models import create_model
        >>> backbone = create_model("random_r18")
        >>> extractor = FeatureExtractor(backbone, backbone.preprocessing)
        >>> objective = Objective(extractor, torch.rand(2, 3, 32, 32), layer="layer1")
        >>> runs = Inversion(objective, settings_for(preset="quick"), seeds=[0, 1], crop=32)
        >>> losses, pictures = runs.update()
        >>> losses.shape, pictures.shape
        (torch.Size([2]), torch.Size([2, 3, 32, 32]))
    """

    def __init__(
        self,
        objective: Objective,
        settings: ReconstructionSettings,
        *,
        seeds: Sequence[int],
        crop: int,
        compiled: bool = False,
    ) -> None:
        self.objective = objective
        self.crop = crop
        self.step = 0
        device = objective.targets.device
        size = settings.generator.size_for(crop)
        priors = [Hourglass(settings.generator, seed=seed, size=size).to(device) for seed in seeds]
        fused = device.type in {"cpu", "cuda"}
        self._runs = [_Run(prior, settings.learning_rate, fused=fused) for prior in priors]
        self._judge = torch.compile(objective) if compiled else objective
        self._draws = [torch.compile(prior) if compiled else prior for prior in priors]

    @property
    def runs(self) -> int:
        """How many runs are still optimised."""
        return len(self._runs)

    def update(self) -> tuple[Tensor, Tensor]:
        """Make one update of every run.

        Returns:
            The losses before it, (runs,) float32 on the CPU, and the pictures that had them,
            (runs, 3, crop, crop), unbounded.
        """
        pictures = self._draw()
        losses = self._judge(pictures)
        for run in self._runs:
            run.optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()
        for run in self._runs:
            run.optimiser.step()
        self.step += 1
        return losses.detach().cpu(), pictures.detach()

    @torch.no_grad()
    def pictures(self) -> Tensor:
        """Draw each run's picture as it is now, (runs, 3, crop, crop) clipped to [0, 1]."""
        return self._draw().clamp(0, 1)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all runs but some.

        Args:
            rows: Indices of the runs to go on with.
        """
        self.objective.keep(torch.tensor(list(rows), device=self.objective.targets.device))
        self._runs = [self._runs[row] for row in rows]
        self._draws = [self._draws[row] for row in rows]

    def state(self, row: int) -> dict[str, Tensor]:
        """Copy all that one run needs to go on: weights, moments and the fixed input."""
        return self._runs[row].state()

    def restore(self, states: Sequence[Mapping[str, Tensor]], *, step: int) -> None:
        """Go on where runs were left.

        Args:
            states: What `state` gave, one a run, in the order of the runs.
            step: How many updates they had seen.

        Raises:
            KeyError: A state lacks a tensor.
            RuntimeError: A tensor has another shape.
        """
        for run, state in zip(self._runs, states, strict=True):
            run.restore(state, step=step)
        self.step = step

    def _draw(self) -> Tensor:
        device = self.objective.targets.device
        with autocast(device, self.objective.extractor.precision):
            drawn = torch.cat([draw() for draw in self._draws])
        return drawn[..., : self.crop, : self.crop].float()


class _Run:
    """A prior and its optimiser."""

    moments = ("exp_avg", "exp_avg_sq")

    def __init__(self, prior: Hourglass, learning_rate: float, *, fused: bool) -> None:
        self.prior = prior
        self.optimiser = torch.optim.Adam(prior.parameters(), lr=learning_rate, fused=fused)

    def state(self) -> dict[str, Tensor]:
        tensors = {f"prior/{name}": tensor for name, tensor in self.prior.state_dict().items()}
        for name, parameter in self.prior.named_parameters():
            moments = self.optimiser.state[parameter]
            tensors |= {f"{kind}/{name}": moments[kind] for kind in self.moments if moments}
        return {
            name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()
        }

    def restore(self, state: Mapping[str, Tensor], *, step: int) -> None:
        own = self.prior.state_dict()
        self.prior.load_state_dict({name: state[f"prior/{name}"] for name in own})
        if not step:
            return
        for name, parameter in self.prior.named_parameters():
            moments = {
                kind: state[f"{kind}/{name}"].to(parameter).reshape(parameter.shape)
                for kind in self.moments
            }
            # Fused Adam keeps its counter beside the weights, plain Adam on the CPU.
            where = parameter.device if self.optimiser.defaults["fused"] else "cpu"
            counter = torch.tensor(float(step), device=where)
            self.optimiser.state[parameter] = {"step": counter, **moments}


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Compute the same on every call: on a GPU no TF32 and no algorithms that differ by chance."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


@contextlib.contextmanager
def memory_advice(runs: int) -> Iterator[None]:
    """Turn a device that is out of memory into advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        told = "out of memory" in text or "DefaultCPUAllocator" in text
        if not told and not isinstance(error, MemoryError):
            raise
        message = (
            f"out of memory with {runs} runs in a batch; use a smaller batch size, a smaller "
            "size or preset quick, or precision bf16 on a GPU; finished runs and snapshots are kept"
        )
        raise OutOfMemoryError(message) from error


@contextlib.contextmanager
def compiler_advice() -> Iterator[None]:
    """Say what to do where `torch.compile` finds no compiler."""
    try:
        yield
    except torch._dynamo.exc.BackendCompilerFailed as error:  # has no public name
        first = str(error).strip().splitlines()[0]
        message = f"torch.compile failed here ({first}); install a C++ compiler, or do without it"
        raise CompilerError(message) from error
