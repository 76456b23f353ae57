"""Batched inversion: runs that are optimised together, read from and written to their folders.

The arithmetic is `optimisation`, the files are `run_folder`; here they meet. A run leaves the batch
when it stops, and the others go on.
"""

from __future__ import annotations

import hashlib
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from medssl_models.versions import package_versions

from medssl_dip.errors import RunError
from medssl_dip.inversion.figures import draw_trace
from medssl_dip.inversion.objective import Objective
from medssl_dip.inversion.optimisation import (
    Inversion,
    StopRule,
    Verdict,
    compiler_advice,
    memory_advice,
)
from medssl_dip.inversion.run_folder import RunFolder, RunIdentity, TraceRow, save_picture
from medssl_dip.perceptual.fidelity import measure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from medssl_models.console import Advance, Progress
    from torch import Tensor

    from medssl_dip.feature_extractor import FeatureExtractor
    from medssl_dip.images import ImageItem
    from medssl_dip.settings import ReconstructionSettings

__all__ = ["BatchedInversion", "Job"]


@dataclass
class Job:
    """A run that is to be done, and what is known about it so far.

    Args:
        item: What is reconstructed.
        original: The same as (3, H, W) in [0, 1].
        folder: Where the run is kept.
        rule: When it stops.
        last_finite: The last picture whose loss was finite, (3, H, W) in [0, 1].
        last_finite_step: Updates that had been made when it was drawn.
        rows: Of the trace, not written yet.
    """

    item: ImageItem
    original: Tensor
    folder: RunFolder
    rule: StopRule
    last_finite: Tensor
    last_finite_step: int = 0
    rows: list[TraceRow] = field(default_factory=list)

    @classmethod
    def plan(
        cls,
        item: ImageItem,
        original: Tensor,
        settings: ReconstructionSettings,
        out: Path,
        identity: Mapping[str, Any],
    ) -> Job:
        """Plan a run; `identity` holds what the image does not say of it."""
        pixels = hashlib.sha256(original.contiguous().numpy().tobytes()).hexdigest()
        whole = RunIdentity(picture=item.name, pixels=pixels, **identity)
        return cls(item, original, RunFolder(out, whole), StopRule.of(settings), original)

    def origin(self, settings: ReconstructionSettings) -> dict[str, Any]:
        """Return what a result tells of its image, and of settings beyond the run's identity."""
        return {
            "id": self.item.id or self.item.name,
            "dataset": self.item.dataset,
            "padding": settings.padding,
            "notes": list(self.item.notes),
        }

    def rewind(self, step: int, picture: Tensor) -> None:
        """Forget what happened after `step` updates, when the prior drew `picture`."""
        self.folder.begin(self.original)
        kept = [row for row in self.folder.trace() if row.step < step]
        self.folder.write_trace(kept)
        for row in kept:
            self.rule.see(row.step, row.loss)
        self.last_finite, self.last_finite_step = picture, step

    def record(self, step: int, loss: float, picture: Tensor, *, measured: bool) -> Verdict:
        """Judge a loss and take it into the trace, with the picture's fidelity if `measured`."""
        verdict = self.rule.see(step, loss)
        row = TraceRow(step, loss)
        if measured and verdict != "diverged":
            self.last_finite, self.last_finite_step = picture.clamp(0, 1), step
            values = measure(self.original, self.last_finite.cpu()).values
            row = TraceRow(step, loss, psnr=values["psnr"], ssim=values["ssim"])
        self.rows.append(row)
        return verdict

    def write_rows(self) -> None:
        """Append the rows that are not written yet to the trace on disk."""
        self.folder.extend_trace(self.rows)
        self.rows.clear()


class BatchedInversion:
    """Some runs that are optimised together until each of them stops.

    Args:
        jobs: What is to be done; finished ones are left alone.
        extractor: The backbone.
        settings: Of all of them.
        compiled: Use `torch.compile`.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        extractor: FeatureExtractor,
        settings: ReconstructionSettings,
        *,
        compiled: bool = False,
    ) -> None:
        self.extractor, self.settings, self.compiled = extractor, settings, compiled
        self.jobs = [job for job in jobs if job.folder.result is None]

    def run(self, progress: Progress | None = None) -> None:
        """Optimise all that is not finished.

        Raises:
            OutOfMemoryError: With advice.
            RunError: A state on disk is damaged or of another run.
            KeyboardInterrupt: With a note on what is kept.
        """
        if not self.jobs:
            return
        identity = self.jobs[0].folder.identity
        with (
            memory_advice(len(self.jobs)),
            compiler_advice(),
            _counting(progress, f"{identity.model}, {identity.layer}", self.settings) as advance,
        ):
            inversion = self._start()
            advance(inversion.step)
            begin = time.perf_counter()
            try:
                while self.jobs:
                    self._advance(inversion, begin)
                    advance()
            except KeyboardInterrupt as stop:
                stop.add_note("snapshots are kept; the same command goes on from the last ones")
                raise

    def _start(self) -> Inversion:
        settings = self.settings
        originals = torch.stack([job.original for job in self.jobs])
        objective = Objective(
            self.extractor,
            originals.to(self.extractor.device),
            layer=self.jobs[0].folder.identity.layer,
            comparable_taps=settings.comparable_taps,
            relative=settings.relative_loss,
        )
        inversion = Inversion(
            objective,
            settings,
            seeds=[job.folder.identity.seed for job in self.jobs],
            crop=originals.shape[-1],
            compiled=self.compiled,
        )
        step = self._last_shared_step()
        if step:
            self._restore(inversion, step)
        for job, picture in zip(self.jobs, inversion.pictures(), strict=True):
            job.rewind(step, picture)
        return inversion

    def _last_shared_step(self) -> int:
        """The newest step that all runs have a state of, and a trace up to it."""
        shared = set.intersection(*(set(job.folder.steps()) for job in self.jobs))
        whole = min(_whole_steps(job.folder.trace()) for job in self.jobs)
        return max((step for step in shared if step <= whole), default=0)

    def _restore(self, inversion: Inversion, step: int) -> None:
        try:
            inversion.restore([job.folder.state(step) for job in self.jobs], step=step)
        except (KeyError, RuntimeError) as error:
            where = self.jobs[0].folder.path.parent
            message = (
                f"{where}: a state of step {step} is not of its run ({error}); remove the states "
                "or the folder to begin anew"
            )
            raise RunError(message) from error

    def _advance(self, inversion: Inversion, begin: float) -> None:
        """Make one update, record it, and finish the runs that stop."""
        step = inversion.step
        losses, pictures = inversion.update()
        measured = step % self.settings.measure_every == 0
        verdicts = [
            job.record(step, float(loss), picture, measured=measured)
            for job, loss, picture in zip(self.jobs, losses, pictures, strict=True)
        ]
        stopped = any(verdict != "go" for verdict in verdicts)
        kept = stopped or inversion.step % self.settings.snapshot_every == 0
        if kept or measured:
            for job in self.jobs:
                job.write_rows()
        if kept:
            self._snapshot(inversion, verdicts)
        if stopped:
            self._finish_stopped(inversion, verdicts, time.perf_counter() - begin)

    def _snapshot(self, inversion: Inversion, verdicts: Sequence[Verdict]) -> None:
        """Write the states of all that go on; when one stops too, as the batch changes then."""
        pictures = inversion.pictures()
        for row, (job, verdict) in enumerate(zip(self.jobs, verdicts, strict=True)):
            if verdict == "go":
                job.folder.snapshot(inversion.step, inversion.state(row), pictures[row])
        for job, verdict in zip(self.jobs, verdicts, strict=True):
            if verdict == "go":
                job.folder.thin()

    def _finish_stopped(
        self, inversion: Inversion, verdicts: Sequence[Verdict], seconds: float
    ) -> None:
        for job, verdict, picture in zip(self.jobs, verdicts, inversion.pictures(), strict=True):
            if verdict == "diverged":
                self._finish(
                    job, verdict, job.last_finite, step=job.last_finite_step, seconds=seconds
                )
            elif verdict != "go":
                self._finish(job, verdict, picture, step=inversion.step, seconds=seconds)
        rows = [row for row, verdict in enumerate(verdicts) if verdict == "go"]
        self.jobs = [self.jobs[row] for row in rows]
        if rows:
            inversion.keep(rows)

    def _finish(
        self, job: Job, verdict: Verdict, picture: Tensor, *, step: int, seconds: float
    ) -> None:
        suffix = ".png" if self.settings.lossless else _suffix(job.item.suffix)
        file = job.folder.path / f"reconstruction{suffix}"
        save_picture(file, picture, rounded=self.settings.rounded)
        trace = job.folder.trace()
        draw_trace(trace, job.folder.path / "curve.png", title=job.folder.path.name)
        finite = [row.loss for row in trace if math.isfinite(row.loss)]
        job.folder.finish(
            {
                "file": file.name,
                "stopped": verdict,
                "steps": step,
                "loss": finite[-1] if finite else None,
                "seconds": round(seconds, 1),
                **job.origin(self.settings),
                "control": self.extractor.network.card.control,
                "device": str(self.extractor.device),
                "versions": package_versions("torchmetrics"),
            }
        )


def _whole_steps(trace: Sequence[TraceRow]) -> int:
    """How many steps from the first on a trace holds without a gap."""
    return next((step for step, row in enumerate(trace) if row.step != step), len(trace))


def _suffix(source: str) -> str:
    """The formats of the study: PNG and TIFF stay, all else becomes JPEG."""
    lowered = source.casefold()
    return lowered if lowered in {".png", ".tif", ".tiff"} else ".jpg"


def _count_silently(n: int = 1, *, note: str = "") -> None:
    """Satisfy `Advance` where nothing is shown."""


@contextmanager
def _counting(
    progress: Progress | None, name: str, settings: ReconstructionSettings
) -> Iterator[Advance]:
    if progress is None:
        yield _count_silently
        return
    with progress(name, settings.steps) as advance:
        yield advance
