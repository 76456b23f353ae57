"""Label policies: what becomes of blank, uncertain and several findings."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from medssl_data.errors import LabelError, SettingError
from medssl_data.manifest import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "FINDING_POLICIES",
    "FindingPolicy",
    "Labelled",
    "finding_policy",
    "levels_label",
    "myopia_label",
    "normal_label",
    "single_label",
    "suffix_label",
]

SMOOTHED = (0.55, 0.85)
"""Range of the soft targets that the study drew for uncertain findings."""


@dataclass(frozen=True)
class Labelled:
    """What a policy makes of a column.

    Args:
        labels: (N,) hard labels or `UNLABELLED`.
        targets: (N,) soft targets of class 1, or None where all are hard; NaN where left out.
    """

    labels: tuple[int, ...]
    targets: tuple[float, ...] | None = None


@dataclass(frozen=True)
class FindingPolicy:
    """Cells 1.0, 0.0, -1.0 (uncertain) and blank of one finding -> labels.

    Args:
        name: What the card and `--labels` call it.
        uncertain: What -1 becomes: a label, nothing, or a soft target drawn from `SMOOTHED`.
        blank: What an empty cell becomes: 0 (not mentioned is absent) or nothing.
        seed: Of the soft targets.

    Example:
        >>> FindingPolicy("u-ones", uncertain=1).apply(["1.0", "-1.0", ""]).labels
        (1, 1, 0)
    """

    name: str
    uncertain: Literal[0, 1, "ignore", "smooth"]
    blank: Literal[0, "nan"] = 0
    seed: int = 0

    def apply(self, cells: Sequence[str], where: Callable[[int], str] = str) -> Labelled:
        """Label a column.

        Soft targets are drawn for every row, uncertain or not, so that one row's target does not
        depend on the others' cells.

        Args:
            cells: (N,) texts.
            where: Names the file and row of an index, for messages.

        Raises:
            LabelError: A cell is not one of 1, 0, -1 and blank.
        """
        kinds = [_KINDS.get(cell) for cell in cells]
        if None in kinds:
            index = kinds.index(None)
            message = f"{where(index)}: {cells[index]!r} is not one of 1.0, 0.0, -1.0 and blank"
            raise LabelError(message)
        missing = UNLABELLED if self.blank == "nan" else 0
        if self.uncertain == "smooth":
            return self._smooth(kinds, missing)
        doubtful = UNLABELLED if self.uncertain == "ignore" else self.uncertain
        become = {"1": 1, "0": 0, "-1": doubtful, "": missing}
        return Labelled(tuple([become[kind] for kind in kinds if kind is not None]))

    def _smooth(self, kinds: Sequence[str | None], missing: int) -> Labelled:
        drawn = np.random.default_rng(self.seed).uniform(*SMOOTHED, len(kinds)).tolist()
        hard = {"1": 1.0, "0": 0.0, "": float("nan") if missing == UNLABELLED else 0.0}
        targets = [
            soft if kind == "-1" else hard[kind or ""]
            for kind, soft in zip(kinds, drawn, strict=True)
        ]
        labels = [UNLABELLED if math.isnan(target) else int(target >= 0.5) for target in targets]
        return Labelled(tuple(labels), tuple(targets))


_KINDS = {
    **dict.fromkeys(("1", "1.0", "1.00"), "1"),
    **dict.fromkeys(("0", "0.0", "-0.0"), "0"),
    **dict.fromkeys(("-1", "-1.0"), "-1"),
    **dict.fromkeys(("", "nan", "NaN", "NA"), ""),
}

_UNCERTAIN = {
    "u-zeros": FindingPolicy("u-zeros", 0),
    "u-ones": FindingPolicy("u-ones", 1),
    "u-ignore": FindingPolicy("u-ignore", "ignore"),
    "u-ones-lsr": FindingPolicy("u-ones-lsr", "smooth"),
}

FINDING_POLICIES = {
    **_UNCERTAIN,
    **{
        f"{name},blank=nan": replace(policy, name=f"{name},blank=nan", blank="nan")
        for name, policy in _UNCERTAIN.items()
    },
}
"""The policies for uncertain findings by name."""


def finding_policy(name: str) -> FindingPolicy:
    """Find the policy of this name; `,blank=0` may be written out.

    Raises:
        SettingError: There is none.
    """
    policy = FINDING_POLICIES.get(name.removesuffix(",blank=0"))
    if policy is None:
        message = f"label policy {name!r} is not one of {', '.join(FINDING_POLICIES)}"
        raise SettingError(message)
    return policy


def single_label(findings: str, classes: Sequence[str], separator: str = "|") -> int:
    """Return the class of an image with exactly one finding that is one of the classes.

    Args:
        findings: Names joined by `separator`.
        classes: Class names in label order.
        separator: What joins the findings.

    Returns:
        The label; `UNLABELLED` for none, several, or other findings.

    Example:
        >>> single_label("Mass", ("Effusion", "Mass"))
        1
        >>> single_label("Effusion|Mass", ("Effusion", "Mass"))
        -1
    """
    if separator in findings or findings not in classes:
        return UNLABELLED
    return list(classes).index(findings)


def normal_label(findings: str) -> int:
    """Return 0 where the findings are exactly `normal`, else 1: the rule of the study."""
    return 0 if findings == "normal" else 1


def suffix_label(name: str) -> int:
    """Read the 0 or 1 that ends a file name before its suffix; `UNLABELLED` where none does."""
    match = re.search(r"_([01])\.[A-Za-z]+$", name)
    return int(match[1]) if match else UNLABELLED


def myopia_label(level: int, *, high_is_positive: bool) -> int:
    """Merge 0 normal, 1 high and 2 pathological myopia into two classes.

    Args:
        level: 0, 1 or 2.
        high_is_positive: The merge of the study's released numbers; else only 2 is positive.
    """
    return int(level >= (1 if high_is_positive else 2))


def levels_label(cell: str, levels: int, where: str) -> int:
    """Read a whole number below `levels`, written with or without `.0`.

    Raises:
        LabelError: Anything else.
    """
    number = cell.removesuffix(".0")
    if not number.isdecimal() or int(number) >= levels:
        message = f"{where}: label {cell!r} is not one of 0 to {levels - 1}"
        raise LabelError(message)
    return int(number)
