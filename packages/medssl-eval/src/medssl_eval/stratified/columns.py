"""Which stratum each image belongs to: the values of a column, or quarters of its numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_data import ImageDataset
    from numpy.typing import NDArray

    from medssl_eval.experiments.settings import ScoredSettings

__all__ = ["MOST", "Strata", "check_columns", "combined", "strata_of"]

MOST = 20
"""Strata of a column: with more, none has images enough for a score."""

_FEW_NUMBERS = 10
"""Distinct numbers up to which each is a stratum of its own."""


@dataclass(frozen=True)
class Strata:
    """The stratum of each image of a data set.

    Args:
        columns: What makes the strata; of several, their combinations.
        names: (N,) such as `view = ap`, `age over 45 to 60` or `sex unknown`.
        order: The distinct strata, in the order of their values.
    """

    columns: tuple[str, ...]
    names: tuple[str, ...]
    order: tuple[str, ...]


def strata_of(data: ImageDataset, column: str) -> Strata:
    """Sort the images of a data set by a column.

    Args:
        data: Carries the column: its views, or an attribute.
        column: Its name, whatever the case.

    Returns:
        A stratum for each value; numbers of more than ten values are cut into quarters.

    Raises:
        SettingsError: No such column, or one with a single value, or with more than 20.

    Example:
        >>> from medssl_data import load_dataset
        >>> data = load_dataset("phantom:chest-xray,count=60")
        >>> sorted(set(strata_of(data, "sex").names))
        ['sex = F', 'sex = M']
    """
    from medssl_data.confounders.search import is_missing, number_of

    name, cells = _column(data, column)
    given = sorted({cell for cell in cells if not is_missing(cell)})
    numbers = {cell: number_of(cell) for cell in given}
    unknown = dict.fromkeys((cell for cell in cells if is_missing(cell)), f"{name} unknown")
    words_are_numbers = not any(math.isnan(number) for number in numbers.values())
    if len(given) > _FEW_NUMBERS and words_are_numbers:
        words = _quarters(name, cells, numbers)
    else:
        words = {cell: f"{name} = {cell}" for cell in given}
    found = tuple((words | unknown)[cell] for cell in cells)
    ranked = sorted(given, key=numbers.__getitem__) if words_are_numbers else given
    order = tuple(dict.fromkeys([*(words[cell] for cell in ranked), *unknown.values()]))
    distinct = len(order)
    if distinct < 2 or distinct > MOST:
        fault = "the one value" if distinct < 2 else f"{distinct:,} values, of at most {MOST},"
        which = f" {given[0]!r}" if distinct < 2 and given else ""
        message = f"{data.name}: column {name!r} has {fault}{which} and makes no strata"
        raise SettingsError(message)
    return Strata((name,), found, order)


def combined(data: ImageDataset, columns: Sequence[str]) -> Strata:
    """Sort the images by several columns at once; errors as `strata_of`."""
    parts = [strata_of(data, column) for column in columns]
    names = tuple(", ".join(names) for names in zip(*(part.names for part in parts), strict=True))
    columns_found = tuple(part.columns[0] for part in parts)
    return Strata(columns_found, names, tuple(sorted(set(names))))


def check_columns(data: ImageDataset, settings: ScoredSettings) -> None:
    """Say before any image is opened whether the columns of `by` and `adjust` make strata.

    Raises:
        SettingsError: As `strata_of`.
    """
    for column in (*settings.by, *settings.adjust):
        strata_of(data, column)


def _column(data: ImageDataset, wanted: str) -> tuple[str, tuple[str, ...]]:
    from medssl_data.errors import did_you_mean

    columns = dict(data.attributes)
    if any(data.views):
        columns = {"view": data.views, **columns}
    for name, cells in columns.items():
        if name.casefold() == wanted.casefold():
            return name, cells
    hint = (
        did_you_mean(wanted, columns)
        if columns
        else "; it carries none: a table's columns beside path and label are carried"
    )
    message = f"{data.name} has no column {wanted!r}{hint}"
    raise SettingsError(message)


def _quarters(name: str, cells: Sequence[str], numbers: dict[str, float]) -> dict[str, str]:
    """Cut numbers where each part holds about a quarter of the images."""
    values = np.array([numbers[cell] for cell in cells if cell in numbers])
    cuts = np.unique(np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf"))
    cuts = cuts[cuts < values.max()]
    words = [
        f"{name} up to {cuts[0]:g}" if len(cuts) else f"{name} = {values[0]:g}",
        *(f"{name} over {low:g} to {high:g}" for low, high in pairwise(cuts)),
        *([f"{name} over {cuts[-1]:g}"] if len(cuts) else []),
    ]
    place: NDArray[np.int64] = np.searchsorted(cuts, list(numbers.values()), side="left")
    return {cell: words[part] for cell, part in zip(numbers, place, strict=True)}
