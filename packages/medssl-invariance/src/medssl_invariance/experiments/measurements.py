"""From measured values to records: means with intervals, curves, baselines, what was undefined."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from medssl_invariance.errors import FeatureError
from medssl_invariance.experiments.runs import marks
from medssl_invariance.similarity import METRICS, bootstrap_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Provenance, Record
    from numpy.typing import NDArray

    from medssl_invariance.experiments.reference_set import Reference
    from medssl_invariance.experiments.settings import Comparison
    from medssl_invariance.similarity import Mean

__all__ = ["EXPERIMENT", "UNITS", "Outcome", "make_records"]

EXPERIMENT = "invariance"
UNITS: Mapping[str, str] = {"retrieval": "%", "raw retrieval": "%"}


@dataclass(frozen=True)
class Outcome:
    """What was measured for one model, data set and family, or one pair of views.

    Args:
        axis: What a member's place means; empty where there is no curve.
        places: `(k,)` places of the members.
        identities: `(k,)` bool, which members change nothing.
        values: `(5, n, k)` by `METRICS`, images and members; NaN where undefined.
        reference: What they were compared with.
        baselines: Baseline to metric to mean.
        notes: What a reader should know.
        more: Further details by metric.
    """

    axis: str
    places: NDArray[np.float64]
    identities: NDArray[np.bool_]
    values: NDArray[np.float64]
    reference: Reference
    baselines: Mapping[str, Mapping[str, Mean]]
    notes: tuple[str, ...] = ()
    more: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


def make_records(
    backbone: Backbone,
    data: ImageDataset,
    settings: Comparison,
    outcome: Outcome,
    *,
    provenance: Provenance,
    identity: Mapping[str, object],
) -> list[Record]:
    """Make one record a metric.

    Args:
        backbone: Says whether it is a control.
        data: Says what every record must carry.
        settings: Resamples and seed of the intervals; whether the identity counts.
        outcome: What was measured.
        provenance: With the device that was used.
        identity: The settings as a record keeps them.

    Raises:
        FeatureError: A metric is defined for no image.
    """
    from medssl_models import Record as Result

    counted = _counted(outcome, settings)
    records = []
    for metric, all_values in zip(METRICS, outcome.values, strict=True):
        values = 100 * all_values if metric in UNITS else all_values
        images = _over_members(values[:, counted])
        (mean,) = bootstrap_mean(images[:, None], resamples=settings.bootstrap, seed=settings.seed)
        undefined = int(np.isnan(values[:, counted]).sum())
        if not mean.images:
            message = (
                f"{backbone.name} on {data.name}: the {metric} is undefined for every image; its "
                "features are zero or do not differ from their mean"
            )
            raise FeatureError(message)
        low, high = mean.interval
        details: dict[str, object] = {
            **_common(backbone, data, outcome),
            **outcome.more.get(metric, {}),
            "undefined": undefined,
            "baselines": _baselines(outcome, metric),
            "per_image": images.tolist(),
            "curve": _curve(outcome, values, settings),
            **_identity_share(outcome, values, counted),
        }
        if metric in UNITS:
            details["chance"] = 100.0 / len(outcome.reference.gallery_rows)
        records.append(
            Result(
                experiment=EXPERIMENT,
                metric=metric,
                unit=UNITS.get(metric, ""),
                value=mean.value,
                ci_low=low,
                ci_high=high,
                n=mean.images,
                settings=dict(identity),
                details=details,
                notes=marks(
                    backbone,
                    data,
                    *_batch_notes(settings),
                    *outcome.notes,
                    *_undefined(metric, undefined, values),
                ),
                provenance=provenance,
            )
        )
    return records


def _counted(outcome: Outcome, settings: Comparison) -> NDArray[np.bool_]:
    """Tell which members are in the mean; all of them where there are only identities."""
    if getattr(settings, "identity_in_mean", True) or outcome.identities.all():
        return np.ones_like(outcome.identities)
    return ~outcome.identities


def _common(backbone: Backbone, data: ImageDataset, outcome: Outcome) -> dict[str, object]:
    reference = outcome.reference
    return {
        "images": len(reference.compared),
        "rows": reference.compared.tolist(),
        "members": len(outcome.places),
        "unreadable": len(reference.clean.unreadable),
        "gallery": len(reference.gallery_rows),
        "whitening": reference.whitening.report.as_details(),
        "precision_error": float(reference.clean.precision_error),
        "axis": outcome.axis,
        "control": backbone.card.control,
        "synthetic": data.manifest.synthetic,
    }


def _baselines(outcome: Outcome, metric: str) -> dict[str, object]:
    return {
        kind: {
            "value": found[metric].value,
            "low": found[metric].low,
            "high": found[metric].high,
            "images": found[metric].images,
        }
        for kind, found in outcome.baselines.items()
        if metric in found
    }


def _curve(
    outcome: Outcome, values: NDArray[np.float64], settings: Comparison
) -> list[dict[str, object]]:
    """Average the members at one place, then the images, with intervals over images."""
    if not outcome.axis:
        return []
    places, index = np.unique(outcome.places, return_inverse=True)
    columns = [_over_members(values[:, index == place]) for place in range(len(places))]
    means = bootstrap_mean(
        np.stack(columns, axis=1), resamples=settings.bootstrap, seed=settings.seed
    )
    return [
        {"at": float(at), "value": mean.value, "low": mean.low, "high": mean.high}
        for at, mean in zip(places, means, strict=True)
    ]


def _identity_share(
    outcome: Outcome, values: NDArray[np.float64], counted: NDArray[np.bool_]
) -> dict[str, object]:
    """Where the identity was averaged in, say how often and what the mean is without it."""
    others = ~outcome.identities
    if not (outcome.identities & counted).any() or not others.any():
        return {}
    return {
        "identity_members": int(outcome.identities.sum()),
        "without_identity": float(np.nanmean(_over_members(values[:, others]))),
    }


def _over_members(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average what is defined of each row; NaN where nothing is."""
    defined = ~np.isnan(values)
    sums, counts = np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1)
    return np.asarray(np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0))


def _batch_notes(settings: Comparison) -> tuple[str, ...]:
    if settings.batchnorm == "eval":
        return ()
    return ("BatchNorm in training mode: every feature depends on what was in its batch (I-1)",)


def _undefined(metric: str, count: int, values: NDArray[np.float64]) -> tuple[str, ...]:
    if not count:
        return ()
    return (f"{metric}: {count} of {values.size} values are undefined and left out",)
