"""From the predictions of a test part to records: every metric with its interval.

What an experiment on a test part shares with the others, so that linear, k-NN and fine-tuned
results can be set side by side and compared image by image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.experiments.features import patients_of
from medssl_eval.experiments.predictions import predictions_folder
from medssl_eval.statistics.intervals import (
    RESAMPLES,
    estimate,
    shared_deviation,
    widened,
)
from medssl_eval.statistics.metrics import metric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from medssl_data import ImageDataset
    from medssl_models import Provenance, Record, RunContext
    from numpy.typing import NDArray

    from medssl_eval.experiments.predictions import Predictions
    from medssl_eval.experiments.settings import ScoredSettings
    from medssl_eval.statistics.intervals import Estimate

__all__ = [
    "Scored",
    "metric_names",
    "metrics_of",
    "predictions_of",
    "primary_metric",
    "resolved",
    "selection",
]

_METRICS = ("accuracy", "balanced_accuracy", "auroc", "auprc", "brier", "calibration_error")
_ORDERED = "quadratic_kappa"


def metric_names(*, ordered: bool) -> tuple[str, ...]:
    """The metrics that are recorded; ordered classes have their kappa too."""
    return (*_METRICS, _ORDERED) if ordered else _METRICS


def primary_metric(data: ImageDataset) -> str:
    """The metric by which a data set's results are judged: the study's, else accuracy."""
    card = data.card
    return "accuracy" if card is None or card.metric == "accuracy" else "balanced_accuracy"


def metrics_of(data: ImageDataset, settings: ScoredSettings) -> tuple[str, ...]:
    """Name the metrics that a data set's classes ask for: grades have their kappa too."""
    graded = data.card is not None and data.card.ordered
    return metric_names(ordered=graded if settings.ordered == "card" else settings.ordered)


def selection(data: ImageDataset, settings: ScoredSettings) -> str:
    """Name the validation metric that chooses.

    Raises:
        UnknownNameError: There is no such metric.
    """
    return primary_metric(data) if settings.select == "card" else metric(settings.select).name


def resolved(data: ImageDataset, settings: ScoredSettings, *without: str) -> dict[str, object]:
    """Return settings as a record keeps them, for one data set.

    Args:
        data: Decides the metric that chooses.
        settings: The settings.
        without: Fields that each record resolves in its own way.
    """
    left_out = {"protocol", "seed", "ordered", "by", "adjust", *without}
    fields = settings.model_dump(mode="json", exclude=left_out)
    return fields | {"select": selection(data, settings)}


def predictions_of(context: RunContext) -> Path | None:
    """Return the folder that keeps the predictions of single images; None keeps none."""
    return None if context.results is None else predictions_folder(context.results)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What an experiment found out on its test part.

    Args:
        experiment: Such as `linear`.
        predictions: Of every test image.
        settings: Part of the key of each record.
        provenance: What it was computed from.
        details: What every record of it keeps, such as the chosen C.
        notes: What a reader must know.
        given: What the interval is conditional on.
        refits: (N, K) probabilities by each refit to resampled training patients: with them the
            interval covers the choice of the training patients too.
        apart: Whether no image that is asked trains. In folds each trains for the others, which
            moves both at once: the whole deviation over refits is counted then, not only what they
            share, which simulations show to be too little.
    """

    experiment: str
    predictions: Predictions
    settings: Mapping[str, object]
    provenance: Provenance
    details: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    given: str = "one fit"
    refits: Sequence[NDArray[np.float64]] = ()
    apart: bool = True

    def records(self, names: Sequence[str], *, folder: Path | None) -> list[Record]:
        """Measure and write down.

        The intervals are from a bootstrap that draws patients, or images where patients are
        unknown, in the way that the settings name; see `estimate`. Its seed is fixed, so that all
        models are measured on the same resamples. With refits they are widened by what the training
        patients add; see `widened`.

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

    @property
    def _counted(self) -> Predictions:
        """The predictions that a value rests on."""
        return self.predictions

    def _estimates(self, names: Sequence[str]) -> dict[str, Estimate]:
        asked = self.predictions
        clusters = patients_of(asked.groups, separate=True)
        return estimate(
            asked.labels,
            asked.probabilities,
            names,
            clusters=clusters,
            interval="log_odds" if self.settings.get("interval") == "log_odds" else "percentile",
        )

    def _record(
        self, measured: Estimate, details: Mapping[str, object], notes: tuple[str, ...]
    ) -> Record:
        from medssl_models import Record as Result

        scale, counted = metric(measured.metric).scale, self._counted
        value, low, high = (
            None if number is None else scale * number
            for number in (measured.value, measured.low, measured.high)
        )
        trivial = self._trivial(measured.metric)
        own: dict[str, object] = {
            "chance": None if trivial is None else scale * trivial,
            "resampled": measured.units,
            "resamples": RESAMPLES,
            "images": len(counted),
            "patients": len(set(counted.groups) - {""}),
            "interval": self._meaning(measured.units),
            "given": self.given,
        }
        if len(self.refits) and value is not None and low is not None and high is not None:
            spread = scale * self._spread(measured.metric)
            own["refits"] = {
                "count": len(self.refits), "deviation": spread, "one_fit": [low, high]
            }  # fmt: skip
            low, high = widened(
                value,
                (low, high),
                spread,
                freedom=len(self.refits) - 1,
                bounds=metric(measured.metric).bounds,
            )
        return Result(
            experiment=self.experiment,
            metric=measured.metric,
            value=value,
            ci_low=low,
            ci_high=high,
            n=len(counted),
            settings=dict(self.settings),
            details={**own, **details},
            notes=notes,
            provenance=self.provenance,
        )

    def _meaning(self, units: int) -> str:
        """Say in a line what the interval covers, and what it is conditional on."""
        who = "patients" if any(self.predictions.groups) else "images"
        if len(self.refits):
            return (
                f"over {units} test {who}, and over training patients by {len(self.refits)} refits"
            )
        return f"over {units} test {who}, given {self.given}"

    def _spread(self, name: str) -> float:
        """By how much the choice of training patients moves a metric."""
        asked = self.predictions
        if self.apart:
            clusters = patients_of(asked.groups, separate=True)
            return shared_deviation(asked.labels, self.refits, name, clusters=clusters)
        values = (metric(name)(asked.labels, refit).value for refit in self.refits)
        return float(np.std([value for value in values if value is not None], ddof=1))

    def _trivial(self, name: str) -> float | None:
        """What the shares of the classes alone give: always the commonest class, or the shares."""
        labels, classes = self.predictions.labels, len(self.predictions.classes)
        shares = np.bincount(labels, minlength=classes) / len(labels)
        constant = np.tile(shares, (len(labels), 1))
        return metric(name)(labels, constant).value
