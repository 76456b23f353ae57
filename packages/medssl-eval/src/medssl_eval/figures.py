"""Pictures of records: bar charts with intervals. Pictures of images are medssl-data's business."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from medssl_eval.tables import best_first, dataset_label, model_label, setting_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from medssl_models import Record

__all__ = ["bar_chart"]

INK, FAINT, RULE = "#1f2933", "#7b8794", "#d9dee4"
# One hue from light to dark: settings of an experiment, such as shots, have an order.
LIGHT, DARK = (0.62, 0.79, 0.91), (0.03, 0.32, 0.55)


def bar_chart(records: Sequence[Record], path: Path, *, title: str = "") -> Path:
    """Draw models as bars with their 95 % intervals, a panel for each data set.

    Args:
        records: Of one experiment and metric.
        path: The PNG to write; it is replaced as a whole.
        title: A line above the panels.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 # slow to import

    ordered = best_first(records)
    panels = list(dict.fromkeys(dataset_label(record) for record in ordered))
    models = list(dict.fromkeys(record.provenance.model for record in ordered))
    settings = list(dict.fromkeys(setting_label(record) for record in ordered))
    row_height = 0.34 * len(settings) + 0.32
    height = len(panels) * (row_height * len(models) + 1.05) + 0.75
    figure = Figure(figsize=(8.0, max(height, 2.6)), layout="constrained", facecolor="white")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, [r for r in ordered if dataset_label(r) == panel], settings)
        axis.set_title(panel, loc="left", fontsize=10, color=FAINT)
    if len(settings) > 1:
        _legend(figure, settings)
    if title:
        figure.suptitle(title, x=0.012, ha="left", fontsize=13, color=INK, fontweight="bold")
    _save(figure, path)
    return path


def _draw_panel(axis: Axes, records: Sequence[Record], settings: Sequence[str]) -> None:
    models = list(dict.fromkeys(record.provenance.model for record in records))
    labels = {record.provenance.model: model_label(record) for record in records}
    thickness = 0.78 / len(settings)
    for record in records:
        place = settings.index(setting_label(record))
        y = models.index(record.provenance.model) + (place - (len(settings) - 1) / 2) * thickness
        axis.barh(y, record.value, height=thickness * 0.86, color=_shade(place, len(settings)))
        high = record.value if record.ci_high is None else record.ci_high
        low = record.value if record.ci_low is None else record.ci_low
        spread = [[record.value - low], [high - record.value]]
        axis.errorbar(record.value, y, xerr=spread, color=INK, capsize=2.5, lw=1.1)
        text = f"{record.value:.1f} ± {(high - low) / 2:.1f}"
        axis.text(max(high, record.value) + 1, y, text, va="center", fontsize=8.5, color=INK)
    _dress(axis, [labels[model] for model in models])
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
    from matplotlib.patches import Patch  # noqa: PLC0415 # slow to import

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


def _save(figure: Figure, path: Path) -> None:
    """Write beside the target and rename, so that no half picture is ever there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".figure-") as folder:
        draft = Path(folder) / path.name
        figure.savefig(draft, dpi=160)
        draft.replace(path)
