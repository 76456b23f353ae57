"""The course of a run as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_models.experiments.figures import new_figure, save_figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from medssl_dip.inversion.run_folder import TraceRow

__all__ = ["draw_trace"]


def draw_trace(rows: Sequence[TraceRow], path: Path, *, title: str = "") -> None:
    """Draw loss and picture metrics over the steps of a run into a PNG.

    Args:
        rows: In the order of the steps; may be empty.
        path: The file.
        title: Above the curves.
    """
    figure = new_figure(7, 3.5)
    losses, metrics = figure.subplots(1, 2)
    losses.plot([row.step for row in rows], [row.loss for row in rows], color="black", linewidth=1)
    if any(row.loss > 0 for row in rows):
        losses.set_yscale("log")
    losses.set(xlabel="step", ylabel="loss")
    measured = [row for row in rows if row.ssim == row.ssim]  # not NaN
    steps = [row.step for row in measured]
    metrics.plot(steps, [row.psnr for row in measured], color="tab:blue")
    metrics.set(xlabel="step")
    metrics.set_ylabel("PSNR, dB", color="tab:blue")
    other = metrics.twinx()
    other.plot(steps, [row.ssim for row in measured], color="tab:orange")
    other.set_ylabel("SSIM", color="tab:orange")
    figure.suptitle(title, fontsize=7)
    save_figure(figure, path)
