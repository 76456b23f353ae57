"""Inversions from images to finished folders: what is there is not done again."""

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
from medssl_dip.settings import ReconstructionOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from medssl_models import Backbone, RunContext

    from medssl_dip.images import ImageItem
    from medssl_dip.inversion.optimisation import Verdict
    from medssl_dip.inversion.run_folder import RunIdentity
    from medssl_dip.perceptual.lpips import LPIPS
    from medssl_dip.settings import ReconstructionSettings

__all__ = ["Reconstruction", "invert"]

BATCH_SIZE = 4
"""Runs at a time where nothing else is said: more gain little and hold 31 MB of state each."""


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


def invert(
    backbone: Backbone,
    items: Sequence[ImageItem],
    settings: ReconstructionSettings,
    context: RunContext,
    lpips: Mapping[str, LPIPS] | None = None,
) -> Iterator[Reconstruction]:
    """Reconstruct images from what layers of a backbone say about them.

    What is finished in the context's output folder is not done again; what was cut off goes on from
    its last snapshot.

    Args:
        backbone: The model.
        items: What it saw.
        settings: Protocol, layers, prior, steps.
        context: Device, precision, batch size, and the folder in which each run keeps one.
        lpips: By net, to measure the results with.

    Yields:
        One entry for each layer, image and restart, in this order.

    Raises:
        LayerError: The model has no such layer; said before anything is computed.
        OutOfMemoryError: With advice.
        RunError: A run's folder is damaged.

    Example:
        >>> from pathlib import Path
        >>> from medssl_dip import ImageItem, settings_for
        >>> from medssl_models import RunContext, create_model
        >>> from PIL import Image
        >>> item = ImageItem("grey", Image.new("RGB", (40, 40), "grey"))
        >>> few = settings_for(preset="quick", size=32, steps=1)
        >>> context = RunContext(output=Path("runs"))
        >>> [run.stopped for run in invert(create_model("random_r18"), [item], few, context)]
        ['steps']
    """
    extraction = context.extracting
    device = resolve_device(extraction.device)
    precision = extraction.precision
    preprocessing = preprocessing_of(backbone, settings)
    extractor = FeatureExtractor(backbone, preprocessing, device=device, precision=precision)
    names = {layer: extractor.resolve(layer) for layer in settings.layer}
    plain = preprocessing.replace(value_range=(0.0, 1.0))
    originals = [(item, plain.pixels(item.image)) for item in items]
    shared = {
        "model": backbone.name,
        "weights": backbone.fingerprint,
        "preprocessing": preprocessing.fingerprint,
        "precision": precision,
    }
    for layer, name in names.items():
        identity = {**shared, "layer": name, "settings": settings.of_run(layer)}
        jobs = [
            Job.plan(
                item, original, settings, _folder(context), identity | {"seed": settings.seed + nth}
            )
            for item, original in originals
            for nth in range(settings.restarts)
        ]
        with repeatable(device):
            _run(jobs, extractor, settings, context)
            finished = [_finished(job, extractor, settings, lpips or {}) for job in jobs]
        yield from finished


def _folder(context: RunContext) -> Path:
    return context.output or context.results_file.parent / "reconstructions"


def _run(
    jobs: Sequence[Job],
    extractor: FeatureExtractor,
    settings: ReconstructionSettings,
    context: RunContext,
) -> None:
    options = context.options or ReconstructionOptions()
    for job in jobs:
        if context.force or (not options.resume and job.folder.result is None):
            job.folder.clear()
    count = context.extracting.batch_size or BATCH_SIZE
    for first in range(0, len(jobs), count):
        some = jobs[first : first + count]
        batch = BatchedInversion(some, extractor, settings, compiled=options.compiled)
        batch.run(context.progress)


def _finished(
    job: Job,
    extractor: FeatureExtractor,
    settings: ReconstructionSettings,
    lpips: Mapping[str, LPIPS],
) -> Reconstruction:
    """Read a result, and measure what was not measured before.

    The same pixels may have been reconstructed as another file or under another id: the result
    tells of the image that was asked for last.
    """
    result = job.folder.result
    if result is None or "file" not in result:
        message = f"{job.folder.path}: result.json is no finished run's; remove it to begin anew"
        raise RunError(message)
    job.folder.tidy()
    fresh = result | job.origin(settings)
    values: dict[str, float] = dict(result.get("fidelity") or {})
    wanted = {f"lpips_{net}" for net in lpips} | {"ssim", "psnr", "feature_distance"}
    if not wanted <= values.keys():
        kept = load_picture(job.folder.path / str(result["file"]))
        original = load_picture(job.folder.path / "original.png")
        values |= measure(
            original.to(extractor.device),
            kept.to(extractor.device),
            lpips={net: metric.to(extractor.device) for net, metric in lpips.items()},
            extractor=extractor,
        ).finite()
        values = {name: values[name] for name in METRICS if name in values}
        fresh["fidelity"] = values
    if fresh != result:
        job.folder.finish(fresh)
    return Reconstruction(
        identity=job.folder.identity,
        path=job.folder.path,
        stopped=result["stopped"],
        steps=result["steps"],
        loss=result["loss"],
        fidelity=Fidelity(values),
        details=fresh,
    )
