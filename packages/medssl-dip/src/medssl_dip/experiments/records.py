"""Reconstructions as records: one number for each picture, model, layer and metric."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from medssl_models.experiments.record import Provenance, Record

from medssl_dip.perceptual.fidelity import spread
from medssl_dip.perceptual.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_models import Backbone

    from medssl_dip.inversion.reconstruction import Reconstruction
    from medssl_dip.settings import ReconstructionSettings

__all__ = ["EXPERIMENT", "records_of"]

EXPERIMENT = "reconstruction"


def records_of(
    backbone: Backbone, results: Sequence[Reconstruction], settings: ReconstructionSettings
) -> list[Record]:
    """Summarise restarts as records; diverged runs are left out and noted.

    Args:
        backbone: The model of all results.
        results: Of one layer; any pictures.
        settings: What they were run with.

    Returns:
        For each picture one record a metric: the mean over its restarts, their spread in the
        details.
    """
    groups: dict[tuple[str, str], list[Reconstruction]] = {}
    for result in results:
        groups.setdefault((result.identity.picture, result.identity.pixels), []).append(result)
    return [
        record for group in groups.values() for record in _of_picture(backbone, group, settings)
    ]


def _of_picture(
    backbone: Backbone, group: Sequence[Reconstruction], settings: ReconstructionSettings
) -> list[Record]:
    kept = [result for result in group if result.stopped != "diverged"]
    if not kept:
        return []
    notes = [f"{len(group) - len(kept)} restarts diverged and are left out"] * (kept != group)
    losses = [result.loss for result in kept if result.loss is not None]
    columns = {"loss": losses} if losses else {}
    for name in METRICS:
        if all(name in result.fidelity.finite() for result in kept):
            columns[name] = [result.fidelity.values[name] for result in kept]
    return [
        Record(
            experiment=EXPERIMENT,
            metric=name,
            unit=METRICS[name].unit if name in METRICS else "",
            value=statistics.fmean(values),
            n=len(values),
            settings=settings.model_dump(mode="json"),
            details=_details(kept, values, control=backbone.card.control),
            notes=(*kept[0].details.get("notes", ()), *notes),
            provenance=_provenance(backbone, group[0], settings),
        )
        for name, values in columns.items()
    ]


def _details(
    kept: Sequence[Reconstruction], values: Sequence[float], *, control: bool
) -> dict[str, Any]:
    return {
        **spread(values),
        "seeds": [result.identity.seed for result in kept],
        "steps": [result.steps for result in kept],
        "stopped": [result.stopped for result in kept],
        "picture": kept[0].identity.picture,
        "reconstruction": str(kept[0].file),
        "control": control,
    }


def _provenance(
    backbone: Backbone, first: Reconstruction, settings: ReconstructionSettings
) -> Provenance:
    identity = first.identity
    return Provenance(
        model=identity.model,
        weights=identity.weights,
        preprocessing=identity.preprocessing,
        layer=identity.layer,
        padding=backbone.card.padding,
        dataset=first.details.get("dataset") or f"file:{identity.picture}",
        images=identity.pixels,
        protocol=settings.protocol,
        seed=identity.seed,
        device=str(first.details.get("device", "")),
        precision=identity.precision,
        versions=dict(first.details.get("versions", {})),
    )
