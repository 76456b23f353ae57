"""Learning curves of a training run, as a table and as a picture."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, fields
from typing import TYPE_CHECKING

from medssl_models.experiments.figures import save_figure
from medssl_models.files import write_atomically

from medssl_eval.report.drawing import DARK, FAINT, INK, RULE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from medssl_eval.training.trainer import Point, TrainingState

__all__ = ["draw_curves", "write_curves"]

ACCENT = "#c2410c"


def write_curves(points: Sequence[Point], path: Path) -> None:
    """Write the points as CSV, one a row; validation columns are empty where there was none.

    Args:
        points: In the order of their steps.
        path: The file; it is replaced as a whole.
    """
    from medssl_eval.training.trainer import Point as Row

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([field.name for field in fields(Row)])
    writer.writerows(["" if v is None else v for v in astuple(point)] for point in points)
    write_atomically(path, buffer.getvalue().encode())


def draw_curves(state: TrainingState, path: Path, *, title: str, metric: str, tested: int) -> None:
    """Draw loss and validation metric against steps, and mark the weights that were tested.

    Args:
        state: Of the run.
        path: The PNG; it is replaced as a whole.
        title: A line above.
        metric: What was validated.
        tested: Steps after which the tested weights were taken.
    """
    from matplotlib.figure import Figure

    looks = [point for point in state.points if point.validation_score is not None]
    figure = Figure(figsize=(8.0, 3.4), layout="constrained", facecolor="white")
    axes = figure.subplots(1, 2 if looks else 1, squeeze=False)[0]
    steps = [point.step for point in state.points]
    axes[0].plot(steps, [p.train_loss for p in state.points], color=DARK, lw=1.2, label="training")
    if looks:
        seen = [point.step for point in looks]
        losses = [point.validation_loss for point in looks]
        axes[0].plot(seen, losses, color=ACCENT, lw=1.4, marker="o", ms=4, label="validation")
        scores = [point.validation_score for point in looks]
        axes[1].plot(seen, scores, color=ACCENT, lw=1.4, marker="o", ms=4)
        axes[1].set_ylabel(f"validation {metric.replace('_', ' ')}", color=INK, fontsize=9)
    axes[0].set_ylabel("cross-entropy", color=INK, fontsize=9)
    axes[0].legend(frameon=False, fontsize=8.5, labelcolor=INK)
    for axis in axes:
        _dress(axis)
        axis.axvline(tested, color=INK, lw=1, ls=(0, (4, 3)))
        axis.text(
            tested, 1.01, "tested", transform=axis.get_xaxis_transform(), ha="center", va="bottom",
            fontsize=8, color=INK,
        )  # fmt: skip
    figure.suptitle(title, x=0.012, ha="left", fontsize=11, color=INK, fontweight="bold")
    save_figure(figure, path, dpi=160)


def _dress(axis: Axes) -> None:
    axis.set_xlabel("step", color=FAINT, fontsize=8.5)
    axis.set_xlim(left=0)
    axis.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    axis.grid(color=RULE, lw=0.7)
    for spine in axis.spines.values():
        spine.set_visible(False)
