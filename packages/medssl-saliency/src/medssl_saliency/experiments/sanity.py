"""Does a map show what the network has learnt? Numbers of sanity checks over pictures.

Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018: a map that stays as it is when
weights or data are randomised cannot explain them. `checking.py` runs the checks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from medssl_saliency.concentration import agreement
from medssl_saliency.survey import Survey, interval, mean_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from medssl_models.experiments.record import Record
    from numpy.typing import NDArray

    from medssl_saliency.curves import Curves
    from medssl_saliency.mapping import Mapped

__all__ = [
    "AREA_COLUMNS",
    "SIMILARITY_COLUMNS",
    "Check",
    "Randomised",
    "area_rows",
    "curve_table",
    "finding",
    "sanity_records",
    "similarity_rows",
    "similarity_table",
]

EXPERIMENT = "saliency-sanity"
CASCADING, INDEPENDENT, OTHER_TARGET = "cascading", "independent", "other target"
CONTROL, CONTROL_PAIR = "untrained control", "control pair"
OWN, RANDOM = "own map", "random blocks"
SIMILARITY_COLUMNS = ("model", "test", "randomised", "spearman", "95 %", "top tenth", "pictures")
AREA_COLUMNS = ("model", "order of pixels", "deletion", "95 %", "insertion", "95 %", "pictures")
AREAS: tuple[Literal["deletion", "insertion"], ...] = ("deletion", "insertion")


@dataclass(frozen=True, eq=False)
class Randomised:
    """The map of a picture under one randomisation.

    Attributes:
        test: `cascading`, `independent`, `untrained control` or `other target`.
        what: What was randomised.
        mapped: The map.
    """

    test: str
    what: str
    mapped: Mapped


@dataclass(frozen=True, eq=False)
class Check:
    """All checks of one model on one picture.

    Attributes:
        own: The map that is checked.
        randomised: Maps under randomisations.
        curves: Deletion and insertion by what ordered the pixels; several of random orders.
    """

    own: Mapped
    randomised: list[Randomised] = field(default_factory=list)
    curves: dict[str, list[Curves]] = field(default_factory=dict)

    @property
    def picture(self) -> str:
        """Name of the picture."""
        return self.own.subject.name

    def similarities(self) -> dict[tuple[str, str], Mapping[str, float]]:
        """Compare the map with each randomised one, and the controls' maps with each other."""
        mine = self.own.made.strength
        found: dict[tuple[str, str], Mapping[str, float]] = {
            (one.test, one.what): agreement(mine, one.mapped.made.strength)
            for one in self.randomised
        }
        controls = [one for one in self.randomised if one.test == CONTROL]
        for first, second in pairwise(controls):
            pair = first.mapped.made.strength, second.mapped.made.strength
            found[CONTROL_PAIR, f"{first.what} and {second.what}"] = agreement(*pair)
        return found

    def areas(self) -> dict[str, dict[str, float]]:
        """Give the areas of deletion and insertion by order; means where there are several."""
        return {
            order: {
                "deletion": float(np.mean([one.deletion_area for one in several])),
                "insertion": float(np.mean([one.insertion_area for one in several])),
            }
            for order, several in self.curves.items()
        }


def sanity_records(checks: Sequence[Check], *, seed: int) -> list[Record]:
    """Give the records of one model's checks on a set of pictures.

    Args:
        checks: One for each picture.
        seed: Of the resampling.
    """
    survey = Survey([check.own for check in checks])
    records = []
    for (test, what, measure), by_picture in _by_randomisation(checks).items():
        records.append(
            mean_record(
                survey,
                f"similarity, {measure}",
                by_picture,
                seed=seed,
                details={"values": by_picture},
                settings={"test": test, "randomised": what},
                experiment=EXPERIMENT,
            )
        )
    for (order, curve), by_picture in _by_order(checks).items():
        records.append(
            mean_record(
                survey,
                f"{curve} area",
                by_picture,
                seed=seed,
                details={"values": by_picture, "curve": _mean_curve(checks, order, curve)},
                settings={"order": order},
                experiment=EXPERIMENT,
            )
        )
    return records


def similarity_rows(records: Sequence[Record]) -> list[tuple[object, ...]]:
    """Give a row of `SIMILARITY_COLUMNS` for each randomisation."""
    tops = {_place(r): r.value for r in records if r.metric == "similarity, overlap"}
    return [
        (
            record.provenance.model,
            record.settings["test"],
            record.settings["randomised"],
            f"{record.value:.2f}",
            interval(record),
            f"{tops[_place(record)]:.2f}",
            record.n,
        )
        for record in records
        if record.metric == "similarity, spearman"
    ]


def area_rows(records: Sequence[Record]) -> list[tuple[object, ...]]:
    """Give a row of `AREA_COLUMNS` for each order of pixels."""
    insertions = {_place(r): r for r in records if r.metric == "insertion area"}
    rows: list[tuple[object, ...]] = []
    for record in records:
        if record.metric == "deletion area":
            other = insertions[_place(record)]
            rows.append(
                (
                    record.provenance.model,
                    record.settings["order"],
                    f"{record.value:.3f}",
                    interval(record, 3),
                    f"{other.value:.3f}",
                    interval(other, 3),
                    record.n,
                )
            )
    return rows


def finding(records: Sequence[Record]) -> str:
    """Say in a sentence what one model's checks gave; no verdict, the numbers side by side."""
    model = records[0].provenance.model
    alike = {
        test: float(np.mean(values))
        for test in (CONTROL, CONTROL_PAIR)
        if (values := [r.value for r in records if _is(r, test)])
    }
    parts = []
    if CONTROL in alike:
        parts.append(f"its maps and untrained networks' agree at {alike[CONTROL]:.2f} (Spearman)")
    if CONTROL_PAIR in alike:
        parts.append(f"untrained networks' among themselves at {alike[CONTROL_PAIR]:.2f}")
    area = {r.settings.get("order"): r.value for r in records if r.metric == "deletion area"}
    parts.append(f"deletion area {area[OWN]:.3f}, in random order {area[RANDOM]:.3f}")
    return f"{model}: {'; '.join(parts)}"


def similarity_table(checks: Sequence[Check]) -> Iterator[tuple[object, ...]]:
    """Give heading and rows of all similarities, picture by picture, for a CSV file."""
    yield ("model", "picture", "test", "randomised", "pearson", "spearman", "overlap")
    for check in checks:
        for (test, what), measures in check.similarities().items():
            numbers = (measures[name] for name in ("pearson", "spearman", "overlap"))
            yield (check.own.model, check.picture, test, what, *numbers)


def curve_table(checks: Sequence[Check]) -> Iterator[tuple[object, ...]]:
    """Give heading and rows of all curves, point by point, for a CSV file."""
    yield ("model", "picture", "order", "repeat", "share", "deletion", "insertion")
    for check in checks:
        for order, several in check.curves.items():
            for repeat, one in enumerate(several):
                shares = np.linspace(0, 1, len(one.deletion))
                for share, out, back in zip(shares, one.deletion, one.insertion, strict=True):
                    yield (check.own.model, check.picture, order, repeat, share, out, back)


def _by_randomisation(checks: Sequence[Check]) -> dict[tuple[str, str, str], dict[str, float]]:
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for check in checks:
        for (test, what), measures in check.similarities().items():
            for measure, value in measures.items():
                found.setdefault((test, what, measure), {})[check.picture] = value
    return found


def _by_order(checks: Sequence[Check]) -> dict[tuple[str, str], dict[str, float]]:
    """Collect areas, and how far those of the map are above those of the other orders."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for check in checks:
        areas = check.areas()
        for order, both in areas.items():
            for curve, value in both.items():
                found.setdefault((order, curve), {})[check.picture] = value
                if order != OWN:
                    above = areas[OWN][curve] - value
                    found.setdefault((f"{OWN} less {order}", curve), {})[check.picture] = above
    return found


def _mean_curve(checks: Sequence[Check], order: str, curve: str) -> list[float]:
    every: list[NDArray[np.float64]] = [
        getattr(one, curve) for check in checks for one in check.curves.get(order, [])
    ]
    return np.mean(every, axis=0).tolist() if every else []


def _place(record: Record) -> tuple[object, ...]:
    settings = record.settings
    where = (settings.get("test"), settings.get("randomised"), settings.get("order"))
    return (record.provenance.model, record.provenance.dataset, *where)


def _is(record: Record, test: str) -> bool:
    return record.metric == "similarity, spearman" and record.settings.get("test") == test
