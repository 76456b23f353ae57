"""Seeded n-way k-shot episodes as index arrays, planned before any feature is needed.

A plan depends on labels, groups and settings only, so that every model meets the same episodes and
differences between models are paired. Evaluation is the business of `few_shot`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.errors import InfeasibleError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["DrawnUnits", "EpisodePlan", "EpisodePool", "check_plan", "draw_units", "plan_episodes"]


@dataclass(frozen=True)
class EpisodePlan:
    """Which rows serve as support and as query in each episode.

    Args:
        classes: (E, ways) int64, the label that each way stands for.
        support: (E, ways, shots) int64, row numbers.
        query: (E, ways, queries) int64, row numbers; never a row of the same episode's support.
    """

    classes: NDArray[np.int64]
    support: NDArray[np.int64]
    query: NDArray[np.int64]

    @property
    def episodes(self) -> int:
        """Number of episodes E."""
        return len(self.support)

    @property
    def ways(self) -> int:
        """Number of classes in an episode."""
        return int(self.support.shape[1])

    @property
    def shots(self) -> int:
        """Number of support images of a class."""
        return int(self.support.shape[2])

    @property
    def queries(self) -> int:
        """Number of query images of a class."""
        return int(self.query.shape[2])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the plan: records with the same one met the same episodes."""
        digest = hashlib.sha256()
        for part in (self.classes, self.support, self.query):
            digest.update(repr(part.shape).encode())
            digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class EpisodePool:
    """The rows that episodes may draw, sorted by class and unit.

    A unit is what is drawn without replacement: an image, or a patient of whom one image is drawn.

    Args:
        rows: (M,) int64, row numbers, the images of a unit side by side.
        unit_starts: (U,) int64, where a unit begins in `rows`.
        unit_sizes: (U,) int64, how many images it has.
        class_starts: (C,) int64, where a class begins among the units.
        class_sizes: (C,) int64, how many units it has.
        left_out: Images that stand in no class because their patient stands in another one.
    """

    rows: NDArray[np.int64]
    unit_starts: NDArray[np.int64]
    unit_sizes: NDArray[np.int64]
    class_starts: NDArray[np.int64]
    class_sizes: NDArray[np.int64]
    left_out: int = 0

    @classmethod
    def of(
        cls, labels: NDArray[np.int64], classes: int, *, groups: Sequence[str] | None = None
    ) -> EpisodePool:
        """Sort rows into classes and units.

        Args:
            labels: (N,) int64 in 0..classes-1; a negative label leaves the row out.
            classes: Number of classes C.
            groups: N patient names. With them an episode draws at most one image of a patient, so
                that no patient is in support and query; a patient with images of several classes
                stands for the one with the fewest images only. None treats each image as a patient
                of its own.
        """
        labels = np.asarray(labels, dtype=np.int64)
        rows = np.flatnonzero(labels >= 0)
        units = rows
        if groups is not None:
            units = np.unique(np.asarray(groups)[rows], return_inverse=True)[1]
        kept = _rows_of_one_class(labels[rows], units, classes)
        left_out = len(rows) - int(kept.sum())
        rows, units = rows[kept], units[kept]
        order = np.lexsort((rows, units, labels[rows]))
        rows, units = rows[order], units[order]
        first = np.flatnonzero(np.diff(units, prepend=-1))
        unit_labels = labels[rows[first]]
        class_sizes = np.bincount(unit_labels, minlength=classes)
        return cls(
            rows=rows,
            unit_starts=first,
            unit_sizes=np.diff(first, append=len(rows)),
            class_starts=np.cumsum(class_sizes) - class_sizes,
            class_sizes=class_sizes,
            left_out=left_out,
        )

    def twice(self) -> EpisodePool:
        """Hold every image twice, as a unit of its own each time: a query can meet its twin."""
        units = np.repeat(np.arange(len(self.unit_sizes)), 2)
        return replace(
            self,
            unit_starts=self.unit_starts[units],
            unit_sizes=self.unit_sizes[units],
            class_starts=2 * self.class_starts,
            class_sizes=2 * self.class_sizes,
        )


def check_plan(
    pool: EpisodePool,
    *,
    ways: int,
    shots: int,
    queries: int,
    episodes: int,
    names: Sequence[str] | None = None,
) -> None:
    """Say what makes episodes impossible, before the first one is drawn.

    Args:
        pool: The rows to draw from.
        ways: As for `plan_episodes`.
        shots: As for `plan_episodes`.
        queries: As for `plan_episodes`.
        episodes: As for `plan_episodes`.
        names: C class names, for messages.

    Raises:
        SettingsError: A number is out of range.
        InfeasibleError: A class has fewer units than shots + queries.
    """
    _check_settings(pool, ways=ways, shots=shots, queries=queries, episodes=episodes)
    _check_sizes(pool, shots=shots, queries=queries, names=names)


def plan_episodes(
    pool: EpisodePool,
    *,
    ways: int,
    shots: int,
    queries: int = 15,
    episodes: int = 600,
    seed: int | Sequence[int] = 0,
    names: Sequence[str] | None = None,
) -> EpisodePlan:
    """Draw episodes: distinct classes, and distinct units of each for query and support.

    Query units are drawn before support units, one position after the other, from a stream of
    their own. Plans that differ in `shots` only therefore share classes and queries, and the
    support of fewer shots is the beginning of the support of more: the cost of a shot is measured
    on the same questions. A number does not depend on which other shots were asked for.

    The study's sampler permutes the classes, permutes each class, and permutes the 35 drawn
    positions once for all classes. A uniform permutation stays uniform under any fixed reordering,
    so the law of its episodes is the law drawn here; its random stream is not reproduced.

    Args:
        pool: The rows to draw from.
        ways: Classes in an episode, 2..C.
        shots: Support images of a class, at least 1.
        queries: Query images of a class, at least 1.
        episodes: Number of episodes E, at least 1.
        seed: Entropy of the NumPy generator; equal seeds give equal plans.
        names: C class names, for messages.

    Raises:
        SettingsError: A number is out of range.
        InfeasibleError: A class has fewer units than shots + queries.
    """
    _check_settings(pool, ways=ways, shots=shots, queries=queries, episodes=episodes)
    _check_sizes(pool, shots=shots, queries=queries, names=names)
    drawn = draw_units(pool, ways=ways, count=queries + shots, episodes=episodes, seed=seed)
    return EpisodePlan(
        classes=drawn.classes,
        support=np.ascontiguousarray(drawn.rows[..., queries:]),
        query=np.ascontiguousarray(drawn.rows[..., :queries]),
    )


@dataclass(frozen=True)
class DrawnUnits:
    """Distinct units of distinct classes, drawn over and over.

    Args:
        classes: (E, ways) int64.
        units: (E, ways, count) int64, numbers of units in the pool.
        rows: (E, ways, count) int64, one image of each.
    """

    classes: NDArray[np.int64]
    units: NDArray[np.int64]
    rows: NDArray[np.int64]


def draw_units(
    pool: EpisodePool, *, ways: int, count: int, episodes: int, seed: int | Sequence[int]
) -> DrawnUnits:
    """Draw classes, units of each, and an image of each unit, from three streams.

    Args:
        pool: The rows to draw from.
        ways: Classes at a time, at most those of the pool.
        count: Units of a class, at most those of the smallest class.
        episodes: How often.
        seed: Entropy of the generators.
    """
    class_stream, unit_stream, image_stream = (
        np.random.Generator(np.random.PCG64(child))
        for child in np.random.SeedSequence(seed).spawn(3)
    )
    sizes = np.full(episodes, len(pool.class_sizes))
    classes = _draw_distinct(class_stream, sizes, ways).T
    positions = _draw_distinct(unit_stream, pool.class_sizes[classes], count)
    units = pool.class_starts[classes] + positions
    within = np.floor(image_stream.random(units.shape) * pool.unit_sizes[units]).astype(np.int64)
    return DrawnUnits(
        classes=np.ascontiguousarray(classes),
        units=np.ascontiguousarray(np.moveaxis(units, 0, -1)),
        rows=np.moveaxis(pool.rows[pool.unit_starts[units] + within], 0, -1),
    )


def _draw_distinct(
    stream: np.random.Generator, sizes: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Draw `count` distinct numbers below each entry of `sizes`, in random order.

    Each step draws the rank of one among the numbers that are still unused. With the used ones
    sorted, u_0 < u_1 < ..., exactly the u_i with u_i - i <= rank lie below the answer. Only doubles
    are taken from the stream: their order is the same in every NumPy version.

    Returns:
        (count, *sizes.shape) int64.
    """
    drawn = np.empty((count, *sizes.shape), dtype=np.int64)
    used = np.empty_like(drawn)
    for step in range(count):
        rank = np.floor(stream.random(sizes.shape) * (sizes - step)).astype(np.int64)
        offsets = np.arange(step).reshape(-1, *(1,) * sizes.ndim)
        drawn[step] = rank + np.count_nonzero(used[:step] - offsets <= rank, axis=0)
        used[step] = drawn[step]
        used[: step + 1].sort(axis=0)
    return drawn


def _rows_of_one_class(
    labels: NDArray[np.int64], units: NDArray[np.int64], classes: int
) -> NDArray[np.bool_]:
    """Mark the rows that stay when each unit stands for the rarest of its classes only."""
    rarity = np.argsort(np.argsort(np.bincount(labels, minlength=classes), kind="stable"))
    rank = rarity[labels]
    rarest = np.full(int(units.max(initial=-1)) + 1, classes)
    np.minimum.at(rarest, units, rank)
    return np.asarray(rank == rarest[units])


def _check_settings(
    pool: EpisodePool, *, ways: int, shots: int, queries: int, episodes: int
) -> None:
    for name, value in (("shots", shots), ("queries", queries), ("episodes", episodes)):
        if value < 1:
            message = f"{name} is {value}; it must be at least 1"
            raise SettingsError(message)
    available = len(pool.class_sizes)
    if available < 2:
        message = "all images are of one class; episodes need images of at least two"
        raise SettingsError(message)
    if not 2 <= ways <= available:
        message = f"ways is {ways}, but the data has {available} classes; choose 2..{available}"
        raise SettingsError(message)


def _check_sizes(
    pool: EpisodePool, *, shots: int, queries: int, names: Sequence[str] | None
) -> None:
    """Say before the first episode which classes cannot fill one, and what would help."""
    needed = shots + queries
    poor = [label for label, size in enumerate(pool.class_sizes) if size < needed]
    if not poor:
        return
    alone = len(pool.rows) == len(pool.unit_sizes) and not pool.left_out
    noun = "image" if alone else "patient"
    named = [names[label] if names is not None else str(label) for label in poor]
    counts = ", ".join(
        f"class {name!r} has {pool.class_sizes[label]} {noun}"
        + ("" if pool.class_sizes[label] == 1 else "s")
        for name, label in zip(named, poor, strict=True)
    )
    least = int(pool.class_sizes[poor].min())
    remedy = (
        f"use {least - queries} shots or fewer with {queries} queries"
        if least > queries
        else f"use fewer shots and queries ({least} together at most)"
    )
    if least < 2:
        remedy = "add images, or leave the class out"
    message = f"{counts}; {shots} shots + {queries} queries need {needed}: {remedy}"
    if pool.left_out:
        message += (
            f" ({pool.left_out} images are left out: a patient with images of several classes "
            "stands for the rarest only, unless patients are ignored)"
        )
    raise InfeasibleError(message)
