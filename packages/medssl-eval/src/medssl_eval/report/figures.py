"""Figures of a report as SVG inside the page: sharp in print, and in the page's own colours.

matplotlib draws; the few colours that carry structure become CSS variables afterwards, so one
figure serves light and dark pages.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.experiments.figures import take_literally

from medssl_eval.errors import InfeasibleError
from medssl_eval.report.drawing import ACCENT, FAINT, INK, RULE, draw_ranks, rank_height
from medssl_eval.statistics.average_ranks import rank_models

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from medssl_eval.report.content import Board, Entry, GrowthCurve
    from medssl_eval.report.relations import Relation

__all__ = [
    "Drawing",
    "as_svg",
    "blank_figure",
    "critical_difference",
    "drawn",
    "growth_curve",
    "learning_curve",
    "radar",
    "scatter",
]

THEME = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    RULE: "var(--rule)",
    ACCENT: "var(--accent)",
}
# Okabe and Ito's colours keep apart for colour-blind readers, and on dark and light ground.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
IN_RADAR = 5
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "medssl", "font.family": "sans-serif"}


@dataclass(frozen=True)
class Drawing:
    """A figure of a page.

    Args:
        title: A short heading.
        svg: The `<svg>` element.
        alt: What the figure shows, in words.
        note: How to read it, or what was left out.
    """

    title: str
    svg: str
    alt: str
    note: str = ""


def critical_difference(board: Board) -> Drawing | None:
    """Draw average ranks over data sets, and which models Nemenyi's test cannot tell apart.

    Args:
        board: Its complete part is used.

    Returns:
        The drawing; None where there are fewer than five data sets or three models.

    References:
        Demsar, Statistical comparisons of classifiers over multiple data sets, 2006.
    """
    models, datasets = board.complete
    if len(models) < 3 or not board.sign:
        return None
    values = [[board.cells[model, name].value for model in models] for name in datasets]
    try:
        ranking = rank_models(values, models, higher_is_better=board.sign > 0)
    except InfeasibleError:
        return None
    figure = blank_figure(8.0, rank_height(ranking))
    draw_ranks(figure.add_subplot(), ranking)
    ranks = ", ".join(
        f"{name} {rank:.2f}" for name, rank in zip(ranking.models, ranking.mean_ranks, strict=True)
    )
    note = (
        f"{len(datasets)} data sets; Friedman p = {ranking.p_value:.3g}. Models that a bar joins "
        f"differ by less than the critical difference {ranking.critical_difference:.2f}."
    )
    alt = f"Average ranks, 1 is best: {ranks}. {note}"
    return Drawing(f"Average ranks: {board.title}", as_svg(figure, alt), alt, note)


def radar(board: Board) -> Drawing | None:
    """Draw the best models of a board over its data sets as a radar chart.

    Args:
        board: Its complete part is used.

    Returns:
        The drawing; None with fewer than three data sets.
    """
    models, datasets = board.complete
    if len(datasets) < 3 or not models:
        return None
    shown = models[:IN_RADAR]
    angles = np.linspace(0, 2 * np.pi, len(datasets), endpoint=False)
    figure = blank_figure(6.4, 4.4)
    axis = figure.add_subplot(projection="polar")
    values = np.array([[board.cells[model, name].value for name in datasets] for model in shown])
    # The hub lies below the smallest value, so that models differ visibly; the axis tells.
    axis.set_ylim(values.min() - 0.35 * (np.ptp(values) or 1.0), values.max())
    for colour, model, line in zip(COLOURS, shown, values, strict=False):
        axis.plot([*angles, angles[0]], [*line, line[0]], color=colour, lw=1.6, label=model)
    axis.set_xticks(angles, datasets, fontsize=8.5, color=INK)
    for label, angle in zip(axis.get_xticklabels(), angles, strict=True):
        side = np.cos(angle)
        label.set_horizontalalignment(
            "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
        )
    axis.tick_params(axis="y", labelsize=7.5, labelcolor=FAINT)
    axis.tick_params(axis="x", pad=2)
    axis.grid(color=RULE, lw=0.8)
    axis.spines["polar"].set_color(RULE)
    axis.set_facecolor("none")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8.5, labelcolor=INK)
    rest = len(models) - len(shown)
    note = f"The {len(shown)} best by mean; {rest} more are in the table." if rest else ""
    alt = f"Radar chart of {board.title}. " + "; ".join(
        f"{model}: "
        + ", ".join(f"{name} {board.cells[model, name].value:.1f}" for name in datasets)
        for model in shown
    )
    return Drawing(f"Radar: {board.title}", as_svg(figure, alt), alt, note)


def scatter(relation: Relation) -> Drawing:
    """Draw a trait of models against their transfer.

    Args:
        relation: Values and correlation.
    """
    figure = blank_figure(4.8, 3.8)
    axis = figure.add_subplot()
    axis.scatter(relation.x, relation.y, s=30, color=ACCENT, zorder=3)
    axis.margins(0.16)
    _dress(axis, _label(relation.trait, relation.trait_unit),
           _label(relation.outcome, relation.outcome_unit))  # fmt: skip
    figure.get_layout_engine().execute(figure)  # type: ignore[union-attr] # it has one
    _name_points(axis, relation)
    found = (
        f"Rank correlation {relation.rho:+.2f}{_between(relation)}, {len(relation.models)} models, "
        f"p = {relation.p:.3g}, {relation.p_adjusted:.3g} over all correlations."
    )
    within = ", ".join(f"{name} {rho:+.2f}" for name, rho in relation.within)
    note = f"{found} On single data sets: {within}." if within else found
    note = " ".join([note, *(f"Note: {text}." for text in relation.notes)])
    alt = f"{relation.outcome} against {relation.trait}. {found}"
    return Drawing(relation.trait, as_svg(figure, alt), alt, note)


def _between(relation: Relation) -> str:
    if relation.low is None or relation.high is None:
        return ""
    return f" ({relation.low:+.2f} to {relation.high:+.2f})"


def _name_points(axis: Axes, relation: Relation) -> None:
    """Write each name beside its point, where it covers the fewest points and names."""
    values = list(zip(relation.x, relation.y, strict=True))
    points = axis.transData.transform(values)
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    for name, value, (x, y) in zip(relation.models, values, points, strict=True):
        width, height = 5.0 * len(name), 10.0  # points of the type, near enough
        places = [(6, 3), (6, -11), (-6 - width, 3), (-6 - width, -11), (-width / 2, 8)]
        boxes = [(x + dx, y + dy, x + dx + width, y + dy + height) for dx, dy in places]
        best = min(range(len(boxes)), key=lambda i: sum(_covers(boxes[i], t) for t in taken))
        taken.append(boxes[best])
        axis.annotate(
            name, value, xytext=places[best], textcoords="offset points", fontsize=7.5, color=FAINT
        )


def _covers(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def growth_curve(curve: GrowthCurve) -> Drawing:
    """Draw values against what was given to learn from, with their 95 % intervals as bands.

    Args:
        curve: The models' entries; the best at the end are drawn.
    """
    shown = dict(list(curve.lines.items())[: len(COLOURS)])
    figure = blank_figure(5.2, 3.4)
    axis = figure.add_subplot()
    for colour, (model, entries) in zip(COLOURS, shown.items(), strict=False):
        points = np.array([(e.learnt_from, e.value, e.low, e.high) for e in entries], np.float64)
        x, values, low, high = points.T
        axis.plot(x, values, "o-", color=colour, ms=4, lw=1.4, label=model)
        axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    first = next(iter(shown.values()))[0]
    _dress(axis, f"{curve.counted} (logarithmic)", _label(first.metric, first.unit))
    axis.set_xscale("log")
    counts = sorted({e.learnt_from for entries in shown.values() for e in entries if e.learnt_from})
    axis.set_xticks(counts, [f"{count:,.0f}" for count in counts])
    axis.minorticks_off()
    axis.legend(frameon=False, fontsize=7.5, labelcolor=INK)
    rest = len(curve.lines) - len(shown)
    sizes = {entry.counted for entries in shown.values() for entry in entries}
    asked = f"Asked: {sizes.pop()}. " if len(sizes) == 1 and any(sizes) else ""
    more = f" The {len(shown)} best; {rest} more are in the tables." if rest else ""
    note = f"{asked}Bands are 95 % intervals.{more}"
    alt = f"{curve.title} against {curve.counted}. " + "; ".join(
        f"{model}: " + ", ".join(f"{e.value:.4g} from {e.learnt_from:,.0f}" for e in entries)
        for model, entries in shown.items()
    )
    return Drawing(curve.title, as_svg(figure, alt), alt, note)


def learning_curve(entries: Sequence[Entry]) -> Drawing | None:
    """Draw the training curves that records name.

    Args:
        entries: Of one data set, with curves of CSV files whose first column counts steps.

    Returns:
        The drawing; None where no file can be drawn.
    """
    curves = {entry.model: _read_curve(entry.curve) for entry in entries if entry.curve}
    curves = {model: columns for model, columns in curves.items() if columns}
    if not curves:
        return None
    names = list(dict.fromkeys(name for columns in curves.values() for name in columns))
    x_name = names[0]
    shown = [name for name in names[1:] if name not in {"lr", "learning_rate"}][:4]
    figure = blank_figure(8.0, 2.9)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, name in zip(axes, shown, strict=True):
        for number, (model, columns) in enumerate(curves.items()):
            if name in columns:
                kept = np.isfinite(columns[name])
                axis.plot(
                    columns[x_name][kept], columns[name][kept],
                    color=COLOURS[number % len(COLOURS)], lw=1.3, label=model,
                )  # fmt: skip
        _dress(axis, x_name, name)
    axes[0].legend(frameon=False, fontsize=7.5, labelcolor=INK)
    title = f"Learning curves on {entries[0].dataset}"
    alt = f"{title}: {', '.join(shown)} of {', '.join(curves)}"
    return Drawing(title, as_svg(figure, alt), alt)


def _read_curve(path: Path) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Read the numeric columns of a CSV file; what cannot be read is empty."""
    try:
        lines = list(csv.reader(path.read_text("utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    if len(lines) < 3:
        return {}
    head, body = lines[0], [line for line in lines[1:] if len(line) == len(lines[0])]
    columns = {
        name: np.array([_number(line[place]) for line in body], np.float64)
        for place, name in enumerate(head)
    }
    return {name: values for name, values in columns.items() if np.isfinite(values).any()}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def blank_figure(width: float, height: float) -> Figure:
    """Make an empty figure of so many inches on the page's own ground."""
    from matplotlib.figure import Figure as Canvas

    return Canvas(figsize=(width, height), layout="constrained", facecolor="none")


def _dress(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=8.5, color=FAINT)
    axis.set_ylabel(y, fontsize=8.5, color=FAINT)
    axis.tick_params(length=0, labelsize=8, labelcolor=FAINT)
    axis.grid(color=RULE, lw=0.7)
    axis.set_axisbelow(True)
    axis.set_facecolor("none")
    for spine in axis.spines.values():
        spine.set_visible(False)


def _label(title: str, unit: str, width: int = 46) -> str:
    """Break a long title into lines."""
    lines, line = [], ""
    for word in (title + (f" [{unit}]" if unit else "")).split():
        if line and len(line) + len(word) >= width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return "\n".join([*lines, line])


def as_svg(figure: Figure, alt: str) -> str:
    """Write a figure as one element with its description, in the page's colours."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    take_literally(figure)
    with rc_context(STYLE):  # type: ignore[arg-type] # names of settings, as plain text
        figure.savefig(
            buffer, format="svg", metadata={"Date": None}, transparent=True,
            bbox_inches="tight", pad_inches=0.04,
        )  # fmt: skip
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in THEME.items():
        text = text.replace(colour, variable)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(alt, quote=True)}" ', 1)


def drawn(drawings: Iterable[Drawing | None]) -> list[Drawing]:
    """Leave out what could not be drawn."""
    return [drawing for drawing in drawings if drawing is not None]
