"""Maps over a set of pictures in numbers: means with intervals, agreement of models, alarms."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.experiments.record import Record

from medssl_saliency.concentration import (
    agreement,
    bootstrap_interval,
    border_mass,
    corner_mass,
    describe,
    mask_mass,
    pointing_game,
    rank_accuracy,
)
from medssl_saliency.published import PublishedDiffusion, published_diffusion
from medssl_saliency.tables import UNITS, notes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from medssl_saliency.mapping import Mapped

__all__ = [
    "COLUMNS",
    "PUBLISHED_COLUMNS",
    "Survey",
    "agreement_matrix",
    "alarms",
    "interval",
    "mean_map",
    "mean_record",
    "published_rows",
    "rows",
    "survey_records",
]

EXPERIMENT = "saliency-stats"
COLUMNS = ("data set", "model", "number", "with", "mean", "95 %", "by area", "pictures")
PUBLISHED_COLUMNS = ("data set", "model", "ours %", "95 %", "released %", "its heat map %")
SHORTCUTS: dict[str, Callable[[NDArray[np.floating]], float]] = {
    "border mass": border_mass,
    "corner mass": corner_mass,
}
"""Where burnt-in text and side markers lie; the share of a constant map is the area's."""


@dataclass(frozen=True, eq=False)
class Survey:
    """The maps of one model over a set of pictures.

    Attributes:
        maps: In the order of the pictures.
        masks: Picture to `(H, W)` bool, as large as the map; not every picture needs one.
    """

    maps: list[Mapped]
    masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.maps[0].model

    def numbers(self) -> dict[str, dict[str, float]]:
        """Give every number by metric and picture; those of masks where there are masks."""
        found: dict[str, dict[str, float]] = {}
        for mapped in self.maps:
            name, values = mapped.subject.name, mapped.made.strength
            numbers = dict(describe(values))
            if name in self.masks:
                numbers |= _mask_numbers(values, self.masks[name])
            for metric, value in numbers.items():
                found.setdefault(metric, {})[name] = value
        return found

    def groups(self, names: Sequence[str]) -> list[str]:
        """Name the patients of some pictures."""
        by_name = {mapped.subject.name: mapped.subject.group for mapped in self.maps}
        return [by_name[name] for name in names]


def survey_records(surveys: Sequence[Survey], *, seed: int) -> list[Record]:
    """Give the records of a set: each model's means, and how each two models agree.

    Args:
        surveys: One for each model, over the same pictures.
        seed: Of the resampling.
    """
    means = [record for survey in surveys for record in _mean_records(survey, seed)]
    pairs = [
        record
        for one, other in combinations(surveys, 2)
        for record in _agreement_records(one, other, seed)
    ]
    return means + pairs


def alarms(records: Sequence[Record]) -> list[str]:
    """Say where a model's mass at border or corners is surely above the share of the area."""
    found = []
    for record in records:
        chance = record.details.get("by_area")
        if record.metric not in SHORTCUTS or not isinstance(chance, float):
            continue
        if record.ci_low is not None and record.ci_low > chance:
            found.append(
                f"shortcut alarm: {record.provenance.model} has {100 * record.value:.1f} % of its "
                f"mass at the {record.metric.split()[0]}, {100 * chance:.1f} % by area; "
                "look for burnt-in text and markers"
            )
    return found


def agreement_matrix(
    records: Sequence[Record], measure: str = "spearman"
) -> tuple[list[str], NDArray[np.float64]]:
    """Arrange how models agree: their names, and `(n, n)` means with ones on the diagonal.

    Args:
        records: Of one data set.
        measure: `pearson`, `spearman` or `overlap`.

    Returns:
        NaN where two models' maps could not be compared; no names where no two could.
    """
    pairs = {
        (record.provenance.model, str(record.settings["other"])): record.value
        for record in records
        if record.metric == f"agreement, {measure}"
    }
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    values = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(values, 1.0)
    for (one, other), value in pairs.items():
        row, column = names.index(one), names.index(other)
        values[row, column] = values[column, row] = value
    return names, values


def mean_map(survey: Survey) -> NDArray[np.float32]:
    """Average a model's maps over the pictures, each with unit mass: `(H, W)` float32."""
    shares = [mapped.made.strength for mapped in survey.maps]
    scaled = [values / (values.mean(dtype=np.float64) or 1.0) for values in shares]
    mean: NDArray[np.float32] = np.mean(scaled, axis=0).astype(np.float32)
    return mean


def rows(records: Sequence[Record]) -> list[tuple[object, ...]]:
    """Give a row of `COLUMNS` for each record."""
    return [
        (
            record.provenance.dataset,
            record.provenance.model,
            f"{record.metric}, {record.unit}" if record.unit else record.metric,
            record.settings.get("other"),
            f"{record.value:.3f}",
            interval(record, 3),
            _by_area(record),
            record.n,
        )
        for record in records
    ]


def _by_area(record: Record) -> str | None:
    chance = record.details.get("by_area")
    return f"{chance:.3f}" if isinstance(chance, float) else None


def published_rows(records: Sequence[Record]) -> list[tuple[object, ...]]:
    """Give a row of `PUBLISHED_COLUMNS` for each data set and model that the study has too."""
    rows: list[tuple[object, ...]] = []
    for record in records:
        cell = _published(record)
        if cell is not None:
            rows.append(
                (
                    record.provenance.dataset,
                    record.provenance.model,
                    f"{record.value:.2f}",
                    interval(record),
                    cell.published,
                    f"{cell.recovered:.2f} ({cell.lower:.2f} to {cell.upper:.2f}), {cell.status}",
                )
            )
    return rows


def interval(record: Record, digits: int = 2) -> str:
    """Write an interval, or nothing for one picture."""
    if record.ci_low is None or record.ci_high is None:
        return ""
    return f"{record.ci_low:.{digits}f} to {record.ci_high:.{digits}f}"


def _published(record: Record) -> PublishedDiffusion | None:
    if record.metric != "attentive diffusion":
        return None
    model = record.provenance.model.partition(":")[0]
    return published_diffusion(dataset=record.provenance.dataset, model=model)


def _mask_numbers(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> dict[str, float]:
    return {
        "mask mass": mask_mass(values, mask),
        "mask rank accuracy": rank_accuracy(values, mask),
        "pointing game": float(pointing_game(values, mask)),
    }


def _mean_records(survey: Survey, seed: int) -> list[Record]:
    records = []
    for metric, by_picture in survey.numbers().items():
        details: dict[str, object] = {"values": by_picture}
        if metric in SHORTCUTS:
            details["by_area"] = SHORTCUTS[metric](np.ones(survey.maps[0].made.values.shape))
        if metric in {"mask mass", "mask rank accuracy", "pointing game"}:
            details["by_area"] = float(np.mean([survey.masks[name].mean() for name in by_picture]))
        records.append(mean_record(survey, metric, by_picture, seed=seed, details=details))
    return records


def _agreement_records(one: Survey, other: Survey, seed: int) -> list[Record]:
    """Compare two models' maps of the same pictures; none where they differ in shape."""
    theirs = {mapped.subject.name: mapped.made.strength for mapped in other.maps}
    found: dict[str, dict[str, float]] = {}
    for mapped in one.maps:
        name, values = mapped.subject.name, mapped.made.strength
        if name in theirs and theirs[name].shape == values.shape:
            for measure, value in agreement(values, theirs[name]).items():
                found.setdefault(measure, {})[name] = value
    return [
        mean_record(
            one,
            f"agreement, {measure}",
            by_picture,
            seed=seed,
            details={"values": by_picture},
            settings={"other": other.model, "other_weights": other.maps[0].provenance.weights},
        )
        for measure, by_picture in found.items()
    ]


def mean_record(
    survey: Survey,
    metric: str,
    by_picture: Mapping[str, float],
    *,
    seed: int,
    details: Mapping[str, object],
    settings: Mapping[str, object] | None = None,
    experiment: str = EXPERIMENT,
) -> Record:
    """Give the record of the mean of one number over pictures, with its interval.

    Args:
        survey: The maps.
        metric: What the number means.
        by_picture: Picture to number; at least one.
        seed: Of the resampling.
        details: For the record.
        settings: What tells the number from others beside the settings of the maps.
        experiment: For the record.
    """
    names = list(by_picture)
    values = np.array([by_picture[name] for name in names])
    bounds = bootstrap_interval(values, seed=seed, groups=survey.groups(names))
    first = survey.maps[0]
    images = hashlib.sha256(
        "".join(mapped.provenance.images for mapped in survey.maps).encode()
    ).hexdigest()
    notes = dict.fromkeys(
        note for mapped in survey.maps for note in notes_of(mapped) if "near-exact" not in note
    )
    return Record(
        experiment=experiment,
        metric=metric,
        unit=UNITS.get(metric, ""),
        value=float(values.mean()),
        ci_low=bounds[0] if bounds else None,
        ci_high=bounds[1] if bounds else None,
        n=len(values),
        settings=first.settings.model_dump(mode="json") | dict(settings or {}),
        details=details,
        notes=tuple(notes),
        provenance=first.provenance.model_copy(
            update={"images": images, "dataset": first.subject.dataset or "files"}
        ),
    )
