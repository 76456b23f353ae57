"""Figures as all packages make and write them; matplotlib is imported where it is used.

What is drawn is decided by the experiment. matplotlib belongs to the packages that draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_models.files import replacing

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

__all__ = ["new_figure", "save_figure", "take_literally"]


def new_figure(width: float, height: float) -> Figure:
    """Make a figure of its own, white and without overlaps; pyplot would keep a global list.

    Args:
        width: Inches.
        height: Inches.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save_figure(figure: Figure, path: Path, *, dpi: int = 100) -> None:
    """Write a figure whole or not at all; the suffix chooses the format, its folder is made.

    Args:
        figure: As `new_figure` makes it.
        path: Such as `curves.png`.
        dpi: Dots an inch, of a format that has dots.
    """
    take_literally(figure)
    with replacing(path) as draft:
        figure.savefig(draft, format=path.suffix.removeprefix(".").lower(), dpi=dpi)


def take_literally(figure: Figure) -> None:
    """Draw the texts of a figure as they are: a `$` in a name of a model begins no mathematics.

    Numbers on an axis stay matplotlib's own.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter, ScalarFormatter

    numbers = {
        id(label)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        if isinstance(axis.get_major_formatter(), LogFormatter | ScalarFormatter)
        for label in (*axis.get_majorticklabels(), *axis.get_minorticklabels())
    }
    for text in figure.findobj(Text):
        if id(text) not in numbers:
            text.set_parse_math(False)
