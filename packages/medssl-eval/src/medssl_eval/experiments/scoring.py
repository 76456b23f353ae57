"""From the predictions of a test part to records: every metric with its interval.

What an experiment on a test part shares with the others, so that linear, k-NN and fine-tuned
results can be set side by side and compared image by image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.experiments.features import patients_of
from medssl_eval.statistics.intervals import RESAMPLES, estimate
from medssl_eval.statistics.metrics import metric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from medssl_data import ImageDataset
    from medssl_models import Provenance, Record

    from medssl_eval.experiments.predictions import Predictions
    from medssl_eval.statistics.intervals import Estimate

__all__ = ["Outcome", "known_records", "metric_names", "primary_metric"]

_METRICS = ("accuracy", "balanced_accuracy", "auroc", "auprc", "brier", "calibration_error")
_ORDERED = "quadratic_kappa"


def metric_names(*, ordered: bool) -> tuple[str, ...]:
    """The metrics that are recorded; ordered classes have their kappa too."""
    return (*_METRICS, _ORDERED) if ordered else _METRICS


def primary_metric(data: ImageDataset) -> str:
    """The metric by which a data set's results are judged: the study's, else accuracy."""
    card = data.card
    return "accuracy" if card is None or card.metric == "accuracy" else "balanced_accuracy"


def known_records(
    known: Mapping[str, Record],
    experiment: str,
    names: Sequence[str],
    settings: Mapping[str, object],
    provenance: Provenance,
) -> list[Record] | None:
    """Find the records of an experiment that was run before.

    Args:
        known: Records by key.
        experiment: As in `Outcome`.
        names: The metrics.
        settings: As in `Outcome`.
        provenance: As in `Outcome`.

    Returns:
        One record for each metric that was defined then; None where any other is missing, as when
        a process was killed while it wrote them.
    """
    from medssl_models.experiments.record import record_key

    keys = [record_key(experiment, name, settings, provenance) for name in names]
    if keys[0] not in known:
        return None
    undefined = known[keys[0]].details.get("undefined")
    expected = set(names) - set(undefined if isinstance(undefined, dict) else ())
    if any(key not in known for key, name in zip(keys, names, strict=True) if name in expected):
        return None
    return [known[key] for key in keys if key in known]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an experiment found out on its test part.

    Attributes:
        experiment: Such as `linear`.
        predictions: Of every test image.
        settings: Part of the key of each record.
        provenance: What it was computed from.
        details: What every record of it keeps, such as the chosen strength.
        notes: What a reader must know.
    """

    experiment: str
    predictions: Predictions
    settings: Mapping[str, object]
    provenance: Provenance
    details: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def records(self, names: Sequence[str], *, folder: Path | None) -> list[Record]:
        """Measure and write down.

        The intervals are percentiles of a bootstrap that draws patients, or images where patients
        are unknown; its seed is fixed, so that all models are measured on the same resamples.

        Args:
            names: Metrics; one that is not defined on this test part gives a note and no record.
            folder: Where the predictions are kept; None keeps none.
        """
        found = self._estimates(names)
        missing = {name: e.reason for name, e in found.items() if e.value is None}
        notes = (*self.notes, *(f"{name}: {e.reason}" for name, e in found.items() if e.reason))
        kept = {} if folder is None else {"predictions": self.predictions.save(folder)}
        shared = {**self.details, **kept, "undefined": missing}
        return [
            self._record(measured, shared, notes)
            for measured in found.values()
            if measured.value is not None
        ]

    def _estimates(self, names: Sequence[str]) -> dict[str, Estimate]:
        asked = self.predictions
        clusters = patients_of(asked.groups, separate=True)
        return estimate(asked.labels, asked.probabilities, names, clusters=clusters)

    def _record(
        self, measured: Estimate, details: Mapping[str, object], notes: tuple[str, ...]
    ) -> Record:
        from medssl_models import Record as Result

        unit, scale = ("%", 100.0) if metric(measured.metric).in_percent else ("", 1.0)
        value, low, high = (
            None if number is None else scale * number
            for number in (measured.value, measured.low, measured.high)
        )
        trivial = self._trivial(measured.metric)
        own = {
            "chance": None if trivial is None else scale * trivial,
            "resampled": measured.units,
            "resamples": RESAMPLES,
            "images": len(self.predictions),
        }
        return Result(
            experiment=self.experiment,
            metric=measured.metric,
            unit=unit,
            value=value,
            ci_low=low,
            ci_high=high,
            n=len(self.predictions),
            settings=dict(self.settings),
            details={**own, **details},
            notes=notes,
            provenance=self.provenance,
        )

    def _trivial(self, name: str) -> float | None:
        """What the shares of the classes alone give: always the commonest class, or the shares."""
        labels, classes = self.predictions.labels, len(self.predictions.classes)
        shares = np.bincount(labels, minlength=classes) / len(labels)
        constant = np.tile(shares, (len(labels), 1))
        return metric(name)(labels, constant).value
