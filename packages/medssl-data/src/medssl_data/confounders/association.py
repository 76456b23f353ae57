"""How closely labels go with a property, tested by patient, all properties at once.

Arrays in, numbers out. What is exchanged and resampled is the patient. Which properties there are
is the business of `search`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

__all__ = ["Property", "Strength", "adjusted_p", "auroc", "cramers_v", "strength"]

_NUMBERS = 4_000_000
"""Numbers that a chunk of resamples may hold: 32 MB."""


@dataclass(frozen=True, eq=False)
class Property:
    """What each image is or has.

    Args:
        name: For people, such as `view`.
        values: (N,) float64; a category's place in `levels`, or a number; NaN is missing.
        levels: Names of the categories; empty for numbers.
        excuse: Why it may go with the label and be no confounder.
    """

    name: str
    values: Floats
    levels: tuple[str, ...] = ()
    excuse: str = ""

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """(N,) where it is not missing."""
        return ~np.isnan(self.values)


class Strength(NamedTuple):
    """How closely labels go with a property, with its 95 % interval.

    `value` is Cramer's V in 0..1 of a category, or the AUROC of a number for the class `label`
    against the rest: of all classes the one that lies farthest from 0.5.
    """

    value: float
    low: float
    high: float
    label: int = -1


def cramers_v(tables: npt.ArrayLike, units: int, *, resampled: bool = False) -> Floats:
    """Compute the bias-corrected V of contingency tables.

    Args:
        tables: (..., C, L) counts of classes and categories.
        units: Independent units behind them, patients: what the bias depends on.
        resampled: Whether the tables are bootstrap resamples, which carry the bias twice.

    Returns:
        (...) in [0, 1]; 0 where there is one class or one category only.

    References:
        Bergsma, A bias-correction for Cramer's V and Tschuprow's T, Journal of the Korean
        Statistical Society 42, 2013, equations 6 to 8.

    Example:
        >>> cramers_v([[21, 5], [4, 14]], 44).round(3).tolist()
        0.567
    """
    counts = np.asarray(tables, np.float64)
    total = counts.sum(axis=(-2, -1), keepdims=True)
    rows, columns = counts.sum(axis=-1, keepdims=True), counts.sum(axis=-2, keepdims=True)
    expected = rows * columns / np.maximum(total, 1)
    squares = (counts - expected) ** 2 / np.where(expected > 0, expected, 1)
    phi = squares.sum(axis=(-2, -1)) / np.maximum(total[..., 0, 0], 1)
    classes = np.count_nonzero(rows[..., 0] > 0, axis=-1)
    levels = np.count_nonzero(columns[..., 0, :] > 0, axis=-1)
    spare = max(units - 1, 1)
    corrected = phi - (2 if resampled else 1) * (classes - 1) * (levels - 1) / spare
    sizes = [number - (number - 1) ** 2 / spare for number in (classes, levels)]
    most = np.minimum(*sizes) - 1
    share = np.where(most > 0, np.maximum(corrected, 0) / np.where(most > 0, most, 1), 0)
    return np.minimum(np.sqrt(share), 1)


def auroc(values: Floats, positive: npt.NDArray[np.bool_]) -> tuple[float, Floats]:
    """Compute the chance that a positive has the larger value, ties counted half.

    Args:
        values: (N,) without NaN.
        positive: (N,), of both kinds.

    Returns:
        The area, and (N,) the influence of each row on it: squared sums over patients add up to its
        variance.

    References:
        DeLong, DeLong and Clarke-Pearson, Comparing the areas under two or more correlated receiver
        operating characteristic curves, 1988 (placements); Obuchowski, Nonparametric analysis of
        clustered ROC curve data, 1997 (their sums over patients).

    Example:
        >>> auroc(np.array([1.0, 2, 2, 3]), np.array([0, 0, 1, 1], bool))[0]
        0.875
    """
    ups, downs = np.sort(values[positive]), np.sort(values[~positive])
    placed = np.where(positive, _below(downs, values), 1 - _below(ups, values))
    area = float(placed[positive].mean())
    return area, (placed - area) / np.where(positive, len(ups), len(downs))


def _below(ordered: Floats, values: Floats) -> Floats:
    """Compute the share of `ordered` below each value, ties counted half."""
    ends = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return np.asarray(sum(ends) / (2 * len(ordered)))


def strength(
    one: Property, labels: Integers, units: Integers, *, resamples: int, seed: int
) -> Strength:
    """Measure one property, with an interval by patient.

    That of V is a percentile bootstrap, that of an AUROC normal on the scale of log odds.

    Args:
        one: The property, present in two classes at least.
        labels: (N,) in 0..C-1.
        units: (N,) in 0..P-1, the patient of each image.
        resamples: Number of resamples.
        seed: Equal seeds draw the same patients.

    References:
        Field and Welsh, Bootstrapping clustered data, 2007 (patients drawn as a whole).
    """
    kept = one.present
    labels, values = labels[kept], one.values[kept]
    units = np.unique(units[kept], return_inverse=True)[1]
    if one.levels:
        return _strength_of_category(
            labels, values.astype(np.int64), units, len(one.levels), resamples, seed
        )
    found = {int(k): auroc(values, labels == k) for k in np.unique(labels)}
    label = max(found, key=lambda k: (round(abs(found[k][0] - 0.5), 9), found[k][0]))
    return Strength(found[label][0], *_log_odds_interval(*found[label], units), label)


def _log_odds_interval(area: float, influences: Floats, units: Integers) -> tuple[float, float]:
    sums = np.bincount(units, weights=influences)
    spare = 3 / len(sums)  # the rule of three: what no patient shows may be in that many
    if len(sums) < 2 or not 0 < area < 1:
        return max(0.0, area - spare), min(1.0, area + spare)
    error = np.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum())
    middle, reach = np.log(area / (1 - area)), 1.96 * error / (area * (1 - area))
    low, high = (1 / (1 + np.exp(-(middle + side * reach))) for side in (-1, 1))
    return float(low), float(high)


def _strength_of_category(
    labels: Integers, values: Integers, units: Integers, levels: int, resamples: int, seed: int
) -> Strength:
    classes, patients = int(labels.max()) + 1, int(units.max()) + 1
    counts = np.zeros((patients, classes, levels))
    np.add.at(counts, (units, labels, values), 1)
    value = float(cramers_v(counts.sum(axis=0), patients))
    flat = counts.reshape(patients, -1)
    drawn = [
        cramers_v((times @ flat).reshape(-1, classes, levels), patients, resampled=True)
        for times in _resampled(patients, resamples, seed, width=patients + flat.shape[1])
    ]
    return Strength(value, *_ends(np.concatenate(drawn), value))


def _resampled(patients: int, resamples: int, seed: int, *, width: int) -> Iterator[Floats]:
    """Yield how often each patient is drawn, (B, P), some resamples at a time."""
    generator = np.random.default_rng([seed, 1])
    step = max(1, _NUMBERS // width)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = generator.integers(0, patients, (size, patients))
        places = drawn + np.arange(size)[:, None] * patients
        yield np.bincount(places.ravel(), minlength=drawn.size).reshape(size, -1).astype(float)


def _ends(drawn: Floats, value: float) -> tuple[float, float]:
    known = drawn[~np.isnan(drawn)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (value, value)
    return min(float(low), value), max(float(high), value)


def adjusted_p(
    properties: Sequence[Property],
    labels: Integers,
    units: Integers,
    *,
    permutations: int,
    seed: int,
) -> list[float]:
    """Test whether labels go with properties, so that any false alarm at all keeps the level.

    A permutation exchanges the labels of patients as a whole, and those of images inside a patient
    who has several labels: what patients differ in and what changes within them are tested at once.
    Statistics are Pearson's chi-square of categories and that of Kruskal and Wallis of numbers. All
    properties meet the same permutations, and each is held against the least p-value of all.

    Args:
        properties: J of them.
        labels: (N,) in 0..C-1.
        units: (N,) in 0..P-1, the patient of each image.
        permutations: Number of permutations.
        seed: Of the permutations.

    Returns:
        J p-values in (0, 1], adjusted over all.

    References:
        Westfall and Young, Resampling-based multiple testing, 1993, section 2.3 (single-step minP);
        Phipson and Smyth, Permutation p-values should never be zero, 2010.
    """
    if not properties:
        return []
    columns, owners = _columns(properties)
    sizes = np.bincount(labels)
    truth = np.eye(len(sizes))[labels]
    exchanged = _exchanged(truth, columns, units, permutations, seed)
    scores = np.concatenate([(truth.T @ columns)[None], exchanged])
    squares = (scores**2 / np.where(sizes > 0, sizes, np.inf)[:, None]).sum(axis=1)
    statistics = np.stack(
        [squares[:, owners == place].sum(axis=1) for place in range(len(properties))], axis=1
    )
    return _least_p(statistics)


def _columns(properties: Sequence[Property]) -> tuple[Floats, Integers]:
    """Lay properties out in columns of mean 0, (N, K), and tell whose they are, (K,).

    The sum of squared products with a class's members, each divided by the class's size, is then
    the statistic of the property up to a factor.
    """
    columns, owners = [], []
    for place, one in enumerate(properties):
        kept = one.present
        if one.levels:
            found = [one.values == level for level in range(len(one.levels))]
            parts = [member / np.sqrt(max(member.sum(), 1)) for member in found]
        else:
            parts = [_ranks(one.values, kept)]
        for part in parts:
            columns.append(np.where(kept, part - part[kept].mean(), 0.0))
            owners.append(place)
    return np.stack(columns, axis=1), np.array(owners)


def _ranks(values: Floats, kept: npt.NDArray[np.bool_]) -> Floats:
    """Rank the present values in (0, 1], ties sharing their mean rank."""
    _, places, counts = np.unique(values[kept], return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = np.zeros(len(values))
    ranks[kept] = (ends - (counts - 1) / 2)[places] / len(places)
    return ranks


def _exchanged(
    truth: Floats, columns: Floats, units: Integers, permutations: int, seed: int
) -> Floats:
    """Compute the products of exchanged labels with the columns, (permutations, C, K)."""
    generator = np.random.default_rng([seed, 2])
    patients = int(units.max()) + 1
    profile = _summed(truth, units, patients) / np.bincount(units, minlength=patients)[:, None]
    sums = _summed(columns, units, patients)
    rest = truth - profile[units]
    mixed = np.flatnonzero((np.abs(profile * (1 - profile)).sum(axis=1) > 0)[units])
    step = max(1, _NUMBERS // (patients * truth.shape[1] + len(mixed) * truth.shape[1]))
    found = []
    for start in range(0, permutations, step):
        size = min(step, permutations - start)
        orders = generator.permuted(np.tile(np.arange(patients), (size, 1)), axis=1)
        scores = np.tensordot(profile[orders], sums, axes=([1], [0]))
        if len(mixed):
            shuffled = units[mixed] + generator.random((size, len(mixed)))
            # Rows of one patient stay together, for `mixed` is put into the order of patients.
            orders = np.argsort(shuffled, axis=1)
            ordered = mixed[np.argsort(units[mixed], kind="stable")]
            scores += np.tensordot(rest[mixed][orders], columns[ordered], axes=([1], [0]))
        found.append(scores)
    return np.concatenate(found)


def _summed(values: Floats, units: Integers, patients: int) -> Floats:
    sums = np.zeros((patients, values.shape[1]))
    np.add.at(sums, units, values)
    return sums


def _least_p(statistics: Floats) -> list[float]:
    """Adjust over columns, (1 + permutations, J); the first row is what was observed."""
    rounded = np.round(statistics / np.maximum(statistics.max(axis=0), 1e-300), 9)
    rows = len(rounded)
    p = np.empty_like(rounded)
    for place, column in enumerate(rounded.T):
        p[:, place] = (rows - np.searchsorted(np.sort(column), column, side="left")) / rows
    least = np.sort(p.min(axis=1))
    adjusted = np.searchsorted(least, p[0] * (1 + 1e-9), side="right") / rows
    return [float(value) for value in adjusted]
