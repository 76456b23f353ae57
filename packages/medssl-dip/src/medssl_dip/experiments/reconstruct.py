"""Reconstructions as an experiment: from a backbone and images to records."""

from __future__ import annotations

import statistics
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from medssl_models import Provenance, Record
from medssl_models.features.runtime import multiplies_in_bf16, resolve_device
from medssl_models.hub.lpips_trunks import missing_trunks

from medssl_dip.errors import DivergedError
from medssl_dip.images import items_of
from medssl_dip.inversion.reconstruction import invert
from medssl_dip.inversion.run_summary import summarise
from medssl_dip.perceptual.fidelity import spread
from medssl_dip.perceptual.lpips import load_lpips, nets_here, trunk_name
from medssl_dip.perceptual.metrics import NETS
from medssl_dip.settings import ReconstructionOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Records, RunContext
    from medssl_models.experiments.experiment import ImageFiles
    from medssl_models.experiments.settings import ProtocolName

    from medssl_dip.inversion.reconstruction import Reconstruction
    from medssl_dip.inversion.run_summary import RunSummary
    from medssl_dip.perceptual.lpips import LPIPS
    from medssl_dip.perceptual.metrics import NetName
    from medssl_dip.settings import ReconstructionSettings

__all__ = ["conclude", "reconstruct", "records_of", "run_reconstruction"]


def reconstruct(
    backbone: Backbone,
    data: ImageDataset | ImageFiles,
    *,
    protocol: ProtocolName = "corrected",
    settings: ReconstructionSettings | None = None,
    context: RunContext | None = None,
    **changes: object,
) -> Records:
    """Reconstruct images from what layers of a backbone say about them, and measure what is left.

    What is finished in the context's output folder, else in `reconstructions`, is not done again;
    what was cut off goes on from its last snapshot.

    Args:
        backbone: The model.
        data: A data set, or picture files.
        protocol: `published` or `corrected`, where there are no settings.
        settings: Layers, images, prior, steps and so on, ready made.
        context: Device, folder, `ReconstructionOptions`; None is the command's way.
        changes: Fields of `ReconstructionSettings` as keywords, such as `layer="layer4"`.

    Returns:
        For each layer and image one record a metric: the mean over its restarts, their values in
        `details`. An image of which every restart diverged has none.

    Raises:
        LayerError: The model has no such layer.
        SettingsError: A value is not allowed, or no image has such a name.

    Example:
        >>> from pathlib import Path
        >>> from medssl_data import load_dataset
        >>> from medssl_models import RunContext, create_model
        >>> data = load_dataset("phantom:chest-xray,count=8")
        >>> few = {"preset": "quick", "size": 32, "steps": 2}
        >>> context = RunContext(output=Path("runs"))
        >>> found = reconstruct(create_model("random_r18"), data, context=context, **few)
        >>> [record.metric for record in found]
        ['ssim', 'psnr', 'feature_distance', 'loss']
    """
    from medssl_models.experiments.runner import measure

    from medssl_dip.experiments.declarations import RECONSTRUCTION

    return measure(
        RECONSTRUCTION,
        backbone,
        data,
        protocol=protocol,
        settings=settings,
        context=context,
        **changes,
    )


def run_reconstruction(
    backbone: Backbone,
    data: ImageDataset | ImageFiles,
    settings: ReconstructionSettings,
    context: RunContext,
) -> Iterator[Record]:
    """Reconstruct layer by layer; see `reconstruct`."""
    warn_of_slow_precision(context)
    lpips = chosen_lpips((context.options or ReconstructionOptions()).net)
    facts = {
        "padding": backbone.card.padding,
        "selection": dict(getattr(data, "selection", {})),
    }
    runs = invert(backbone, items_of(data, settings), settings, context, lpips)
    for layer, found in groupby(runs, key=lambda run: str(run.identity.settings["layer"])):
        of_layer = list(found)
        _warn_of_divergence(of_layer, context)
        context.files.extend(run.file for run in of_layer)
        for summary in summarise(run.path for run in of_layer):
            asked = settings.of_record(layer, summary.picture)
            yield from records_of(summary, asked, **facts)


def records_of(
    summary: RunSummary,
    settings: Mapping[str, Any] | None = None,
    **facts: Any,  # noqa: ANN401 # any field of a provenance
) -> list[Record]:
    """Turn the restarts of an image, model and layer into records.

    Args:
        summary: The restarts; those that diverged are left out and noted.
        settings: As in the records; None takes what the folders of the runs tell.
        facts: Fields of the provenance that the folders do not tell, such as `padding`.

    Returns:
        One record a metric: the mean over the restarts, their spread in the details.
    """
    kept, of_all = summary.kept, summary.results
    diverged = len(of_all) - len(kept)
    notes = [f"{diverged} restarts diverged and are left out"] * bool(diverged)
    shared = {
        "seeds": [result["seed"] for result in kept],
        "steps": [result["steps"] for result in kept],
        "stopped": [result["stopped"] for result in kept],
        "picture": summary.identity.picture,
        "side": summary.side,
        "reconstruction": str(summary.file),
        "control": bool(of_all[0].get("control")),
    }
    provenance = _provenance(summary, facts)
    return [
        Record(
            experiment="reconstruction",
            metric=name,
            value=statistics.fmean(values),
            n=len(values),
            settings=summary.settings if settings is None else dict(settings),
            details=spread(values) | shared,
            notes=(*kept[0].get("notes", ()), *notes),
            provenance=provenance,
        )
        for name, values in summary.measured.items()
    ]


def _provenance(summary: RunSummary, facts: Mapping[str, Any]) -> Provenance:
    """Where the numbers come from, as the run says: it may have been made on another device."""
    run, first = summary.identity, summary.results[0]
    return Provenance(
        model=run.model,
        weights=run.weights,
        preprocessing=run.preprocessing,
        layer=run.layer,
        dataset=first.get("dataset") or f"file:{run.picture}",
        images=run.pixels,
        protocol=run.settings["protocol"],
        seed=run.seed,
        device=str(first.get("device", "")),
        precision=run.precision,
        versions=first.get("versions", {}),
        **facts,
    )


def conclude(context: RunContext, records: Sequence[Record]) -> Iterable[Record]:
    """Say what was not measured when all models have run, and where to see the pictures.

    Raises:
        DivergedError: Every run diverged.
    """
    if not records:
        message = (
            "every run diverged, so there is nothing to measure; try another seed or a smaller "
            "learning_rate"
        )
        raise DivergedError(message)
    options = context.options or ReconstructionOptions()
    missing = missing_trunks(map(trunk_name, NETS)) if options.net == "here" else None
    if missing:
        context.warn(f"{missing}; measured without them")
    if context.output:
        context.say(
            f"pictures, traces and curves are in {context.output}; "
            f"draw them: medssl-dip gallery {context.output}"
        )
    return ()


def chosen_lpips(net: Sequence[NetName] | Literal["here"] | None) -> dict[str, LPIPS]:
    """Load the nets of LPIPS that options name.

    Args:
        net: Names; `here` for all whose trunks are here, None for none.

    Raises:
        MissingWeightsError: A trunk that was named is not here.
    """
    if net is None:
        return {}
    found = load_lpips(nets_here() if net == "here" else net)
    return {str(name): metric for name, metric in found.items()}


def warn_of_slow_precision(context: RunContext) -> None:
    """Warn where bf16 is emulated: several times slower than fp32."""
    extraction = context.extracting
    if extraction.precision != "fp32" and not multiplies_in_bf16(resolve_device(extraction.device)):
        context.warn("this CPU has no bf16 arithmetic: fp32 is several times faster here")


def _warn_of_divergence(runs: Sequence[Reconstruction], context: RunContext) -> None:
    for run in runs:
        if run.stopped == "diverged":
            context.warn(f"{run.path.name} diverged; its picture of step {run.steps} is kept")
