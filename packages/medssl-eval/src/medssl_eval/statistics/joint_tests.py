"""Which of several models differ, all pairs at once: the best was chosen on the same images.

A model that came first among many owes some of its lead to chance. A test of the best against the
others therefore has to allow for every pair of models that could have come out as best and worst.
Everything here takes arrays; what can be paired is the business of `compare`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.errors import LabelError
from medssl_eval.statistics.intervals import coin_flips
from medssl_eval.statistics.metrics import checked_predictions, metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = ["PairTests", "Panel", "all_pairs", "jackknife_panel", "needed_units", "step_down"]

FEWEST = 6
"""Of fewer units no exchange is beyond chance: all 2^n leave p at 2 / 2^n, above 5 %."""

MOST_UNITS = 1000
"""Units that are left out one by one; more are put into so many blocks, at random."""
CHUNK_NUMBERS = 4_000_000  # float64 numbers in a chunk of resamples: 32 MB
REACH = 1e-9  # sums in another order differ in the last bits; equal ones count as at least as far


@dataclass(frozen=True, eq=False)
class Panel:
    """Several models on the same units.

    Args:
        units: U names: patients, or images where patients are unknown.
        influences: (U, k) float64, by how much each unit moves each model's value; they sum to 0 in
            each stratum, and the sum of their squares is the variance of the value.
        values: (k,) float64.
        strata: (U,) int64, units of one number were drawn together, such as those of one class.
    """

    units: Sequence[str]
    influences: Floats
    values: Floats
    strata: Integers


@dataclass(frozen=True, eq=False)
class PairTests:
    """What separates the models of some pairs.

    Args:
        difference: (P,) float64, first minus second, in the unit of the values.
        standard_error: (P,) float64, of the difference.
        p: (P,) float64, of each pair alone.
        p_adjusted: (P,) float64, over all pairs that were tested together.
    """

    difference: Floats
    standard_error: Floats
    p: Floats
    p_adjusted: Floats

    def take(self, places: Sequence[int]) -> PairTests:
        """Keep the tests of some pairs."""
        at = np.asarray(places, np.int64)
        return PairTests(
            self.difference[at], self.standard_error[at], self.p[at], self.p_adjusted[at]
        )


def jackknife_panel(
    labels: ArrayLike,
    scores: Sequence[ArrayLike],
    name: str,
    *,
    units: Sequence[str] | None = None,
) -> Panel:
    """Measure several models on the same images, and what each unit adds to the values.

    Args:
        labels: (N,) integers in 0..K-1.
        scores: (N, K) probabilities of each model, or (N,) for the second of two classes.
        name: The metric.
        units: N names; rows of one name are left out together. None leaves out row by row.

    Raises:
        LabelError: The metric has no value, or none once some unit is left out.
        FeatureError: Predictions of a wrong shape.

    References:
        Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 11 (the jackknife).

    Example:
        >>> panel = jackknife_panel([0, 1, 1], [[0.1, 0.9, 0.8], [0.1, 0.2, 0.8]], "accuracy")
        >>> panel.values.round(3).tolist(), (3 * panel.influences[:, 1]).round(3).tolist()
        ([1.0, 0.667], [0.408, -0.816, 0.408])
    """
    checked = [checked_predictions(labels, one) for one in scores]
    truth = checked[0][0]
    names, rows = np.unique(_blocks(units, len(truth)), return_inverse=True)
    count = len(names)
    compute = metric(name).compute
    values, influences = np.empty(len(checked)), np.empty((count, len(checked)))
    step = max(1, CHUNK_NUMBERS // len(truth))
    for place, (_, given) in enumerate(checked):
        values[place] = compute(truth, given, np.ones((1, len(truth))))[0]
        without = np.concatenate(
            [
                compute(truth, given, 1.0 - (rows == np.arange(at, min(at + step, count))[:, None]))
                for at in range(0, count, step)
            ]
        )
        influences[:, place] = math.sqrt((count - 1) / count) * (without.mean() - without)
    if not np.isfinite(influences).all():
        message = f"{name} cannot be compared: some class stands on a single patient or image"
        raise LabelError(message)
    strata = _classes_of(truth, rows, count) if metric(name).by_class else None
    if strata is None:
        return Panel(names.tolist(), influences, values, np.zeros(count, np.int64))
    sizes = np.bincount(strata)  # of which one is left out, not of all units
    influences *= np.sqrt((1 - 1 / sizes) * count / (count - 1))[strata][:, None]
    return Panel(names.tolist(), influences, values, strata)


def _classes_of(labels: Integers, rows: Integers, count: int) -> Integers | None:
    """Number the class of each unit; None where some unit has images of several."""
    low, high = np.full(count, labels.max()), np.zeros(count, np.int64)
    np.minimum.at(low, rows, labels)
    np.maximum.at(high, rows, labels)
    return np.unique(low, return_inverse=True)[1] if (low == high).all() else None


def all_pairs(
    panels: Sequence[Panel],
    pairs: Sequence[Sequence[tuple[int, int]]],
    *,
    resamples: int,
    seed: int,
    claims: Sequence[Sequence[int]] | None = None,
) -> list[PairTests]:
    """Test pairs of models, alone and all together, by exchanging models unit by unit.

    In each resample a coin is tossed for each unit, the same for all models and panels, and the
    models of a pair exchange what they owe to the units that show heads. The differences are
    divided by the root of their squares (for right and wrong answers that is McNemar's statistic),
    which no exchange changes. As all pairs meet the same coins, their maximum has the distribution
    that it has where no pair differs, however alike some models are.

    Args:
        panels: Models on units; a unit that stands in several is exchanged in all.
        pairs: For each panel, positions of two models.
        resamples: Random exchanges.
        seed: Equal seeds give equal exchanges.
        claims: For each panel a number, from 1 on, for each pair, negative where the models stand
            the other way round. Pairs of one number are to prove together that one model is worse,
            which it is where it lost all of them and one beyond chance; they share an adjusted
            p-value. None makes each pair a claim of its own.

    Returns:
        The tests of each panel; their adjusted p-values hold over all panels together.

    Raises:
        SettingsError: No resamples.

    References:
        Westfall and Young, Resampling-based multiple testing, 1993 (step-down maxima); Romano and
        Wolf, Exact and approximate stepdown methods for multiple hypothesis testing, 2005; Wu,
        Jackknife, bootstrap and other resampling methods in regression analysis, 1986 (exchanging
        signs of influences); Phipson and Smyth, 2010 (no p-value is zero).

    Example:
        >>> labels, good, poor = [0, 1] * 10, [0.1, 0.9] * 10, [0.1] * 20
        >>> panel = jackknife_panel(labels, [good, good, poor], "accuracy")
        >>> (found,) = all_pairs([panel], [[(0, 1), (0, 2)]], resamples=999, seed=0)
        >>> found.difference.tolist(), (found.p_adjusted < 0.01).tolist()
        ([0.0, 0.5], [False, True])
    """
    gaps = [_Gaps.of(panel, chosen) for panel, chosen in zip(panels, pairs, strict=True)]
    everyone = sorted({unit for panel in panels for unit in panel.units})
    place = {unit: number for number, unit in enumerate(everyone)}
    columns = [np.array([place[unit] for unit in panel.units], np.int64) for panel in panels]
    observed = np.concatenate([gap.observed for gap in gaps])
    width = max(len(everyone), len(observed))
    flips = coin_flips(len(everyone), resamples=resamples, seed=seed, rows=width)
    exchanged = np.concatenate(
        [
            np.hstack([gap.exchanged(chunk[:, at]) for gap, at in zip(gaps, columns, strict=True)])
            for chunk in (1 - 2 * heads for heads in flips)
        ]
    )
    reach = np.abs(exchanged) >= np.abs(observed) * (1 - REACH) - REACH
    alone = (1 + reach.sum(axis=0)) / (1 + resamples)
    if claims is None:
        adjusted = step_down(observed, exchanged)
    else:
        numbers = np.concatenate([np.asarray(one, np.int64) for one in claims])
        claim = np.unique(np.abs(numbers), return_inverse=True)[1]
        made = [
            _claimed(sample * np.sign(numbers), claim) for sample in (observed[None], exchanged)
        ]
        adjusted = step_down(made[0][0], made[1])[claim]
    ends = np.cumsum([len(gap.observed) for gap in gaps])[:-1]
    return [
        PairTests(gap.difference, gap.error, one, both)
        for gap, one, both in zip(
            gaps, np.split(alone, ends), np.split(adjusted, ends), strict=True
        )
    ]


def _claimed(statistics: Floats, claim: Integers) -> Floats:
    """Take the largest of each claim's statistics (B, P), 0 where two of them have other signs."""
    found = np.empty((len(statistics), int(claim.max()) + 1))
    for number in range(found.shape[1]):
        own = statistics[:, claim == number]
        low, high = own.min(axis=1), own.max(axis=1)
        found[:, number] = np.where(low * high < 0, 0.0, np.maximum(high, -low))
    return found


def step_down(observed: Floats, exchanged: Floats) -> Floats:
    """Adjust p-values by step-down maxima, so that any false alarm is as rare as the level says.

    Args:
        observed: (P,) statistics of the pairs, all on one scale.
        exchanged: (B, P) the same where nothing differs, of common resamples.

    Returns:
        (P,) adjusted p-values.

    References:
        Westfall and Young, 1993, algorithm 2.8.

    Example:
        >>> step_down(np.array([3.0, 1.0]), np.array([[1.0, 2.0], [0.5, 0.2], [2.0, 0.1]])).tolist()
        [0.25, 0.5]
    """
    order = np.argsort(-np.abs(observed), kind="stable")
    size = np.abs(observed)[order]
    # From the smallest upwards, the largest of what has not been decided yet.
    largest = np.maximum.accumulate(np.abs(exchanged)[:, order[::-1]], axis=1)[:, ::-1]
    reach = largest >= size * (1 - REACH) - REACH
    stepped = np.maximum.accumulate((1 + reach.sum(axis=0)) / (1 + len(exchanged)))
    adjusted = np.empty(len(observed))
    adjusted[order] = stepped
    return adjusted


def needed_units(
    difference: float, standard_error: float, units: int, *, power: float = 0.8
) -> int | None:
    """Say on how many units a difference would probably be proven, were it the true one.

    The variance of a difference falls with the number of units, so a two-sided test at 5 % has the
    power on n ((z(0.975) + z(power)) SE / d)^2 of them.

    Args:
        difference: As observed; the true one may be smaller, and then more are needed.
        standard_error: Of the difference.
        units: How many patients or images it was observed on.
        power: The wanted chance of a p-value below 5 %.

    Returns:
        The number, `FEWEST` at least; None where nothing differs.

    References:
        Cohen, Statistical power analysis for the behavioral sciences, 1988, chapter 2.

    Example:
        >>> needed_units(2.0, 2.0, 100)
        785
    """
    from scipy.stats import norm

    if difference == 0 or not math.isfinite(standard_error):
        return None
    reach = float(norm.ppf(0.975) + norm.ppf(power))
    return max(math.ceil(units * (reach * standard_error / difference) ** 2), FEWEST)


@dataclass(frozen=True, eq=False)
class _Gaps:
    """The pairs of a panel.

    Args:
        first: (P,) positions of the first models.
        second: (P,) of the second ones.
        influences: (U, k), the factor n / (n - 1) of a stratum's variance taken out.
        members: (U, S), 1 / n where a unit is one of the n of a stratum.
        shares: (S, P), which part of a difference's variance comes from a stratum.
        difference: (P,).
        error: (P,) standard error.
        scale: (P,) root of the sum of squares of what the units add to the difference.
    """

    first: Integers
    second: Integers
    influences: Floats
    members: Floats
    shares: Floats
    difference: Floats
    error: Floats
    scale: Floats

    @classmethod
    def of(cls, panel: Panel, pairs: Sequence[tuple[int, int]]) -> _Gaps:
        first, second = np.array(pairs, np.int64).reshape(-1, 2).T
        strata = np.unique(panel.strata, return_inverse=True)[1]
        sizes = np.bincount(strata)
        raw = panel.influences * np.sqrt((sizes - 1) / sizes)[strata][:, None]
        member = np.eye(len(sizes))[strata]
        grams = np.stack([raw[strata == one].T @ raw[strata == one] for one in range(len(sizes))])
        own = grams[:, first, first] + grams[:, second, second]
        parts = own - 2 * grams[:, first, second]
        parts = np.where(parts > 1e-12 * own, parts, 0.0)  # below it is rounding
        whole = parts.sum(axis=0)
        shares = np.where(whole > 0, parts, sizes[:, None]) / np.where(
            whole > 0, whole, len(strata)
        )
        difference = panel.values[first] - panel.values[second]
        difference[np.abs(difference) < 1e-12 * np.abs(panel.values[first])] = 0.0
        spread = (shares**2 / sizes[:, None]).sum(axis=0)
        return cls(
            first, second, raw, member / sizes, shares, difference,
            error=np.sqrt(parts.T @ (sizes / np.maximum(sizes - 1, 1))),
            scale=np.sqrt(whole + difference**2 * spread),
        )  # fmt: skip

    @property
    def observed(self) -> Floats:
        """(P,) the statistics; 0 where two models are alike on every unit."""
        return _ratio(self.difference, self.scale)

    def exchanged(self, signs: Floats) -> Floats:
        """(B, P) the statistics after exchanges, for signs (B, U) of -1 and 1."""
        moved = signs @ self.influences
        shift = (signs @ self.members) @ self.shares
        gaps = moved[:, self.first] - moved[:, self.second] + shift * self.difference
        return _ratio(gaps, self.scale)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    empty = denominator == 0
    return np.where(empty, 0.0, numerator / np.where(empty, 1.0, denominator))


def _blocks(units: Sequence[str] | None, rows: int) -> NDArray[np.str_]:
    """Name the units; many are put into blocks that depend on their names only."""
    names = np.array([str(row) for row in range(rows)] if units is None else list(units))
    known = np.unique(names)
    if len(known) <= MOST_UNITS:
        return names
    block = {name: f"block {_number(name) % MOST_UNITS}" for name in known.tolist()}
    return np.array([block[name] for name in names.tolist()])


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
