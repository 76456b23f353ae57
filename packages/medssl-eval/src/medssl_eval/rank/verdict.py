"""What a ranking means, in plain words, and what must be known before anyone relies on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.rank.ranking import is_rival, is_worse
from medssl_eval.statistics.intervals import intervals_overlap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_data import ImageDataset
    from medssl_models import Record

    from medssl_eval.compare.comparison import Pair
    from medssl_eval.rank.ranking import Outcome, Standing

__all__ = ["Verdict", "caveats_of", "judge"]

FEW = 100
"""Images of the rarest class below which an interval of a share is wider than +-10 points."""
PIXELS = 5000
"""Images up to which near-duplicates between splits are looked for: one pass of decoding."""


@dataclass(frozen=True)
class Verdict:
    """The answer in sentences.

    Attributes:
        best: The first model.
        alike: Models that no test tells apart from it.
        sentences: What to do, and why.
        caveats: What limits it.
    """

    best: str
    alike: tuple[str, ...]
    sentences: tuple[str, ...]
    caveats: tuple[str, ...]


def judge(outcome: Outcome, caveats: Sequence[str] = ()) -> Verdict:
    """Put an outcome into words.

    Args:
        outcome: What was measured.
        caveats: Of the data; see `caveats_of`.
    """
    first, *others = outcome.standings
    rivals = [standing for standing in others if standing.images == first.images]
    worse = [s for s in rivals if is_worse(s.model, _pairs(outcome, s))]
    alike = [standing for standing in rivals if standing not in worse]
    sentences = [
        _headline(outcome, first, alike=bool(alike)),
        *_told_apart(worse),
        *_cheapest(first, alike),
        *_of_controls(first, alike, others),
    ]
    limits = [
        *_of_size(outcome),
        *_of_dropped(outcome),
        *_of_pretraining(outcome),
        *outcome.notes,
        *caveats,
    ]
    if alike:
        limits.append(_of_order(first, alike))
    return Verdict(
        best=first.model,
        alike=tuple(standing.model for standing in alike),
        sentences=tuple(sentences),
        caveats=tuple(dict.fromkeys(limits)),
    )


def caveats_of(data: ImageDataset, *, pixels: bool = True) -> list[str]:
    """Say what about the images limits any verdict.

    Args:
        data: The images.
        pixels: Whether to decode them in search of near-duplicates between splits; sets of more
            than 5,000 images are compared by patients and files only.
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
    return [*found, *_leaks(data, pixels=pixels), *data.notes]


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


def _listed(standings: Sequence[Standing]) -> str:
    return ", ".join(standing.model for standing in standings)


def _pairs(outcome: Outcome, standing: Standing) -> list[Pair]:
    return [pair for pair in outcome.pairs if is_rival(pair, standing.model)]


def _headline(outcome: Outcome, first: Standing, *, alike: bool) -> str:
    """Claim no more than was tested: others may have been left behind for want of time."""
    names = ", ".join(first.records)
    images = f"{outcome.images} images"
    rank = f"mean rank {first.mean_rank:.1f} of {first.ranked} over {names}"
    if first.ranked < 2:
        return f"{first.model} was measured alone on {images}: nothing to compare it with"
    if alike:
        return f"{first.model} comes first, but not clearly: {rank}, on {images}"
    if any(other.dropped and not other.beaten for other in outcome.standings):
        return f"{first.model} comes first among {first.ranked} models on {images}: {rank}"
    return f"{first.model} separates these classes best: {rank}, on {images}"


def _told_apart(worse: Sequence[Standing]) -> list[str]:
    if not worse:
        return []
    return [f"clearly worse on the same images: {_listed(worse)}"]


def _cheapest(first: Standing, alike: Sequence[Standing]) -> list[str]:
    """Between models that are not told apart the cheaper one is the better choice."""
    if not alike:
        return []
    told = f"not told apart from it: {_listed(alike)}"
    cheap = min(alike, key=lambda standing: standing.cost.milliseconds)
    if cheap.cost.milliseconds < 0.8 * first.cost.milliseconds:
        told += (
            f"; of these {cheap.model} is cheaper, {cheap.cost.milliseconds:.1f} against "
            f"{first.cost.milliseconds:.1f} ms an image"
        )
    return [told]


def _of_controls(
    first: Standing, alike: Sequence[Standing], others: Sequence[Standing]
) -> list[str]:
    if all(standing.control for standing in (first, *others)):
        return [
            "only untrained controls are here: bring pretrained models with `medssl-models fetch "
            "NAME` or `medssl-models import NAME FILE`"
        ]
    equals = [standing.model for standing in alike if standing.control]
    if first.control or equals:
        who = first.model if first.control else equals[0]
        return [
            f"the untrained control {who} does as well: nothing here shows that pretraining helps "
            "on these images"
        ]
    return []


def _of_order(first: Standing, alike: Sequence[Standing]) -> str:
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


def _of_size(outcome: Outcome) -> list[str]:
    if outcome.images == outcome.total:
        return []
    return [
        f"measured on {outcome.images} of {outcome.total} images: a larger --budget uses all of "
        "them"
    ]


def _of_pretraining(outcome: Outcome) -> list[str]:
    notes = (note for record in outcome.records for note in record.notes)
    return [note for note in dict.fromkeys(notes) if note.startswith("pretraining:")]


def _of_dropped(outcome: Outcome) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for standing in outcome.standings:
        if standing.dropped and standing.images < outcome.images:
            reasons.setdefault(standing.dropped, []).append(standing.model)
    return [f"skipped {', '.join(names)}: {why}" for why, names in reasons.items()]
