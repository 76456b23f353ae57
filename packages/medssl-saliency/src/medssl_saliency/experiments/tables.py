"""How records of saliency are shown: tables, and sentences about what was found.

Importing this module imports no torch.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.experiments.cells import interval
from medssl_models.experiments.experiment import Table
from medssl_models.experiments.registry import metric_of

from medssl_saliency.maps.checks import CONTROL, CONTROL_PAIR, OWN, RANDOM

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from medssl_models import Record

__all__ = ["alarms", "map_tables", "sanity_findings", "sanity_tables", "stats_tables"]

SHORTCUTS = {"border_mass": "border", "corner_mass": "corner"}
"""Where burnt-in text and side markers lie."""


def map_tables(records: Sequence[Record]) -> list[Table]:
    """Lay out the numbers of maps, a row a map."""
    numbers = ("gini", "entropy", "border_mass", "corner_mass")
    rows = []
    for found in _grouped(records, _map_of):
        of = {record.metric: record for record in found}
        first = of["attentive_diffusion"]
        values = (f"{of[name].value:.3f}" for name in numbers)
        place = first.settings["picture"], first.provenance.model
        rows.append((*place, f"{first.value:.2f}", *values, first.details.get("file")))
    columns = ("picture", "model", "diffusion %", "gini", "entropy", "border", "corners", "map")
    return [Table(columns, rows)]


def stats_tables(records: Sequence[Record]) -> list[Table]:
    """Lay out means over pictures, a row a number."""
    columns = ("data set", "model", "number", "with", "mean", "95 %", "by area", "pictures")
    rows = [
        (
            record.provenance.dataset,
            record.provenance.model,
            metric_of(record).heading,
            record.settings.get("other"),
            metric_of(record).show(record.value),
            interval(record),
            _by_area(record),
            record.n,
        )
        for record in records
    ]
    return [Table(columns, rows)]


def alarms(records: Sequence[Record]) -> list[str]:
    """Word where a model's mass at border or corners is surely above the share of the area.

    Args:
        records: Means over pictures.
    """
    found = []
    for record in records:
        chance = record.details.get("chance")
        if record.metric not in SHORTCUTS or not isinstance(chance, float):
            continue
        if record.ci_low is not None and record.ci_low > chance:
            found.append(
                f"shortcut alarm: {record.provenance.model} has {100 * record.value:.1f} % of its "
                f"mass at the {SHORTCUTS[record.metric]}, {100 * chance:.1f} % by area; "
                "look for burnt-in text and markers"
            )
    return found


def sanity_tables(records: Sequence[Record]) -> list[Table]:
    """Lay out similarities by randomisation, and areas of deletion and insertion by order."""
    columns = ("model", "test", "randomised", "spearman", "95 %", "top tenth", "pictures")
    areas = ("model", "order of pixels", "deletion", "95 %", "insertion", "95 %", "pictures")
    similarities: list[tuple[object, ...]] = []
    orders: list[tuple[object, ...]] = []
    for found in _grouped(records, _place):
        of = {record.metric: record for record in found}
        if "similarity_spearman" in of:
            one, top = of["similarity_spearman"], of["similarity_overlap"]
            what = one.provenance.model, one.settings["test"], one.settings["randomised"]
            value = f"{one.value:.2f}", _interval(one, 2), f"{top.value:.2f}"
            similarities.append((*what, *value, one.n))
        else:
            out, back = of["deletion_area"], of["insertion_area"]
            values = (f"{out.value:.3f}", interval(out), f"{back.value:.3f}", interval(back))
            orders.append((out.provenance.model, out.settings["order"], *values, out.n))
    return [Table(columns, similarities), Table(areas, orders)]


def sanity_findings(records: Sequence[Record]) -> list[str]:
    """Word what each model's checks gave on each data set; no verdict, numbers side by side."""
    return [_finding(found) for found in _grouped(records, _run_of)]


def _finding(records: Sequence[Record]) -> str:
    alike: dict[object, list[float]] = defaultdict(list)
    areas: dict[object, float] = {}
    for record in records:
        if record.metric == "similarity_spearman":
            alike[record.settings["test"]].append(record.value)
        elif record.metric == "deletion_area":
            areas[record.settings["order"]] = record.value
    parts = []
    if CONTROL in alike:
        mean = float(np.mean(alike[CONTROL]))
        parts.append(f"its maps and untrained networks' agree at {mean:.2f} (Spearman)")
    if CONTROL_PAIR in alike:
        mean = float(np.mean(alike[CONTROL_PAIR]))
        parts.append(f"untrained networks' among themselves at {mean:.2f}")
    if OWN in areas and RANDOM in areas:
        parts.append(f"deletion area {areas[OWN]:.3f}, in random order {areas[RANDOM]:.3f}")
    return f"{records[0].provenance.model}: {'; '.join(parts)}"


def _grouped(
    records: Sequence[Record], key: Callable[[Record], Hashable]
) -> list[Sequence[Record]]:
    found: dict[Hashable, list[Record]] = defaultdict(list)
    for record in records:
        found[key(record)].append(record)
    return list(found.values())


def _map_of(record: Record) -> Hashable:
    return (*_run_of(record), record.settings["picture"])


def _run_of(record: Record) -> tuple[str, str, str]:
    return record.provenance.model, record.provenance.weights, record.provenance.dataset


def _place(record: Record) -> Hashable:
    where = (record.settings.get(name) for name in ("test", "randomised", "order"))
    return (*_run_of(record), *where)


def _by_area(record: Record) -> str | None:
    chance = record.details.get("chance")
    return f"{chance:.3f}" if isinstance(chance, float) else None


def _interval(record: Record, digits: int) -> str:
    if record.ci_low is None or record.ci_high is None:
        return ""
    return f"{record.ci_low:.{digits}f} to {record.ci_high:.{digits}f}"
