"""Reconstructions from pictures to finished folders: batches, traces, snapshots, resuming.

The optimisation is `inversion`, the files are `runs`; this module only lets them meet.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from medssl_models.records import package_versions
from medssl_models.runtime import resolve_device

from medssl_dip.drawing import draw_trace
from medssl_dip.errors import RunError
from medssl_dip.fidelity import METRICS, Fidelity, measure
from medssl_dip.inversion import Inversion, StopRule, Verdict, memory_advice, repeatable
from medssl_dip.objective import FrozenEye, Objective, PrecisionName, preprocessing_of
from medssl_dip.runs import RunFolder, RunIdentity, TraceRow, load_picture, save_picture

if TYPE_CHECKING:
    from medssl_models import Backbone
    from PIL import Image
    from torch import Tensor

    from medssl_dip.perceptual import Perceptual
    from medssl_dip.protocols import ReconstructionSettings

__all__ = ["Picture", "Reconstruction", "Work", "reconstruct"]

BATCH_SIZE = 4
"""Runs at a time where nothing else is said: more gain little and hold 31 MB of state each."""


class Advance(Protocol):
    """Counts finished steps."""

    def __call__(self, n: int = 1) -> None:
        """Count `n` more as done."""


class Progress(Protocol):
    """What shows how far a long work is; `medssl_models.console.Console.progress` is one."""

    def __call__(self, description: str, total: int) -> AbstractContextManager[Advance]:
        """Start to count."""


@dataclass(frozen=True)
class Picture:
    """A picture to reconstruct.

    Args:
        name: For folders, tables and records.
        image: 8-bit RGB.
        suffix: Of its file; the format of a result that is not kept losslessly.
        dataset: The data set that it comes from, where it is one.
        notes: What was done to read it.
    """

    name: str
    image: Image.Image
    suffix: str = ".png"
    dataset: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """How the work is done; of this only the precision belongs to a run's identity.

    Args:
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: `fp32` or `bf16`.
        batch_size: Runs that are optimised together.
        compiled: Use `torch.compile`.
        resume: Go on with what was cut off; else begin it anew.
        force: Begin anew what is finished too.
    """

    device: str = "auto"
    precision: PrecisionName = "fp32"
    batch_size: int = BATCH_SIZE
    compiled: bool = False
    resume: bool = True
    force: bool = False


@dataclass(frozen=True)
class Reconstruction:
    """A finished run.

    Args:
        identity: What was run.
        path: Its folder.
        stopped: `steps`, `plateau` or `diverged`.
        steps: Updates that were made.
        loss: The last one that was seen.
        fidelity: Of the kept file against the original.
        details: Everything else that the result file holds.
    """

    identity: RunIdentity
    path: Path
    stopped: Verdict
    steps: int
    loss: float
    fidelity: Fidelity
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The reconstructed picture."""
        return self.path / str(self.details["file"])


def reconstruct(
    backbone: Backbone,
    pictures: Sequence[Picture],
    *,
    settings: ReconstructionSettings,
    out: Path,
    seed: int = 0,
    work: Work | None = None,
    perceptual: Mapping[str, Perceptual] | None = None,
    progress: Progress | None = None,
) -> list[Reconstruction]:
    """Reconstruct pictures from what one layer of a backbone says about them.

    What is finished in `out` is not done again; what was cut off goes on from its last snapshot.

    Args:
        backbone: The model.
        pictures: What it saw.
        settings: Protocol, layer, prior, steps.
        out: Each run keeps a folder there.
        seed: Of the first restart; the others count upwards.
        work: Device, precision, batch.
        perceptual: LPIPS by net, for the results.
        progress: Shows how far it is.

    Returns:
        One entry for each picture and restart, in their order.

    Raises:
        LayerError: The model has no such layer.
        OutOfMemoryError: With advice.
        RunError: A folder in `out` is damaged.
    """
    work = work or Work()
    device = resolve_device(work.device)
    preprocessing = preprocessing_of(backbone, settings)
    eye = FrozenEye(backbone, preprocessing, device=device, precision=work.precision)
    template = {
        "model": backbone.name,
        "weights": backbone.fingerprint,
        "preprocessing": preprocessing.fingerprint,
        "layer": eye.resolve(settings.layer),
        "precision": work.precision,
        "settings": settings.model_dump(mode="json", exclude={"restarts"}),
    }
    jobs: list[_Job] = []
    for picture in pictures:
        original = preprocessing.replace(value_range=(0.0, 1.0)).pixels(picture.image)
        jobs += [
            _job(picture, original, out, seed + restart, template)
            for restart in range(settings.restarts)
        ]
    with repeatable(device):
        for first in range(0, len(jobs), work.batch_size):
            batch = jobs[first : first + work.batch_size]
            with memory_advice(len(batch)):
                _Batch(batch, eye, settings, work).run(progress)
        return [_finished(job, eye, perceptual or {}) for job in jobs]


@dataclass
class _Job:
    """A run that is to be done, and what is known about it so far."""

    picture: Picture
    original: Tensor
    folder: RunFolder
    rule: StopRule | None = None
    good: Tensor | None = None
    good_step: int = 0
    rows: list[TraceRow] = field(default_factory=list)


def _job(
    picture: Picture, original: Tensor, out: Path, seed: int, template: Mapping[str, Any]
) -> _Job:
    pixels = hashlib.sha256(original.contiguous().numpy().tobytes()).hexdigest()
    identity = RunIdentity(picture=picture.name, pixels=pixels, seed=seed, **template)
    return _Job(picture, original, RunFolder(out, identity))


class _Batch:
    """Some runs that are optimised together until each of them stops."""

    def __init__(
        self,
        jobs: Sequence[_Job],
        eye: FrozenEye,
        settings: ReconstructionSettings,
        work: Work,
    ) -> None:
        self.eye, self.settings, self.work = eye, settings, work
        self.control = eye.network.card.control
        for job in jobs:
            if work.force or (not work.resume and job.folder.result is None):
                job.folder.clear()
        self.jobs = [job for job in jobs if job.folder.result is None]

    def run(self, progress: Progress | None) -> None:
        """Optimise all that is not finished."""
        if not self.jobs:
            return
        inversion = self._start()
        name = f"{self.jobs[0].folder.identity.model}, {self.jobs[0].folder.identity.layer}"
        with _counting(progress, name, self.settings.steps) as advance:
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
            self.eye,
            originals.to(self.eye.device),
            layer=settings.layer,
            comparable_taps=settings.comparable_taps,
            relative=settings.relative_loss,
        )
        inversion = Inversion(
            objective,
            settings,
            seeds=[job.folder.identity.seed for job in self.jobs],
            crop=originals.shape[-1],
            compiled=self.work.compiled,
        )
        shared = set.intersection(*(set(job.folder.steps()) for job in self.jobs))
        step = max(shared, default=0)
        if step:
            self._restore(inversion, step)
        pictures = inversion.pictures()
        for job, picture in zip(self.jobs, pictures, strict=True):
            job.rule = StopRule.of(settings)
            kept = [row for row in job.folder.trace() if row.step < step]
            for row in kept:
                job.rule.see(row.step, row.loss)
            job.good, job.good_step = picture, step
            job.folder.begin(job.original)
            job.folder.write_trace(kept)
        return inversion

    def _restore(self, inversion: Inversion, step: int) -> None:
        try:
            inversion.restore([job.folder.state(step) for job in self.jobs], step=step)
        except (KeyError, RuntimeError) as error:
            message = f"a state of step {step} is not of this run ({error}); begin anew with --force"
            raise RunError(message) from error

    def _advance(self, inversion: Inversion, begin: float) -> None:
        """Make one update, note it, and let go what stops."""
        step = inversion.step
        losses, pictures = inversion.update()
        verdicts = [self._see(job, step, float(loss), picture) for job, loss, picture in zip(
            self.jobs, losses, pictures, strict=True)]
        stopped = any(verdict != "go" for verdict in verdicts)
        if stopped or inversion.step % self.settings.measure_every == 0:
            for job in self.jobs:
                job.folder.extend_trace(job.rows)
                job.rows.clear()
        if stopped or inversion.step % self.settings.snapshot_every == 0:
            self._keep(inversion, verdicts)
        if stopped:
            self._let_go(inversion, verdicts, time.perf_counter() - begin)

    def _see(self, job: _Job, step: int, loss: float, picture: Tensor) -> Verdict:
        assert job.rule is not None  # noqa: S101 # set by `_start`
        verdict = job.rule.see(step, loss)
        row = TraceRow(step, loss)
        if verdict != "diverged" and step % self.settings.measure_every == 0:
            clipped = picture.clamp(0, 1)
            job.good, job.good_step = clipped, step
            values = measure(job.original, clipped.cpu()).values
            row = TraceRow(step, loss, psnr=values["psnr"], ssim=values["ssim"])
        job.rows.append(row)
        return verdict

    def _keep(self, inversion: Inversion, verdicts: Sequence[Verdict]) -> None:
        """Write the states of all that go on; when one stops too, as the batch is another then."""
        pictures = inversion.pictures()
        for row, (job, verdict) in enumerate(zip(self.jobs, verdicts, strict=True)):
            if verdict == "go":
                job.folder.snapshot(inversion.step, inversion.state(row), pictures[row])
        for job, verdict in zip(self.jobs, verdicts, strict=True):
            if verdict == "go":
                job.folder.thin()

    def _let_go(self, inversion: Inversion, verdicts: Sequence[Verdict], seconds: float) -> None:
        pictures = inversion.pictures()
        for job, verdict, picture in zip(self.jobs, verdicts, pictures, strict=True):
            if verdict != "go":
                diverged = verdict == "diverged"
                kept = job.good if diverged and job.good is not None else picture
                step = job.good_step if diverged else inversion.step
                self._finish(job, verdict, kept, step=step, seconds=seconds)
        rows = [row for row, verdict in enumerate(verdicts) if verdict == "go"]
        self.jobs = [self.jobs[row] for row in rows]
        if rows:
            inversion.keep(rows)

    def _finish(
        self, job: _Job, verdict: Verdict, picture: Tensor, *, step: int, seconds: float
    ) -> None:
        suffix = ".png" if self.settings.lossless else _suffix(job.picture.suffix)
        file = job.folder.path / f"reconstruction{suffix}"
        save_picture(file, picture, rounded=self.settings.rounded)
        trace = job.folder.trace()
        draw_trace(trace, job.folder.path / "curve.png", title=job.folder.path.name)
        job.folder.finish(
            {
                "file": file.name,
                "stopped": verdict,
                "steps": step,
                "loss": next((row.loss for row in reversed(trace) if row.loss == row.loss), None),  # noqa: PLR0124 # NaN
                "seconds": round(seconds, 1),
                "dataset": job.picture.dataset,
                "control": self.control,
                "notes": list(job.picture.notes),
                "device": str(self.eye.device),
                "versions": package_versions("torchmetrics"),
            }
        )


def _suffix(source: str) -> str:
    """The formats of the study: PNG and TIFF stay, all else becomes JPEG."""
    lowered = source.casefold()
    return lowered if lowered in {".png", ".tif", ".tiff"} else ".jpg"


@contextmanager
def _counting(progress: Progress | None, name: str, total: int) -> Iterator[Advance]:
    if progress is None:
        yield lambda n=1: None  # noqa: ARG005 # counts for nobody
        return
    with progress(name, total) as advance:
        yield advance


def _finished(job: _Job, eye: FrozenEye, perceptual: Mapping[str, Perceptual]) -> Reconstruction:
    """Read a result, and measure what was not measured before."""
    result = job.folder.result
    if result is None or "file" not in result:
        message = f"{job.folder.path}: result.json is not of a finished run; redo it with --force"
        raise RunError(message)
    values: dict[str, float] = dict(result.get("fidelity") or {})
    wanted = {f"lpips-{net}" for net in perceptual} | {"ssim", "psnr", "feature-distance"}
    if not wanted <= values.keys():
        kept = load_picture(job.folder.path / str(result["file"]))
        original = load_picture(job.folder.path / "original.png")
        values |= measure(
            original.to(eye.device),
            kept.to(eye.device),
            perceptual={net: metric.to(eye.device) for net, metric in perceptual.items()},
            eye=eye,
        ).finite()
        values = {name: values[name] for name in METRICS if name in values}
        job.folder.finish(result | {"fidelity": values})
    return Reconstruction(
        identity=job.folder.identity,
        path=job.folder.path,
        stopped=result["stopped"],
        steps=result["steps"],
        loss=result["loss"],
        fidelity=Fidelity(values),
        details=result,
    )
