"""What a ranking means, in plain words, and what must be known before anyone relies on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.experiments.cells import asked_of

from medssl_eval.rank.ranking import is_rival, is_worse
from medssl_eval.statistics.intervals import intervals_overlap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_data import ImageDataset
    from medssl_models import Record

    from medssl_eval.compare.comparison import Pair
    from medssl_eval.rank.ranking import ModelRank, RankingResult

__all__ = ["Verdict", "caveats_of", "judge"]

FEW = 100
"""Images of the rarest class below which an interval of a share is wider than +-10 points."""
LOOKED_AT = 1000
"""Images whose light and corners are held against the label: `medssl-data check` takes more."""
CHEAPER = 0.8
"""Share of the best model's operations below which another one is called cheaper."""
PIXELS = 5000
"""Images up to which near-duplicates between splits are looked for: one pass of decoding."""


@dataclass(frozen=True)
class Verdict:
    """The answer in sentences.

    Args:
        best: The first model.
        alike: Models that no test tells apart from it.
        sentences: What to do, and why.
        caveats: What limits it.
    """

    best: str
    alike: tuple[str, ...]
    sentences: tuple[str, ...]
    caveats: tuple[str, ...]


def judge(result: RankingResult, caveats: Sequence[str] = ()) -> Verdict:
    """Put a ranking into words.

    Args:
        result: What was measured.
        caveats: Of the data; see `caveats_of`.
    """
    first, *others = result.ranks
    rivals = [rank for rank in others if rank.images == first.images]
    worse = [rank for rank in rivals if is_worse(rank.model, _pairs(result, rank), result.level)]
    alike = [rank for rank in rivals if rank not in worse]
    sentences = [
        _headline(result, first, alike=bool(alike)),
        *_told_apart(worse),
        *_cheapest(first, alike),
        *_needed(result, first, alike),
        *_of_controls(result, first, alike, others),
    ]
    limits = [
        *_of_chance(result),
        *_of_size(result),
        *_of_test_parts(first),
        *_of_dropped(result),
        *_of_pretraining(result),
        *result.notes,
        *caveats,
    ]
    if alike:
        limits.append(_of_order(first, alike))
    return Verdict(
        best=first.model,
        alike=tuple(rank.model for rank in alike),
        sentences=tuple(sentences),
        caveats=tuple(dict.fromkeys(limits)),
    )


def caveats_of(data: ImageDataset, *, pixels: bool = True) -> list[str]:
    """Say what about the images limits any verdict.

    Args:
        data: The images.
        pixels: Whether to decode them in search of near-duplicates between splits (sets of more
            than 5,000 images are compared by patients and files only) and of what their light and
            corners tell of the label (1,000 of them).
    """
    sizes = np.bincount(data.labels, minlength=len(data.classes))
    rare = int(sizes.argmin())
    found = []
    if sizes[rare] < FEW:
        found.append(
            f"too few images: {data.classes[rare]!r} has {sizes[rare]}; with fewer than {FEW} "
            "differences of several points are chance"
        )
    unknown = sum(not group for group in data.groups)
    if unknown:
        found.append(
            f"patients are unknown for {unknown} of {len(data)} images: if some have several, "
            "values are too high and intervals too narrow"
        )
    return [*found, *_confounders(data, pixels=pixels), *_leaks(data, pixels=pixels), *data.notes]


def _confounders(data: ImageDataset, *, pixels: bool) -> list[str]:
    """Say what else than the disease the models may have told apart."""
    from medssl_data.confounders.search import find_confounders

    found = find_confounders(data, pictures=LOOKED_AT if pixels else 0)
    return [f"{one.sentence}: a score may come from that" for one in found.ringing]


def _leaks(data: ImageDataset, *, pixels: bool) -> list[str]:
    from medssl_data.leaks import find_leaks

    if len({split for split in data.splits if split}) < 2:
        return []
    few = len(data) <= PIXELS
    counts = find_leaks(data, pixels=pixels and few).counts()
    found = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    said = []
    if found:
        said.append(
            f"leakage between splits ({found}): `medssl-data leaks` shows it; values are too high"
        )
    if pixels and not few:
        said.append(
            f"near-duplicates between splits were not looked for among {len(data)} images: "
            "`medssl-data leaks` does"
        )
    return said


def _listed(ranks: Sequence[ModelRank]) -> str:
    return ", ".join(rank.model for rank in ranks)


def _pairs(result: RankingResult, rank: ModelRank) -> list[Pair]:
    return [pair for pair in result.pairs if is_rival(pair, rank.model)]


def _headline(result: RankingResult, first: ModelRank, *, alike: bool) -> str:
    """Claim no more than was tested: others may have been left behind for want of time."""
    names = ", ".join(first.records)
    images = f"{result.images} images"
    rank = f"mean rank {first.mean_rank:.1f} of {first.ranked} over {names}"
    if first.ranked < 2:
        return f"{first.model} was measured alone on {images}: nothing to compare it with"
    if alike:
        return f"{first.model} comes first, but not clearly: {rank}, on {images}"
    if any(other.dropped and not other.beaten for other in result.ranks):
        return f"{first.model} comes first among {first.ranked} models on {images}: {rank}"
    return f"{first.model} separates these classes best: {rank}, on {images}"


def _told_apart(worse: Sequence[ModelRank]) -> list[str]:
    if not worse:
        return []
    return [f"clearly worse on the same images: {_listed(worse)}"]


def _cheapest(first: ModelRank, alike: Sequence[ModelRank]) -> list[str]:
    """Between models that are not told apart the cheaper one is the better choice."""
    if not alike:
        return []
    told = f"not told apart from it: {_listed(alike)}"
    cheap = min(alike, key=lambda rank: rank.cost.operations)
    if cheap.cost.operations < CHEAPER * first.cost.operations:
        told += (
            f"; of these {cheap.model} is cheaper, {cheap.cost.operations:.1f} against "
            f"{first.cost.operations:.1f} billion operations an image"
        )
    return [told]


def _needed(result: RankingResult, first: ModelRank, alike: Sequence[ModelRank]) -> list[str]:
    """Say how many more patients or images would tell models apart, as far as that is known."""
    asked = {rank.model: _least_needed(result, first, rank) for rank in alike}
    parts = [
        f"{model} {_rounded(pair.needed)} {pair.over} in {pair.first.experiment} instead of "
        f"{pair.difference.units}"
        for model, pair in asked.items()
        if pair is not None and pair.needed is not None
    ]
    if not parts:
        return []
    return [
        f"telling them from {first.model} at 80 % power would take, were the observed differences "
        f"the true ones: {'; '.join(parts)}"
    ]


def _least_needed(result: RankingResult, first: ModelRank, other: ModelRank) -> Pair | None:
    """Choose the pair in favour of the best that the smallest sample would prove."""
    ahead = [
        pair
        for pair in _pairs(result, other)
        if pair.first.provenance.model == first.model and pair.needed is not None
    ]
    return min(ahead, key=lambda pair: pair.needed or 0, default=None)


def _rounded(count: int | None) -> str:
    """Write two digits of a forecast: more would claim too much."""
    return f"about {int(float(f'{count or 0:.2g}')):,}"


def _of_controls(
    result: RankingResult,
    first: ModelRank,
    alike: Sequence[ModelRank],
    others: Sequence[ModelRank],
) -> list[str]:
    """Say what the untrained controls mean, and no more than the numbers do."""
    if all(rank.control for rank in (first, *others)):
        return [
            "only untrained controls are here: bring pretrained models with `medssl-models fetch "
            "NAME` or `medssl-models import NAME FILE`"
        ]
    controls = [rank for rank in (first, *alike) if rank.control]
    if not controls:
        return []
    best = controls[0]
    if best is first:
        return [
            f"the untrained control {best.model} comes first: nothing here shows that pretraining "
            "helps on these images"
        ]
    values = _values_beside(first, best)
    if _least_needed(result, first, best) is None:
        return [
            f"{first.model} is not ahead of the untrained control {best.model} ({values}): the "
            "observed difference is 0, in favour of the control, or not known over images"
        ]
    return [
        f"{first.model} comes before the untrained control {best.model} ({values}), but no test "
        "proves it, nor that they are alike"
    ]


def _values_beside(one: ModelRank, other: ModelRank) -> str:
    return ", ".join(
        f"{name} {record.value:.1f} against {other.records[name].value:.1f} {record.unit}".rstrip()
        + f" on {asked_of(record)[0]:,} images"
        for name, record in one.records.items()
    )


def _of_order(first: ModelRank, alike: Sequence[ModelRank]) -> str:
    shared = [
        name
        for name, record in first.records.items()
        if any(name in o.records and _overlap(record, o.records[name]) for o in alike)
    ]
    why = f"intervals overlap in {', '.join(shared)} and " if shared else ""
    return (
        f"the order of {first.model} and {_listed(alike)} may be chance: {why}no test over images "
        "tells them apart"
    )


def _overlap(one: Record, other: Record) -> bool | None:
    return intervals_overlap((one.ci_low, one.ci_high), (other.ci_low, other.ci_high))


def _of_chance(result: RankingResult) -> list[str]:
    """Say that nothing was learnt, where all intervals hold what the classes' shares alone give."""
    records = [record for rank in result.ranks for record in rank.records.values()]
    reached = [
        record.ci_low is None or record.ci_low <= chance
        for record in records
        if isinstance(chance := record.details.get("chance"), int | float)
    ]
    if not reached or not all(reached):
        return []
    return ["no model is shown to be above chance: all intervals begin at or below it"]


def _of_size(result: RankingResult) -> list[str]:
    if result.images == result.total:
        return []
    return [f"measured on {result.images} of {result.total} images: a larger budget uses all"]


def _of_test_parts(first: ModelRank) -> list[str]:
    """Say where a value rests on a few images, whatever the number that was used."""
    asked = {name: record.details.get("images") for name, record in first.records.items()}
    return [
        f"{name} rests on {count} test images"
        for name, count in asked.items()
        if isinstance(count, int) and count < min(FEW, first.images)
    ]


def _of_pretraining(result: RankingResult) -> list[str]:
    notes = (note for record in result.records for note in record.notes)
    return [note for note in dict.fromkeys(notes) if note.startswith("pretraining:")]


def _of_dropped(result: RankingResult) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for rank in result.ranks:
        if rank.dropped and rank.images < result.images:
            reasons.setdefault(rank.dropped, []).append(rank.model)
    return [f"skipped {', '.join(names)}: {why}" for why, names in reasons.items()]
