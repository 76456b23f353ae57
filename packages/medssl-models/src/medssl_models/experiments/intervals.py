"""Percentile bootstrap: draws of units with replacement, and intervals of means over images.

What is drawn is the unit of independence: the patient where patients are known, else the image.
Importing this module imports numpy alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from medssl_models.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = ["Mean", "bootstrap_mean", "drawn_integers", "percentile_interval", "units_of"]

TAIL = 2.5  # percent on either side of a 95 % interval
CHUNK_NUMBERS = 2_000_000  # numbers in a chunk of resamples: 16 MB


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over images with its 95 % interval.

    Args:
        value: NaN where nothing is defined.
        low: Lower end; NaN with fewer than two units or defined images.
        high: Upper end.
        images: How many images have a value.
        undefined: How many values were NaN.
    """

    value: float
    low: float
    high: float
    images: int
    undefined: int

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """Both ends; None where there are none."""
        return (None, None) if math.isnan(self.low) else (self.low, self.high)


def bootstrap_mean(
    values: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    draw: Literal["units", "counts"] = "units",
) -> list[Mean]:
    """Average columns over images, with percentile intervals from resampled units.

    Args:
        values: `(N, M)`, one row an image; NaN is left out and counted. All columns share the
            resamples.
        groups: The patient of each image, "" where unknown (such an image is drawn alone); images
            of one patient are drawn together. None draws images.
        resamples: How often the units are drawn anew.
        seed: Equal seeds and as many units give equal draws.
        draw: "units" draws one unit after another, "counts" how often each one stands in a
            resample. The law is the same, the random numbers are not.

    Returns:
        M means.

    Raises:
        SettingsError: No resamples, or another number of groups than rows.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; Field and Welsh,
        Bootstrapping clustered data, 2007 (patients drawn as a whole).

    Example:
        >>> (mean,) = bootstrap_mean([[1.0], [2.0], [3.0], [float("nan")]])
        >>> mean
        Mean(value=2.0, low=1.0, high=3.0, images=3, undefined=1)
    """
    table = np.asarray(values, np.float64)
    if resamples < 1 or (groups is not None and len(groups) != len(table)):
        given = "no" if groups is None else len(groups)
        message = f"{resamples} resamples and {given} groups for {len(table)} images"
        raise SettingsError(message)
    defined = ~np.isnan(table)
    filled, present = np.where(defined, table, 0.0), defined.astype(np.float64)
    means = _ratio(np.asarray(filled.sum(axis=0)), np.asarray(present.sum(axis=0)))
    if groups is not None:
        units, count = units_of(groups)
        filled, present = (_summed(numbers, units, count) for numbers in (filled, present))
    if len(filled) < 2:
        resampled = np.full((1, table.shape[1]), np.nan)
    elif draw == "counts":
        resampled = _by_counts(filled, present, resamples, seed)
    else:
        resampled = _by_units(filled, present, resamples, seed)
    return [_mean(*column) for column in zip(means.tolist(), resampled.T, defined.T, strict=True)]


def _mean(value: float, resampled: Floats, defined: NDArray[np.bool_]) -> Mean:
    images = int(defined.sum())
    low, high = percentile_interval(resampled) if images > 1 else (math.nan, math.nan)
    # Sums in another order differ in the last bits: the value of equal images lies inside.
    return Mean(value, min(low, value), max(high, value), images, len(defined) - images)


def _by_units(sums: Floats, counts: Floats, resamples: int, seed: int) -> Floats:
    """Compute means `(resamples, M)` of units `(U, M)` that are drawn one after another."""
    generator, units = np.random.default_rng(seed), len(sums)
    means = []
    for rows in drawn_integers(generator, units, (resamples, units)):
        columns = [
            (s[rows].sum(axis=1), c[rows].sum(axis=1))
            for s, c in zip(sums.T, counts.T, strict=True)
        ]
        means.append(np.stack([_ratio(*column) for column in columns], axis=1))
    return np.concatenate(means)


def _by_counts(sums: Floats, counts: Floats, resamples: int, seed: int) -> Floats:
    """Compute the same of units whose numbers of copies are drawn at once."""
    units = len(sums)
    times = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), resamples)
    return _ratio(times @ sums, times @ counts)


def _summed(values: Floats, units: Integers, count: int) -> Floats:
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, units, values)
    return sums


def _ratio(sums: Floats, counts: Floats) -> Floats:
    quotients = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return np.asarray(quotients, np.float64)


def units_of(groups: Sequence[str]) -> tuple[Integers, int]:
    """Number what is drawn as a whole.

    Args:
        groups: N names, "" where unknown: such a row is a unit of its own.

    Returns:
        `(N,)` int64, the unit of each row, and how many units there are.

    Example:
        >>> units_of(["anna", "ben", "anna"])
        (array([0, 1, 0]), 2)
    """
    names = [group or f"\0{row}" for row, group in enumerate(groups)]
    units, numbers = np.unique(names, return_inverse=True)
    return numbers.astype(np.int64), len(units)


def drawn_integers(
    generator: np.random.Generator, upper: int, shape: tuple[int, int], *, width: int = 0
) -> Iterator[Integers]:
    """Yield a table of random integers in 0..upper-1, some rows at a time.

    Args:
        generator: Gives the same numbers however many rows are drawn at a time.
        upper: Exclusive.
        shape: Rows (resamples) and columns (units).
        width: Numbers that the caller makes of each row, for the size of a chunk.

    Yields:
        `(B, columns)` int64.
    """
    rows, columns = shape
    step = max(1, CHUNK_NUMBERS // max(columns, width))
    for begin in range(0, rows, step):
        yield generator.integers(0, upper, (min(step, rows - begin), columns))


def percentile_interval(resampled: ArrayLike) -> tuple[float, float]:
    """Return the 95 % percentile interval of resampled values; NaN values are left out.

    Args:
        resampled: `(B,)`.

    Returns:
        Lower and upper end; NaN where all values are.

    References:
        Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 13.

    Example:
        >>> percentile_interval(range(101))
        (2.5, 97.5)
    """
    values = np.asarray(resampled, np.float64)
    defined = values[~np.isnan(values)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.percentile(defined, [TAIL, 100 - TAIL])
    return float(low), float(high)
