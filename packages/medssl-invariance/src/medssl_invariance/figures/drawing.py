"""Pictures of records: small multiples of curves over families, and models against families."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from medssl_models.experiments.figures import new_figure

from medssl_invariance.transforms.families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from medssl_models.experiments.metric import Metric

    from medssl_invariance.figures.tables import Cell

__all__ = ["draw_curves", "draw_summary"]

INK, FAINT, RULE = "#1f2933", "#7b8794", "#d9dee4"
# Okabe and Ito's colours, which people who confuse red and green can tell apart.
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#5e4fa2")
GREYS = ("#8894a1", "#2f3a45", "#b4bcc5")
STYLES = ("-", "--", ":", "-.")
COLUMNS = 4


def draw_curves(cells: Sequence[Cell], metric: Metric, title: str) -> Figure:
    """Draw a panel for each family: a line with its 95 % band for each model.

    Args:
        cells: Of one data set.
        metric: What is drawn.
        title: Name of the data set.

    Returns:
        Dotted lines are the same metric between an image and a random other one.
    """
    transforms = list(dict.fromkeys(cell.transform for cell in cells))
    columns = min(COLUMNS, len(transforms))
    lines = math.ceil(len(transforms) / columns)
    figure = new_figure(max(3.0 * columns, 6.0), 2.45 * lines + 1.2)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    looks = _looks(cells)
    for axis, transform in zip(axes, transforms, strict=False):
        own = [cell for cell in cells if cell.transform == transform]
        _draw_panel(axis, own, metric, looks)
    for axis in axes[len(transforms) :]:
        axis.set_visible(False)
    _legend(figure, cells, looks)
    figure.suptitle(
        f"{title}: {metric.heading}", x=0.01, ha="left", fontsize=13, color=INK, weight="bold"
    )
    return figure


def _looks(cells: Sequence[Cell]) -> Mapping[str, tuple[str, str]]:
    """Choose a colour and a line for each model; controls are grey."""
    trained = sorted({cell.model for cell in cells if not cell.is_control})
    controls = sorted({cell.model for cell in cells if cell.is_control})
    coloured = {
        label: (HUES[place % len(HUES)], STYLES[place // len(HUES) % len(STYLES)])
        for place, label in enumerate(trained)
    }
    return coloured | {
        label: (GREYS[place % len(GREYS)], STYLES[(place + 1) % len(STYLES)])
        for place, label in enumerate(controls)
    }


def _draw_panel(
    axis: Axes, cells: Sequence[Cell], metric: Metric, looks: Mapping[str, tuple[str, str]]
) -> None:
    family = FAMILIES.get(cells[0].family)
    single = all(len(_points(cell, metric)) == 1 for cell in cells)
    for place, cell in enumerate(cells):
        colour, style = looks[cell.model]
        draw = _draw_single if single else _draw_line
        draw(axis, _points(cell, metric), colour=colour, style=style, place=place)
        other = cell.baseline(metric.name, "random_other")
        if other is not None:
            axis.axhline(other, color=colour, lw=0.9, ls=(0, (1, 2)), zorder=1)
    _dress(axis, metric)
    axis.set_title(cells[0].transform.replace("_", " "), loc="left", fontsize=10, color=INK)
    if single:
        axis.set_xlim(-0.6, len(cells) - 0.4)
        axis.set_xticks([])
    elif family is not None:
        axis.set_xlabel(family.axis, fontsize=8, color=FAINT)
        if family.log:
            _use_ratios(axis, cells[0], metric)
    if cells[0].is_moot:
        axis.text(
            0.5, 0.5, "grey pictures:\nnothing changes", transform=axis.transAxes, ha="center",
            va="center", fontsize=8, color=FAINT,
        )  # fmt: skip


def _points(cell: Cell, metric: Metric) -> list[Any]:
    record = cell.records.get(metric.name)
    points: Any = [] if record is None else record.details["curve"]
    return [point for point in points if point["value"] is not None]


def _draw_line(axis: Axes, points: list[Any], *, colour: str, style: str, place: int) -> None:
    del place
    at, value = ([point[name] for point in points] for name in ("at", "value"))
    low = [point["value"] if point["low"] is None else point["low"] for point in points]
    high = [point["value"] if point["high"] is None else point["high"] for point in points]
    axis.fill_between(at, low, high, color=colour, alpha=0.18, lw=0)
    marker = "o" if len(points) <= 10 else ""
    axis.plot(at, value, color=colour, ls=style, lw=1.5, marker=marker, ms=2.6)


def _draw_single(axis: Axes, points: list[Any], *, colour: str, style: str, place: int) -> None:
    del style
    for point in points:
        low, high = (
            point["value"] if point[end] is None else point[end] for end in ("low", "high")
        )
        spread = [[point["value"] - low], [high - point["value"]]]
        axis.errorbar(place, point["value"], yerr=spread, color=colour, fmt="o", ms=5, capsize=3)


def _dress(axis: Axes, metric: Metric) -> None:
    low, high = metric.bounds
    if high is None:
        axis.set_ylim(bottom=low)
    else:
        margin = 0.05 * high
        least = (0.0 if low is None else low) - margin
        axis.set_ylim(max(min(axis.get_ylim()[0], -margin), least), high + margin)
    axis.tick_params(axis="both", length=0, labelsize=8, labelcolor=FAINT)
    axis.grid(color=RULE, lw=0.6)
    axis.set_axisbelow(True)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _use_ratios(axis: Axes, cell: Cell, metric: Metric) -> None:
    """Space values by their ratio, and write a few of them below the axis."""
    places = [float(point["at"]) for point in _points(cell, metric)]
    if min(places) <= 0:
        return
    axis.set_xscale("log")
    axis.minorticks_off()
    step = max((len(places) - 1) // 3, 1)
    shown = places[::step] if len(places) > 4 else places
    axis.set_xticks(shown, [f"{place:.0f}" if place >= 100 else f"{place:.2g}" for place in shown])


def _legend(figure: Figure, cells: Sequence[Cell], looks: Mapping[str, tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    handles: list[Line2D] = [
        Line2D([], [], color=colour, ls=style, lw=1.8, label=label)
        for label, (colour, style) in looks.items()
    ]
    if any(cell.baseline(name, "random_other") for cell in cells for name in cell.records):
        dotted = Line2D([], [], color=INK, ls=(0, (1, 2)), lw=1, label="a random other image")
        handles.append(dotted)
    figure.legend(
        handles=handles, loc="outside lower left", ncols=min(len(handles), 4), frameon=False,
        fontsize=9, labelcolor=INK,
    )  # fmt: skip


def draw_summary(cells: Sequence[Cell], metric: Metric, title: str) -> Figure:
    """Draw models against families as a heat map with the numbers in it.

    Args:
        cells: Of one data set.
        metric: What is drawn.
        title: Name of the data set.

    Returns:
        The last column is the same metric between an image and a random other one.
    """
    transforms = list(dict.fromkeys(cell.transform for cell in cells))
    by_place = {(cell.model, cell.transform): cell for cell in cells}
    labels = _by_stability(cells, metric)
    figure = new_figure(0.62 * (len(transforms) + 1) + 2.6, 0.42 * len(labels) + 2.3)
    axis = figure.subplots()
    values = [
        [_value(by_place.get((label, transform)), metric) for transform in transforms]
        + [_other(cells, label, metric)]
        for label in labels
    ]
    _draw_cells(axis, values, metric)
    for row, label in enumerate(labels):
        for column, transform in enumerate(transforms):
            cell = by_place.get((label, transform))
            if cell is not None and cell.is_moot:
                axis.text(
                    column + 0.33, row - 0.25, "*", ha="center", va="center", fontsize=12,
                    color="white",
                )  # fmt: skip
    axis.axvline(len(transforms) - 0.5, color="white", lw=5)
    names = [transform.replace("_", " ") for transform in transforms]
    axis.set_xticks(range(len(names) + 1), [*names, "random other image"], rotation=40, ha="right")
    axis.set_yticks(range(len(labels)), labels)
    axis.tick_params(length=0, labelsize=9, labelcolor=INK)
    heading = f"{title}: {metric.heading}"
    axis.set_title(heading, loc="left", fontsize=12, color=INK, weight="bold", pad=10)
    if any(cell.is_moot for cell in cells):
        figure.supxlabel("* nothing changes: the pictures are grey", fontsize=8, color=FAINT)
    return figure


def _by_stability(cells: Sequence[Cell], metric: Metric) -> list[str]:
    """List models, the most stable first, controls last."""
    sums: dict[str, list[float]] = {}
    for cell in cells:
        value = cell.value(metric.name)
        if value is not None and not cell.is_moot:
            sums.setdefault(cell.model, []).append(value)
    controls = {cell.model: cell.is_control for cell in cells}

    def place(label: str) -> tuple[bool, float]:
        values = sums.get(label, [0.0])
        return controls[label], -metric.sign * sum(values) / len(values)

    return sorted(controls, key=place)


def _value(cell: Cell | None, metric: Metric) -> float:
    value = None if cell is None else cell.value(metric.name)
    return math.nan if value is None else value


def _other(cells: Sequence[Cell], label: str, metric: Metric) -> float:
    found = [
        value
        for cell in cells
        if cell.model == label and (value := cell.baseline(metric.name, "random_other")) is not None
    ]
    return sum(found) / len(found) if found else math.nan


def _draw_cells(axis: Axes, values: list[list[float]], metric: Metric) -> None:
    from matplotlib import colormaps

    flat = [value for line in values for value in line if not math.isnan(value)]
    high = metric.bounds[1]
    top = max(flat, default=1.0) if high is None else high
    colours = colormaps["YlGnBu"].with_extremes(bad="#f3f4f6")
    axis.imshow(values, cmap=colours, vmin=0, vmax=top, aspect="auto")
    digits = 0 if metric.unit == "%" else 1 if high is None else 2
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            shown = "n/a" if math.isnan(value) else f"{value:.{digits}f}".replace("-0.00", "0.00")
            dark = not math.isnan(value) and value > 0.6 * top
            axis.text(
                column, row, shown, ha="center", va="center", fontsize=8.5,
                color="white" if dark else INK,
            )  # fmt: skip
    for spine in axis.spines.values():
        spine.set_visible(False)
