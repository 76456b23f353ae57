"""The quick experiments that a ranking is made of, with settings that the data can carry."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, TypeVar

from medssl_eval.errors import InfeasibleError
from medssl_eval.experiments.few_shot import feasible, few_shot
from medssl_eval.experiments.knn import foldable, knn
from medssl_eval.experiments.linear import linear, separable
from medssl_eval.experiments.settings import FewShotSettings, KnnSettings, LinearSettings, preset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Record

    from medssl_eval.experiments.features import Means

__all__ = ["Probe", "probes_for"]

S = TypeVar("S")
# From the study's size down to the least that says anything.
EPISODES = tuple(product((20, 10, 5, 2, 1), (15, 10, 5)))
FOLDS = (5, 3, 2)


@dataclass(frozen=True)
class Probe:
    """One experiment, ready to run.

    Attributes:
        name: As in records.
        evaluate: Gives the records of a model; the first one's metric is the one that ranks.
    """

    name: str
    evaluate: Callable[[Backbone, ImageDataset, Means], list[Record]]


def probes_for(data: ImageDataset, *, seed: int = 0) -> tuple[list[Probe], list[str]]:
    """Choose the experiments that a data set can carry, largest episodes and most folds first.

    Args:
        data: The images.
        seed: Of all experiments.

    Returns:
        The probes, and why one is missing.

    Raises:
        InfeasibleError: No experiment is possible.
    """
    from medssl_data.errors import DataError

    found: list[Probe] = []
    reasons: list[str] = []
    for choose in (_few_shot, _linear, _knn):
        try:
            found.append(choose(data, seed))
        except (InfeasibleError, DataError) as error:
            reasons.append(str(error))
    if not found:
        message = f"{data.name} can carry no experiment: {reasons[0]}"
        raise InfeasibleError(message)
    return found, reasons


def _few_shot(data: ImageDataset, seed: int) -> Probe:
    sizes = [
        preset(FewShotSettings, shots=(shots,), queries=queries, seed=seed)
        for shots, queries in EPISODES
    ]
    settings = _first_that_fits(sizes, lambda size: feasible(data, size))
    return Probe(
        "few-shot",
        lambda backbone, source, means: few_shot(backbone, source, settings=settings, means=means),
    )


def _knn(data: ImageDataset, seed: int) -> Probe:
    # Two folds leave none to choose the number of neighbours on.
    sizes = [
        preset(KnnSettings, folds=folds, neighbours=None if folds > 2 else 5, seed=seed)
        for folds in FOLDS
    ]
    settings = _first_that_fits(sizes, lambda size: foldable(data, size))
    return Probe(
        "knn", lambda backbone, source, means: knn(backbone, source, settings=settings, means=means)
    )


def _linear(data: ImageDataset, seed: int) -> Probe:
    settings = preset(LinearSettings, seed=seed)
    separable(data, settings)
    return Probe(
        "linear",
        lambda backbone, source, means: linear(backbone, source, settings=settings, means=means),
    )


def _first_that_fits(sizes: Sequence[S], check: Callable[[S], None]) -> S:
    """Give the first settings that pass; where none do, the last one's error is the user's."""
    for settings in sizes[:-1]:
        with contextlib.suppress(InfeasibleError):
            check(settings)
            return settings
    check(sizes[-1])
    return sizes[-1]
