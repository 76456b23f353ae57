"""The answer at a glance: every model on every data set, with intervals, as one picture."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from medssl_eval.report.drawing import ACCENT, FAINT, INK, RULE
from medssl_eval.report.figures import Drawing, as_svg, blank_figure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes

    from medssl_eval.report.content import Board, Entry

__all__ = ["draw_overview", "leading_boards"]

PANELS, COLUMNS = 12, 4
MODELS = 24
"""Rows of a panel; more would be too small to read."""


def leading_boards(boards: Iterable[Board]) -> list[Board]:
    """Leave out further metrics of an experiment: the first one is what it is judged by.

    A data set that is judged by another metric than the others keeps its board.
    """
    seen: set[tuple[str, str, str, str]] = set()
    found = []
    for board in boards:
        asked = {(board.experiment, board.setting, board.protocol, d) for d in board.datasets}
        if not asked <= seen:
            found.append(board)
        seen |= asked
    return found


def draw_overview(boards: Sequence[Board]) -> Drawing | None:
    """Draw models against data sets, a panel for each data set of each experiment.

    Args:
        boards: Transfer experiments; of several settings of one on a data set the last is drawn.

    Returns:
        The drawing; None where there are fewer than two models.
    """
    panels = _panels(boards)
    models = list(dict.fromkeys(m for board, _ in panels for m in board.models))[:MODELS]
    if len(models) < 2:
        return None
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = blank_figure(2.4 * columns + 1.6, lines * (0.19 * len(models) + 0.75))
    figure.set_layout_engine("constrained", h_pad=0.1)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axis, (board, dataset) in zip(axes, panels, strict=False):
        _draw_panel(axis, board, dataset, models)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    for axis in axes[::columns]:
        axis.set_yticks(range(len(models)), map(_cut, models), fontsize=9, color=INK)
    axes[0].set_ylim(len(models) - 0.4, -0.6)
    note = (
        "Dots are values, lines their 95 % intervals; the band is that of the best model, which is "
        "filled. A model whose line meets the band may be as good; untrained controls are squares."
    )
    alt = "Every model on every data set. " + " ".join(_best_of(b, d) for b, d in panels)
    return Drawing("At a glance", as_svg(figure, alt), alt, note)


def _panels(boards: Sequence[Board]) -> list[tuple[Board, str]]:
    chosen: dict[tuple[str, str, str], tuple[Board, str]] = {}
    for board in leading_boards(boards):
        for dataset in board.datasets:
            chosen[board.experiment, board.protocol, dataset] = (board, dataset)
    return list(chosen.values())[:PANELS]


def _draw_panel(axis: Axes, board: Board, dataset: str, models: Sequence[str]) -> None:
    best = board.best(dataset)
    if best is not None and best.low is not None and best.high is not None:
        axis.axvspan(best.low, best.high, color=ACCENT, alpha=0.14, lw=0)
    for place, model in enumerate(models):
        axis.axhline(place, color=RULE, lw=0.6, zorder=0)
        entry = board.cells.get((model, dataset))
        if entry is not None:
            _draw_dot(axis, place, entry, is_best=entry is best)
    axis.margins(x=0.12)
    axis.tick_params(length=0)
    axis.tick_params(axis="x", labelsize=8, labelcolor=FAINT)
    axis.locator_params(axis="x", nbins=4)
    axis.set_facecolor("none")
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_title(_cut(dataset), loc="left", fontsize=10, color=INK, fontweight="bold", pad=15)
    short = _cut(textwrap.shorten(board.title, 34, placeholder=" ..."), 38)
    unit = f", {board.unit}" if board.unit else ""
    axis.text(0, 1.015, short + unit, transform=axis.transAxes, fontsize=7.5, color=FAINT)


def _draw_dot(axis: Axes, place: int, entry: Entry, *, is_best: bool) -> None:
    colour = ACCENT if is_best else FAINT
    if entry.low is not None and entry.high is not None:
        axis.plot([entry.low, entry.high], [place, place], color=colour, lw=1.6, zorder=2)
    face = colour if is_best else "none"
    axis.plot(
        entry.value, place, "s" if entry.control else "o", ms=6 if is_best else 4.5,
        mfc=face, mec=colour, mew=1.3, zorder=3,
    )  # fmt: skip


def _cut(text: str, most: int = 26) -> str:
    """Shorten a name; the tables have all of it."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _best_of(board: Board, dataset: str) -> str:
    best = board.best(dataset)
    if best is None:
        return f"{dataset}, {board.title}."
    value = f"{best.value:.4g} {best.unit}".strip()
    return f"{dataset}, {board.title}: best is {best.model} with {value}."
