"""Reconstructions from pictures to finished folders: what is there is not done again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medssl_models.features.runtime import resolve_device

from medssl_dip.errors import RunError
from medssl_dip.feature_extractor import FeatureExtractor, preprocessing_of
from medssl_dip.inversion.batched import BatchedInversion, Job
from medssl_dip.inversion.optimisation import repeatable
from medssl_dip.inversion.run_folder import load_picture
from medssl_dip.perceptual.fidelity import Fidelity, measure
from medssl_dip.perceptual.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from medssl_models import Backbone
    from medssl_models.console import Progress

    from medssl_dip.feature_extractor import PrecisionName
    from medssl_dip.images import ImageItem
    from medssl_dip.inversion.optimisation import Verdict
    from medssl_dip.inversion.run_folder import RunIdentity
    from medssl_dip.perceptual.lpips import Perceptual
    from medssl_dip.settings import ReconstructionSettings

__all__ = ["Reconstruction", "Work", "reconstruct"]

BATCH_SIZE = 4
"""Runs at a time where nothing else is said: more gain little and hold 31 MB of state each."""


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
        perceptual: LPIPS by net, for the results.
        progress: Shows how far it is.
    """

    device: str = "auto"
    precision: PrecisionName = "fp32"
    batch_size: int = BATCH_SIZE
    compiled: bool = False
    resume: bool = True
    force: bool = False
    perceptual: Mapping[str, Perceptual] = field(default_factory=dict)
    progress: Progress | None = None


@dataclass(frozen=True)
class Reconstruction:
    """A finished run.

    Args:
        identity: What was run.
        path: Its folder.
        stopped: `steps`, `plateau` or `diverged`.
        steps: Updates that were made.
        loss: The last finite one; None where there was none.
        fidelity: Of the kept file against the original.
        details: Everything else that the result file holds.
    """

    identity: RunIdentity
    path: Path
    stopped: Verdict
    steps: int
    loss: float | None
    fidelity: Fidelity
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The reconstructed picture."""
        return self.path / str(self.details["file"])


def reconstruct(
    backbone: Backbone,
    pictures: Sequence[ImageItem],
    *,
    settings: ReconstructionSettings,
    out: Path,
    seed: int = 0,
    work: Work | None = None,
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

    Returns:
        One entry for each picture and restart, in their order.

    Raises:
        LayerError: The model has no such layer.
        OutOfMemoryError: With advice.
        RunError: A folder in `out` is damaged.
    """
    work = work or Work()
    device = resolve_device(work.device)
    extractor = FeatureExtractor(
        backbone, preprocessing_of(backbone, settings), device=device, precision=work.precision
    )
    jobs = _plan(backbone, extractor, pictures, settings=settings, out=out, seed=seed)
    for job in jobs:
        if work.force or (not work.resume and job.folder.result is None):
            job.folder.clear()
    with repeatable(device):
        for first in range(0, len(jobs), work.batch_size):
            some = jobs[first : first + work.batch_size]
            BatchedInversion(some, extractor, settings, compiled=work.compiled).run(work.progress)
        return [_finished(job, extractor, work.perceptual) for job in jobs]


def _plan(
    backbone: Backbone,
    extractor: FeatureExtractor,
    pictures: Sequence[ImageItem],
    *,
    settings: ReconstructionSettings,
    out: Path,
    seed: int,
) -> list[Job]:
    preprocessing = preprocessing_of(backbone, settings)
    shared = {
        "model": backbone.name,
        "weights": backbone.fingerprint,
        "preprocessing": preprocessing.fingerprint,
        "layer": extractor.resolve(settings.layer),
        "precision": extractor.precision,
        "settings": settings.model_dump(mode="json", exclude={"restarts"}),
    }
    plain = preprocessing.replace(value_range=(0.0, 1.0))
    jobs = []
    for picture in pictures:
        original = plain.pixels(picture.image)
        for restart in range(settings.restarts):
            identity = shared | {"seed": seed + restart}
            jobs.append(Job.plan(picture, original, settings, out, identity))
    return jobs


def _finished(
    job: Job, extractor: FeatureExtractor, perceptual: Mapping[str, Perceptual]
) -> Reconstruction:
    """Read a result, and measure what was not measured before."""
    result = job.folder.result
    if result is None or "file" not in result:
        message = f"{job.folder.path}: result.json is no finished run's; remove it to begin anew"
        raise RunError(message)
    job.folder.tidy()
    values: dict[str, float] = dict(result.get("fidelity") or {})
    wanted = {f"lpips_{net}" for net in perceptual} | {"ssim", "psnr", "feature_distance"}
    if not wanted <= values.keys():
        kept = load_picture(job.folder.path / str(result["file"]))
        original = load_picture(job.folder.path / "original.png")
        values |= measure(
            original.to(extractor.device),
            kept.to(extractor.device),
            perceptual={net: metric.to(extractor.device) for net, metric in perceptual.items()},
            extractor=extractor,
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
