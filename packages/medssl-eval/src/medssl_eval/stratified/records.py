"""Records of what was measured, and of the strata and adjustments that the settings ask for.

All are made from the predictions of single images: no network and no fit is needed anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.experiments.features import patients_of, unit_names
from medssl_eval.experiments.predictions import read_predictions
from medssl_eval.experiments.scoring import Scored, predictions_of
from medssl_eval.statistics.metrics import METRICS, metric
from medssl_eval.stratified.adjustment import (
    ADJUSTABLE,
    adjusted_influences,
    estimate_adjusted,
    in_whole_strata,
)
from medssl_eval.stratified.columns import combined, strata_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from medssl_data import ImageDataset
    from medssl_models import Record, RunContext
    from numpy.typing import NDArray

    from medssl_eval.experiments.predictions import Predictions
    from medssl_eval.experiments.settings import ScoredSettings
    from medssl_eval.statistics.intervals import Estimate
    from medssl_eval.stratified.columns import Strata

__all__ = ["records_of"]

MOST_COMPARED = 7000
"""Test images up to which the influence of each patient on adjusted scores is kept."""

_OWN = frozenset(
    {"chance", "resampled", "resamples", "images", "patients", "interval", "given", "refits",
     "predictions", "influences", "undefined", "control", "synthetic", "curve", "validation_curve",
     "fit", "path"}
)  # fmt: skip
"""Details that a stratum has of its own, or that would only repeat those of the whole."""


def records_of(
    found: Scored | Sequence[Record],
    names: Sequence[str],
    data: ImageDataset,
    settings: ScoredSettings,
    context: RunContext,
) -> list[Record]:
    """Write down what was measured, within strata and adjusted too where that is asked for.

    Args:
        found: What was measured now, or its records where it was measured before.
        names: Metrics.
        data: Carries the columns.
        settings: `by` names columns that are scored apart, `adjust` those that are adjusted for.
        context: Keeps predictions, and knows what was done before.

    Returns:
        The records of the whole test part first. A stratum's have `stratum` among their settings,
        adjusted ones `adjusted`.

    Raises:
        PredictionsError: Records are known, but their predictions are gone.
    """
    folder = predictions_of(context)
    fresh = isinstance(found, Scored)
    records = found.records(names, folder=folder) if isinstance(found, Scored) else list(found)
    if not settings.by and not settings.adjust:
        return records
    whole = found if isinstance(found, Scored) else _scored_again(records, context)
    for column in settings.by:
        strata = strata_of(data, column)
        for part in _parts(whole, strata, data):
            records += _kept(part, names, folder, context, fresh=fresh)
    if settings.adjust:
        part = _adjusted(whole, combined(data, settings.adjust), data)
        chosen = [name for name in names if name in ADJUSTABLE]
        made = _kept(part, chosen, None, context, fresh=fresh)
        if folder is not None and len(whole.predictions) <= MOST_COMPARED:
            made = [_with_influences(record, part, folder) for record in made]
        if not made:
            context.warn(f"{data.name}: nothing is adjusted for {', '.join(settings.adjust)}: no "
                         "value of it is found with all classes")  # fmt: skip
        records += made
    return records


def _kept(
    part: Scored, names: Sequence[str], folder: Path | None, context: RunContext, *, fresh: bool
) -> list[Record]:
    known = context.recall(part.experiment, names, part.settings, part.provenance)
    return known if known is not None and not fresh else part.records(names, folder=folder)


def _scored_again(records: Sequence[Record], context: RunContext) -> Scored:
    """Read back what records were made from."""
    first = records[0]
    return Scored(
        experiment=first.experiment,
        predictions=read_predictions(first, context.results_file),
        settings=first.settings,
        provenance=first.provenance,
        details=first.details,
        notes=tuple(note for note in first.notes if not _is_of_metric(note)),
        given=str(first.details.get("given", "one fit")),
    )


def _is_of_metric(note: str) -> bool:
    return note.partition(":")[0] in METRICS


def _parts(whole: Scored, strata: Strata, data: ImageDataset) -> Iterator[Scored]:
    """Yield the predictions of each stratum that has any."""
    place = dict(zip(data.ids, strata.names, strict=True))
    for name in strata.order:
        ids = [ident for ident in whole.predictions.ids if place[ident] == name]
        if ids:
            part = replace(whole, predictions=whole.predictions.in_order(ids))
            yield _described(part, strata, {"stratum": name})


def _adjusted(whole: Scored, strata: Strata, data: ImageDataset) -> _Adjusted:
    place = dict(zip(data.ids, strata.names, strict=True))
    names, codes = np.unique([place[ident] for ident in whole.predictions.ids], return_inverse=True)
    part = _described(whole, strata, {"adjusted": " and ".join(strata.columns)})
    fields = {name: getattr(part, name) for name in part.__dataclass_fields__}
    found = _Adjusted(**fields, strata=codes.astype(np.int64))
    left_out = _without_all_classes(found.predictions.labels, found.strata, names)
    details = {**found.details, "resamples": 0}  # a jackknife
    return replace(found, notes=(*found.notes, *left_out), details=details)


def _with_influences(record: Record, part: _Adjusted, folder: Path) -> Record:
    """Keep what each patient adds, so that models can be compared by what is adjusted."""
    asked, scale = part.predictions, metric(record.metric).scale
    units, places = np.unique(unit_names(asked.groups, asked.ids), return_inverse=True)
    found = adjusted_influences(
        asked.labels,
        asked.probabilities,
        part.strata,
        record.metric,
        places,
        names=units.tolist(),
        plan=f"{asked.questions} adjusted for {record.settings['adjusted']}",
    )
    if found is None:
        return record
    kept = replace(found, values=scale * found.values).save(folder)
    return record.model_copy(update={"details": {**record.details, "influences": kept}})


def _described(part: Scored, strata: Strata, setting: dict[str, str]) -> Scored:
    """Give a part of the predictions an identity of its own, in which the columns count."""
    columns = repr((part.provenance.manifest, strata.columns, strata.names)).encode()
    origin = part.provenance.model_copy(update={"manifest": hashlib.sha256(columns).hexdigest()})
    return replace(
        part,
        settings={**part.settings, **setting},
        provenance=origin,
        details={name: fact for name, fact in part.details.items() if name not in _OWN},
        refits=(),
    )


def _without_all_classes(
    labels: NDArray[np.int64], strata: NDArray[np.int64], names: NDArray[np.str_]
) -> tuple[str, ...]:
    """Say which strata cannot be adjusted, for the label cannot be told from them."""
    classes = len(np.unique(labels))
    lacking = [
        (str(name), int((strata == place).sum()))
        for place, name in enumerate(names)
        if len(np.unique(labels[strata == place])) < classes
    ]
    if not lacking:
        return ()
    images = sum(count for _, count in lacking)
    listed = "; ".join(name for name, _ in lacking[:5]) + (" ..." if len(lacking) > 5 else "")
    return (f"{images} of {len(labels)} images left out: their strata lack a class ({listed})",)


@dataclass(frozen=True, kw_only=True)
class _Adjusted(Scored):
    """Predictions whose scores are adjusted.

    Args:
        strata: (N,) int64, the stratum of each test image.
    """

    strata: NDArray[np.int64]

    @property
    def _counted(self) -> Predictions:
        held = in_whole_strata(self.predictions.labels, self.strata)
        return self.predictions.in_order(
            [ident for ident, kept in zip(self.predictions.ids, held, strict=True) if kept]
        )

    def _estimates(self, names: Sequence[str]) -> dict[str, Estimate]:
        asked = self.predictions
        return estimate_adjusted(
            asked.labels,
            asked.probabilities,
            self.strata,
            names,
            clusters=patients_of(asked.groups, separate=True),
        )
