"""From measured values to records: means with intervals, curves, baselines, what was undefined."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.experiments.intervals import bootstrap_mean
from medssl_models.versions import package_versions

from medssl_invariance.errors import FeatureError
from medssl_invariance.experiments.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medssl_models import Provenance, Record
    from medssl_models.experiments.intervals import Mean
    from medssl_models.experiments.metric import Metric
    from numpy.typing import NDArray

    from medssl_invariance.experiments.reference_set import ReferenceSet
    from medssl_invariance.experiments.settings import ComparisonSettings

__all__ = ["FACTS", "Measurement", "make_records"]

FACTS = {"split": "all", "versions": package_versions("scikit-learn")}
"""What both experiments add to a provenance; scikit-learn tells how much a covariance is shrunk."""


@dataclass(frozen=True)
class Measurement:
    """What was measured of one model and data set, under one family or between two views.

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
    reference: ReferenceSet
    baselines: Mapping[str, Mapping[str, Mean]]
    notes: tuple[str, ...] = ()
    more: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def counted(self, settings: ComparisonSettings) -> NDArray[np.bool_]:
        """Tell which members are in the mean; all of them where there are only identities."""
        if getattr(settings, "identity_in_mean", True) or self.identities.all():
            return np.ones_like(self.identities)
        return ~self.identities


def make_records(
    experiment: str,
    measurement: Measurement,
    settings: ComparisonSettings,
    *,
    provenance: Provenance,
    identity: Mapping[str, object],
) -> list[Record]:
    """Make one record a metric.

    Args:
        experiment: Its name.
        measurement: What was measured.
        settings: Resamples and seed of the intervals; whether the identity counts.
        provenance: With the device that was used.
        identity: The settings as a record keeps them.

    Raises:
        FeatureError: A metric is defined for no image.
    """
    from medssl_models import Record

    notes = (*_batch_notes(settings), *measurement.notes)
    records = []
    for metric, shares in zip(METRICS, measurement.values, strict=True):
        values = 100 * shares if metric.unit == "%" else shares
        mean, details = _summarise(metric, values, measurement, settings)
        if not mean.images:
            message = (
                f"{provenance.model} on {provenance.dataset}: the {metric.title} is undefined for "
                "every image; the features are zero or do not differ from their mean"
            )
            raise FeatureError(message)
        low, high = mean.interval
        records.append(
            Record(
                experiment=experiment,
                metric=metric.name,
                value=mean.value,
                ci_low=low,
                ci_high=high,
                n=mean.images,
                settings=dict(identity),
                details=details,
                notes=(*notes, *_undefined(metric, details["undefined"], values)),
                provenance=provenance,
            )
        )
    return records


def _summarise(
    metric: Metric,
    values: NDArray[np.float64],
    measurement: Measurement,
    settings: ComparisonSettings,
) -> tuple[Mean, dict[str, object]]:
    """Average over members, then over images; what else a record tells is in the details."""
    counted = measurement.counted(settings)
    images = _over_members(values[:, counted])
    (mean,) = bootstrap_mean(
        images[:, None], resamples=settings.bootstrap, seed=settings.seed, draw="counts"
    )
    details: dict[str, object] = {
        **_common(measurement),
        **measurement.more.get(metric.name, {}),
        "undefined": int(np.isnan(values[:, counted]).sum()),
        "baselines": _baselines(measurement, metric),
        "per_image": images.tolist(),
        "curve": _curve(measurement, values, settings),
        **_identity_share(measurement, values, counted),
    }
    if metric.unit == "%":
        details["chance"] = 100.0 / len(measurement.reference.gallery_rows)
    return mean, details


def _common(measurement: Measurement) -> dict[str, object]:
    reference = measurement.reference
    return {
        "images": len(reference.compared),
        "rows": reference.compared.tolist(),
        "members": len(measurement.places),
        "unreadable": len(reference.clean.unreadable),
        "gallery": len(reference.gallery_rows),
        "whitening": reference.whitening.report.as_details(),
        "precision_error": float(reference.clean.precision_error),
        "axis": measurement.axis,
    }


def _baselines(measurement: Measurement, metric: Metric) -> dict[str, object]:
    return {
        kind: {"value": mean.value, "low": mean.low, "high": mean.high, "images": mean.images}
        for kind, found in measurement.baselines.items()
        if (mean := found.get(metric.name)) is not None
    }


def _curve(
    measurement: Measurement, values: NDArray[np.float64], settings: ComparisonSettings
) -> list[dict[str, object]]:
    """Average the members at one place, then the images, with intervals over images."""
    if not measurement.axis:
        return []
    places, index = np.unique(measurement.places, return_inverse=True)
    columns = [_over_members(values[:, index == place]) for place in range(len(places))]
    means = bootstrap_mean(
        np.stack(columns, axis=1), resamples=settings.bootstrap, seed=settings.seed, draw="counts"
    )
    return [
        {"at": float(at), "value": mean.value, "low": mean.low, "high": mean.high}
        for at, mean in zip(places, means, strict=True)
    ]


def _identity_share(
    measurement: Measurement, values: NDArray[np.float64], counted: NDArray[np.bool_]
) -> dict[str, object]:
    """Where the identity was averaged in, say how often and what the mean is without it."""
    identities = measurement.identities
    if not (identities & counted).any() or identities.all():
        return {}
    return {
        "identity_members": int(identities.sum()),
        "without_identity": float(np.nanmean(_over_members(values[:, ~identities]))),
    }


def _over_members(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average what is defined of each row; NaN where nothing is."""
    defined = ~np.isnan(values)
    sums, counts = np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1)
    return np.asarray(np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0))


def _batch_notes(settings: ComparisonSettings) -> tuple[str, ...]:
    if settings.batchnorm == "eval":
        return ()
    return ("BatchNorm in training mode: every feature depends on what was in its batch (I-1)",)


def _undefined(metric: Metric, count: object, values: NDArray[np.float64]) -> tuple[str, ...]:
    if not count:
        return ()
    return (f"{metric.title}: {count} of {values.size} values are undefined and left out",)
