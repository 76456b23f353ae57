"""Metric: what a number means, in which direction it is better, and between which bounds it lies.

Metrics are declared once, with the experiment that measures them, and looked up; nothing is guessed
from a name. Importing this module imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Direction", "Metric"]

Direction = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Metric:
    """One number that an experiment measures.

    Args:
        name: As in records, tables, CSV and JSON, such as `balanced_accuracy`.
        title: For people, such as `balanced accuracy`.
        direction: Which values are better; `neither` where none are.
        unit: Of values and intervals, `%` or empty for a pure number.
        chance: What knows nothing gives, in the unit; None where it depends on the data (the
            record's details tell then) or does not exist.
        bounds: Least and greatest possible value, in the unit; None is unbounded.

    Example:
        >>> Metric("auroc", "AUROC", "higher", chance=0.5, bounds=(0, 1)).better(0.9, 0.8)
        True
    """

    name: str
    title: str
    direction: Direction
    unit: str = ""
    chance: float | None = None
    bounds: tuple[float | None, float | None] = (None, None)

    @property
    def sign(self) -> int:
        """What a value is multiplied by so that more is better; 0 where no value is better."""
        return {"higher": 1, "lower": -1, "neither": 0}[self.direction]

    @property
    def heading(self) -> str:
        """Title and unit, as over a column."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def better(self, one: float, other: float) -> bool:
        """Tell whether one value is better than another."""
        return self.sign * one > self.sign * other

    def show(self, value: float) -> str:
        """Write a value as tables do: percent with two decimals, pure numbers with three."""
        return f"{value:.2f}" if self.unit == "%" else f"{value:.3f}"
