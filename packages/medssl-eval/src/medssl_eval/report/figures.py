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

from medssl_eval.average_ranks import rank_models
from medssl_eval.errors import InfeasibleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from medssl_eval.average_ranks import Ranking
    from medssl_eval.report.content import Board, Entry
    from medssl_eval.report.relations import Relation

__all__ = ["Drawing", "critical_difference", "learning_curve", "radar", "scatter"]

INK, FAINT, RULE = "#1f2933", "#7b8794", "#d9dee4"
THEME = {INK: "var(--ink)", FAINT: "var(--faint)", RULE: "var(--rule)"}
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
        The drawing; None where there are fewer than two data sets or three models.

    References:
        Demsar, Statistical comparisons of classifiers over multiple data sets, 2006.
    """
    models, datasets = board.complete
    if len(models) < 3 or len(datasets) < 2:
        return None
    values = [[board.cells[model, name].value for model in models] for name in datasets]
    try:
        ranking = rank_models(values, models, higher_is_better=board.higher_is_better)
    except InfeasibleError:
        return None
    figure = _figure(8.0, 0.7 + 0.11 * (len(models) + 1) + 0.09 * len(ranking.groups))
    _draw_ranks(figure.add_subplot(), ranking)
    ranks = ", ".join(
        f"{name} {rank:.2f}" for name, rank in zip(ranking.models, ranking.mean_ranks, strict=True)
    )
    note = (
        f"{len(datasets)} data sets; Friedman p = {ranking.p_value:.3g}. Models that a bar joins "
        f"differ by less than the critical difference {ranking.critical_difference:.2f}."
    )
    alt = f"Average ranks, 1 is best: {ranks}. {note}"
    return Drawing(f"Average ranks: {board.title}", _svg(figure, alt), alt, note)


def _draw_ranks(axis: Axes, ranking: Ranking) -> None:
    count = len(ranking.models)
    axis.set_xlim(0.2, count + 0.8)
    half = (count + 1) // 2
    bars = 0.35 * len(ranking.groups)
    axis.set_ylim(-bars - half - 0.4, 1.3)
    axis.axis("off")
    axis.plot([1, count], [0, 0], color=INK, lw=1.2)
    for rank in range(1, count + 1):
        axis.plot([rank, rank], [0, 0.2], color=INK, lw=1)
        axis.text(rank, 0.35, str(rank), ha="center", va="bottom", fontsize=9, color=INK)
    for place, (name, mean) in enumerate(zip(ranking.models, ranking.mean_ranks, strict=True)):
        left = place < half
        y = -bars - 0.6 - (place if left else count - 1 - place)
        x = 0.9 if left else count + 0.1
        axis.plot([mean, mean, x], [0, y, y], color=FAINT, lw=0.9)
        axis.text(
            x, y, f" {name}  {mean:.2f} ", ha="right" if left else "left", va="center",
            fontsize=9, color=INK,
        )  # fmt: skip
    for number, (first, last) in enumerate(ranking.groups):
        ends = [ranking.mean_ranks[first] - 0.05, ranking.mean_ranks[last] + 0.05]
        axis.plot(ends, [-0.3 - 0.35 * number] * 2, color=COLOURS[0], lw=3.2)
    span = ranking.critical_difference
    axis.plot([1, 1 + span], [1.05, 1.05], color=COLOURS[1], lw=2)
    axis.text(1 + span, 1.05, f"  critical difference {span:.2f}", va="center", fontsize=8.5,
              color=FAINT)  # fmt: skip


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
    figure = _figure(6.4, 4.4)
    axis = figure.add_subplot(projection="polar")
    values = np.array([[board.cells[model, name].value for name in datasets] for model in shown])
    # The hub lies below the smallest value, so that models differ visibly; the axis tells.
    axis.set_ylim(values.min() - 0.35 * (np.ptp(values) or 1.0), values.max())
    for colour, model, line in zip(COLOURS, shown, values, strict=False):
        axis.plot([*angles, angles[0]], [*line, line[0]], color=colour, lw=1.6, label=model)
    axis.set_xticks(angles, datasets, fontsize=8.5, color=INK)
    axis.tick_params(axis="y", labelsize=7.5, labelcolor=FAINT)
    axis.tick_params(axis="x", pad=8)
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
    return Drawing(f"Radar: {board.title}", _svg(figure, alt), alt, note)


def scatter(relation: Relation) -> Drawing:
    """Draw a trait of models against their transfer.

    Args:
        relation: Values and correlation.
    """
    figure = _figure(4.4, 3.5)
    axis = figure.add_subplot()
    axis.scatter(relation.x, relation.y, s=26, color=COLOURS[0], zorder=3)
    for name, x, y in zip(relation.models, relation.x, relation.y, strict=True):
        axis.annotate(
            name, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=6.5, color=FAINT
        )
    _dress(axis, _label(relation.trait, relation.trait_unit),
           _label(relation.outcome, relation.outcome_unit))  # fmt: skip
    axis.margins(0.14)
    title = (
        f"rank correlation {relation.rho:+.2f} ({relation.low:+.2f} to {relation.high:+.2f}), "
        f"{len(relation.models)} models"
    )
    axis.set_title(title, fontsize=8.5, loc="left", color=INK)
    alt = f"{relation.outcome} against {relation.trait}: {title}"
    within = ", ".join(f"{name} {rho:+.2f}" for name, rho in relation.within)
    return Drawing(title, _svg(figure, alt), alt, f"On single data sets: {within}" * bool(within))


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
    figure = _figure(8.0, 2.9)
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
    return Drawing(title, _svg(figure, alt), alt)


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


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415 # slow to import

    return Canvas(figsize=(width, height), layout="constrained", facecolor="none")


def _dress(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=7.5, color=FAINT)
    axis.set_ylabel(y, fontsize=7.5, color=FAINT)
    axis.tick_params(length=0, labelsize=7.5, labelcolor=FAINT)
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


def _svg(figure: Figure, alt: str) -> str:
    """Write a figure as one element with its description, in the page's colours."""
    from matplotlib import rc_context  # noqa: PLC0415 # slow to import

    buffer = io.StringIO()
    with rc_context(STYLE):  # type: ignore[arg-type] # names of settings, as plain text
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in THEME.items():
        text = text.replace(colour, variable)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(alt, quote=True)}" ', 1)


def drawn(drawings: Iterable[Drawing | None]) -> list[Drawing]:
    """Leave out what could not be drawn."""
    return [drawing for drawing in drawings if drawing is not None]
