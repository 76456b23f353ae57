"""Which pictures are drawn of sanity checks; how they look is `drawing.py`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medssl_saliency.figures.drawing import Chart, Frame, draw_charts, draw_rows
from medssl_saliency.maps.checks import AREAS, CASCADING, CONTROL_PAIR, INDEPENDENT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from medssl_saliency.maps.checks import SanityCheck

__all__ = ["draw_checks", "draw_randomised"]


def draw_randomised(check: SanityCheck, path: Path) -> None:
    """Draw a map beside its randomisations, each with its rank correlation to the map."""
    picture, own = check.own.map.picture, check.own.map.values
    first = [Frame("picture", picture), Frame("its map", picture, own)]
    rows: dict[str, list[Frame]] = {CASCADING: list(first), INDEPENDENT: list(first)}
    alike = check.similarities()
    for one in check.randomised:
        row = one.test if one.test in rows else "others"
        title = one.what if row != "others" else f"{one.test}\n{one.what}"
        frames = rows.setdefault(row, [])
        spearman = f"{title}\n{alike[one.test, one.what]['spearman']:.2f}"
        frames.append(Frame(spearman, picture, one.stored.map.values))
    title = (
        f"{check.own.model} on {check.picture}: rank correlation of randomised maps with its map"
    )
    draw_rows(rows, path, title=title)


def draw_checks(checks: Sequence[SanityCheck], path: Path) -> None:
    """Draw one model's similarities layer by layer, and its curves; means over pictures."""
    alike: dict[str, dict[str, list[float]]] = {}
    for check in checks:
        for (test, what), measures in check.similarities().items():
            alike.setdefault(test, {}).setdefault(what, []).append(measures["spearman"])
    means = {test: [float(np.mean(v)) for v in whats.values()] for test, whats in alike.items()}
    pair = means.get(CONTROL_PAIR)
    layers = Chart(
        up="rank correlation with the map",
        across="layers drawn anew, from the output on",
        lines={test: means[test] for test in (CASCADING, INDEPENDENT)},
        ticks=list(alike[INDEPENDENT]),
        level=("two untrained networks", float(np.mean(pair))) if pair else None,
    )
    title = f"{checks[0].own.model}, {len(checks)} picture{'s' if len(checks) > 1 else ''}"
    draw_charts([layers, *(_curves_chart(checks, curve) for curve in AREAS)], path, title=title)


def _curves_chart(checks: Sequence[SanityCheck], curve: str) -> Chart:
    lines = {}
    for order in checks[0].curves:
        every = [getattr(one, curve) for check in checks for one in check.curves[order]]
        mean = np.mean(every, axis=0)
        area = (mean[1:] + mean[:-1]).mean() / 2
        lines[f"{order}, area {area:.2f}"] = mean.tolist()
    return Chart(
        up=f"{curve}: distance of the features, 1 is the occluder's",
        across=f"share of pixels {'occluded' if curve == 'deletion' else 'shown'}",
        lines=lines,
    )
