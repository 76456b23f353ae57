"""Pictures of records: bar charts with intervals. Pictures of images are medssl-data's business."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_models.experiments.cells import Labels, best_first
from medssl_models.experiments.figures import save_figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from medssl_models import Record

    from medssl_eval.statistics.average_ranks import Ranking

__all__ = ["bar_chart", "draw_ranks", "rank_chart", "rank_height"]

INK, FAINT, RULE = "#1f2933", "#7b8794", "#d9dee4"
# One hue from light to dark: settings of an experiment, such as shots, have an order.
LIGHT, DARK = (0.62, 0.79, 0.91), (0.03, 0.32, 0.55)
ACCENT = "#08528c"
"""`DARK` in the notation of the web."""


def bar_chart(records: Sequence[Record], path: Path, *, title: str = "") -> Path:
    """Draw models as bars with their 95 % intervals, a panel for each data set.

    Args:
        records: Of one experiment and metric.
        path: The PNG to write; it is replaced as a whole.
        title: A line above the panels.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    ordered, labels = best_first(records), Labels.of(records)
    panels = list(dict.fromkeys(labels.dataset(record) for record in ordered))
    models = list(dict.fromkeys(labels.name(record) for record in ordered))
    settings = list(dict.fromkeys(labels.setting(record) for record in ordered))
    row_height = 0.34 * len(settings) + 0.32
    height = len(panels) * (row_height * len(models) + 1.05) + 0.75
    figure = Figure(figsize=(8.0, max(height, 2.6)), layout="constrained", facecolor="white")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        shown = [record for record in ordered if labels.dataset(record) == panel]
        _draw_panel(axis, shown, settings, labels)
        axis.set_title(panel, loc="left", fontsize=10, color=FAINT)
    if len(settings) > 1:
        _legend(figure, settings)
    if title:
        figure.suptitle(title, x=0.012, ha="left", fontsize=13, color=INK, fontweight="bold")
    save_figure(figure, path, dpi=160)
    return path


def _draw_panel(
    axis: Axes, records: Sequence[Record], settings: Sequence[str], labels: Labels
) -> None:
    models = list(dict.fromkeys(labels.model(record) for record in records))
    thickness = 0.78 / len(settings)
    for record in records:
        place = settings.index(labels.setting(record))
        y = models.index(labels.model(record)) + (place - (len(settings) - 1) / 2) * thickness
        axis.barh(y, record.value, height=thickness * 0.86, color=_shade(place, len(settings)))
        high = record.value if record.ci_high is None else record.ci_high
        low = record.value if record.ci_low is None else record.ci_low
        spread = [[record.value - low], [high - record.value]]
        axis.errorbar(record.value, y, xerr=spread, color=INK, capsize=2.5, lw=1.1)
        text = f"{record.value:.1f} ± {(high - low) / 2:.1f}"
        axis.text(max(high, record.value) + 1, y, text, va="center", fontsize=8.5, color=INK)
    _dress(axis, models)
    _mark_chance(axis, records)


def _dress(axis: Axes, labels: Sequence[str]) -> None:
    axis.set_yticks(range(len(labels)), labels, fontsize=9.5, color=INK)
    axis.invert_yaxis()
    axis.set_xlim(0, 112)
    axis.set_xticks(range(0, 101, 20))
    axis.tick_params(axis="both", length=0, labelcolor=INK)
    axis.tick_params(axis="x", labelsize=8.5, labelcolor=FAINT)
    axis.set_xlabel("accuracy, % (bars: 95 % interval)", fontsize=8.5, color=FAINT)
    axis.grid(axis="x", color=RULE, lw=0.7)
    axis.set_axisbelow(True)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _mark_chance(axis: Axes, records: Sequence[Record]) -> None:
    chances = {
        chance for r in records if isinstance(chance := r.details.get("chance"), int | float)
    }
    if len(chances) == 1:
        chance = float(chances.pop())
        axis.axvline(chance, color=INK, lw=1, ls=(0, (4, 3)))
        axis.text(
            chance, 1.01, "chance", transform=axis.get_xaxis_transform(), ha="center", va="bottom",
            fontsize=8, color=INK,
        )  # fmt: skip


def _legend(figure: Figure, settings: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=_shade(place, len(settings)), label=name) for place, name in enumerate(settings)
    ]
    figure.legend(
        handles=handles,
        loc="outside lower right",
        ncols=len(settings),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )


def _shade(place: int, count: int) -> tuple[float, float, float]:
    share = 1.0 if count == 1 else place / (count - 1)
    red, green, blue = (a + share * (b - a) for a, b in zip(LIGHT, DARK, strict=True))
    return red, green, blue


def rank_chart(rankings: Sequence[tuple[str, Ranking]], path: Path) -> Path:
    """Draw average ranks over data sets, best on the left, after Demsar (2006).

    A thick bar joins models whose ranks are closer than Nemenyi's critical difference, which is
    drawn to scale above the axis.

    Args:
        rankings: Title and ranks, a panel for each.
        path: The PNG, PDF or SVG to write; it is replaced as a whole.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    heights = [rank_height(ranking) for _, ranking in rankings]
    figure = Figure(figsize=(8.0, sum(heights) + 0.1), layout="constrained", facecolor="white")
    axes = figure.subplots(len(rankings), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (title, ranking) in zip(axes, rankings, strict=True):
        draw_ranks(axis, ranking)
        axis.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold", pad=4)
    save_figure(figure, path, dpi=160)
    return path


def rank_height(ranking: Ranking) -> float:
    """Inches that `draw_ranks` needs."""
    return 1.15 + 0.24 * ((len(ranking.models) + 1) // 2) + 0.14 * len(ranking.groups)


def draw_ranks(axis: Axes, ranking: Ranking) -> None:
    """Draw one panel; its vertical unit is an inch, counted downwards from the axis of ranks.

    Args:
        axis: As high as `rank_height` says.
        ranking: Average ranks and groups.
    """
    count, height = len(ranking.models), rank_height(ranking)
    axis.set_xlim(1 - 0.42 * (count - 1) - 0.1, count + 0.42 * (count - 1) + 0.1)
    axis.set_ylim(height - 0.75, -0.45)
    axis.axis("off")
    axis.plot([1, count], [0, 0], color=INK, lw=1.2)
    for rank in range(1, count + 1):
        axis.plot([rank, rank], [0, -0.06], color=INK, lw=1.2)
        axis.text(rank, -0.09, str(rank), ha="center", va="bottom", fontsize=8.5, color=FAINT)
    _draw_critical_difference(axis, min(ranking.critical_difference, count - 1.0), ranking)
    for level, (first, last) in enumerate(ranking.groups):
        ends = [ranking.mean_ranks[first] - 0.03, ranking.mean_ranks[last] + 0.03]
        depth = 0.12 + 0.14 * level
        axis.plot(ends, [depth, depth], color=ACCENT, lw=4, solid_capstyle="round")
    below = 0.16 + 0.14 * len(ranking.groups)
    for place, name in enumerate(ranking.models):
        _draw_model(axis, ranking, place, name=name, below=below)


def _draw_critical_difference(axis: Axes, length: float, ranking: Ranking) -> None:
    whole = length == ranking.critical_difference
    text = f"critical difference {ranking.critical_difference:.2f}"
    axis.plot([1, 1 + length], [-0.33, -0.33], color=ACCENT, lw=1.4)
    for end in [1.0, 1 + length] if whole else [1.0]:
        axis.plot([end, end], [-0.37, -0.29], color=ACCENT, lw=1.4)
    note = text if whole else f"{text}: longer than the axis"
    axis.annotate(
        note, (1 + length, -0.33), (6, 0), textcoords="offset points", va="center", fontsize=8.5,
        color=ACCENT,
    )  # fmt: skip


def _draw_model(axis: Axes, ranking: Ranking, place: int, *, name: str, below: float) -> None:
    """Lead from a mean rank to its model's name: better half on the left, others on the right."""
    count, rank = len(ranking.models), float(ranking.mean_ranks[place])
    is_left = place < (count + 1) // 2
    row = place if is_left else count - 1 - place
    depth = below + 0.24 * row + 0.12
    edge = 1 - 0.06 * (count - 1) if is_left else count + 0.06 * (count - 1)
    axis.plot([rank, rank, edge], [0, depth, depth], color=FAINT, lw=0.9)
    label = f"{name}  {rank:.2f}" if is_left else f"{rank:.2f}  {name}"
    pad = -0.012 * (count - 1) if is_left else 0.012 * (count - 1)
    side = "right" if is_left else "left"
    axis.text(edge + pad, depth, label, ha=side, va="center", fontsize=9.5, color=INK)
