"""What each patient contributes to few-shot accuracy, which is no mean over images.

An image is asked in some episodes and supports others, so that episodes are not independent, and
their number says nothing about how well an accuracy carries over to other patients. Leaving out one
patient after the other does. The influences of a record lie beside its results file, with the
predictions of other experiments; its `details["influences"]` names the file and the digest of what
it holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.errors import PredictionsError
from medssl_eval.experiments.episodes import draw_units
from medssl_eval.experiments.predictions import digest, read_arrays, read_kept, write_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from medssl_models import Record
    from numpy.typing import NDArray
    from torch import Tensor

    from medssl_eval.experiments.episodes import DrawnUnits, EpisodePlan, EpisodePool

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = ["Influences", "few_shot_influences", "read_influences"]

# A unit's part in supports is a mean over the draws that hold it; the noise of too few draws is
# subtracted, so that their number decides how exact the interval is, not how wide. The noise grows
# with the share of a class that a support takes, and the draws with it.
DRAWS_PER_UNIT, FEWEST_DRAWS, MOST_DRAWS = 10, 2_000, 5_000
MOST_CROWDED = 4
ASKED = 2_000  # units asked in a draw at most
CHUNK_NUMBERS = 4_000_000  # float32 numbers in a chunk: 16 MB
FORMAT = 1
_ARRAYS = ("format", "units", "strata", "values", "plan")


@dataclass(frozen=True, eq=False)
class Influences:
    """By how much each independent unit moves an estimate.

    The sum of the squares is the variance of the estimate, the factor n / (n - 1) of each stratum
    included. Influences of one plan subtract: those of a difference between two models are the
    differences, unit by unit, and their squares add up to the variance of the difference.

    Args:
        units: U names, each once: patients, or images where patients are unknown. Where the
            estimate is a mean over episodes, which are drawn at random too, each of them is a unit.
        values: (U,) float64, in the unit of the record's value; they sum to 0 in each stratum.
        strata: (U,) int64, units of one number were drawn from one class (or are episodes).
        plan: Records with equal plans asked the same units in the same way.

    Raises:
        PredictionsError: Columns of different lengths, or a unit that occurs twice.

    Example:
        >>> one = Influences(("anna", "ben"), np.array([0.3, -0.3]), np.zeros(2, int), "plan")
        >>> other = Influences(("ben", "anna"), np.array([0.1, -0.1]), np.zeros(2, int), "plan")
        >>> (one - other).values.round(3).tolist(), round((one - other).standard_error, 3)
        ([0.4, -0.4], 0.566)
    """

    units: tuple[str, ...]
    values: Floats
    strata: NDArray[np.int64]
    plan: str

    def __post_init__(self) -> None:
        lengths = {len(self.units), len(self.values), len(self.strata)}
        if len(lengths) > 1 or len(set(self.units)) < len(self.units):
            message = (
                f"influences: {len(self.units)} units, {len(self.values)} values and "
                f"{len(self.strata)} strata; give one of each, and name each unit once"
            )
            raise PredictionsError(message)

    def __sub__(self, other: Influences) -> Influences:
        """Influences on the difference of two estimates.

        Raises:
            PredictionsError: Another plan, or other units.
        """
        if self.plan != other.plan or set(self.units) != set(other.units):
            message = "influences of different plans cannot be paired"
            raise PredictionsError(message)
        place = {name: row for row, name in enumerate(other.units)}
        theirs = other.values[[place[name] for name in self.units]]
        return Influences(self.units, self.values - theirs, self.strata, self.plan)

    @property
    def standard_error(self) -> float:
        """Of the estimate, in the unit of the values."""
        return math.sqrt(float(np.square(self.values).sum()))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of that standard error, for Student's t; infinite where it is 0.

        The sum of squares of a stratum of n units varies as if they were normal, or, where a few
        units bear most of it (the few errors of a model that is nearly always right), as their
        fourth powers say.

        References:
            Satterthwaite, An approximate distribution of estimates of variance components, 1946.
        """
        strata = np.unique(self.strata, return_inverse=True)[1]
        counts, squares = np.bincount(strata), np.square(self.values)
        parts, fourth = (np.bincount(strata, weights=power) for power in (squares, squares**2))
        normal = 2 * parts**2 / np.maximum(counts - 1, 1)
        noise = float(np.maximum(normal, fourth - parts**2 / counts).sum())
        return max(2 * float(parts.sum()) ** 2 / noise, 1.0) if noise else math.inf

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything, 64 hex digits; the order of the units counts."""
        numbers = (self.values.astype("<f8"), self.strata.astype("<i8"))
        return digest((self.plan, *self.units), b"".join(part.tobytes() for part in numbers))

    def save(self, folder: Path) -> dict[str, object]:
        """Write a file whose name is its content, unless it is there; no half file is ever seen.

        Args:
            folder: See `predictions_folder`; created.

        Returns:
            What a record keeps as `details["influences"]`: `file` relative to the results file's
            folder, and `sha256` (the fingerprint).

        Raises:
            OSError: The file cannot be written.
        """
        arrays = {
            "format": np.array(FORMAT),
            "units": np.array(self.units),
            "strata": self.strata,
            "values": self.values,
            "plan": np.array(self.plan),
        }
        return write_arrays(folder, self.fingerprint, arrays)

    @classmethod
    def load(cls, path: Path) -> Influences:
        """Read what `save` wrote; nothing in the file is run.

        Raises:
            PredictionsError: There is no such file, or it holds something else.
        """
        arrays = read_arrays(path, _ARRAYS, "influences", FORMAT)
        return cls(
            units=tuple(arrays["units"].tolist()),
            values=np.asarray(arrays["values"], np.float64),
            strata=np.asarray(arrays["strata"], np.int64),
            plan=str(arrays["plan"]),
        )


def read_influences(record: Record, results: Path) -> Influences:
    """Read the influences behind a record, and make sure that they are those.

    Args:
        record: From `results`.
        results: The results file; influences lie in its folder.

    Raises:
        PredictionsError: The record keeps none, or the file is missing or another one.
    """
    return read_kept(record, results, "influences", Influences.load)


def few_shot_influences(
    features: NDArray[np.float32],
    pool: EpisodePool,
    names: Sequence[str],
    plan: EpisodePlan,
    correct: Integers,
    *,
    seed: Sequence[int],
) -> Influences:
    """Estimate by how much each patient moves a mean accuracy over episodes.

    The accuracy is a U-statistic: the mean, over all supports of the pool, of the share of the
    other units that is classified rightly. Supports are drawn, all units that are not in one are
    asked, and the mean without a unit is that over the draws without it in the support, the unit
    not asked either. With U the mean, n units and k shots of a class, and C classes of which w are
    drawn, leaving out unit i moves the mean by

        w / C (k / (n - k) (U_i - U) + g_i / (w (n - k)))

    where U_i is the mean over supports that hold i, U that over all supports of its class, and g_i
    whether i is right where it is asked, less the share of the others of its class.
    Influences of one patient's units add up. What the noise of finitely many draws adds to the
    first term's squares is taken off. The episodes that were drawn for the record's value are
    units too.

    Args:
        features: (N, D) float32.
        pool: What episodes draw from; row numbers in 0..N-1.
        names: N names of independent units, one for each row: patient, else image.
        plan: The episodes behind the value.
        correct: (E,) how many queries of each were classified rightly.
        seed: Entropy of the draws; models that are compared need equal ones.

    References:
        Hoeffding, A class of statistics with asymptotically normal distribution, 1948; Arvesen,
        Jackknifing U-statistics, 1969; Efron, Jackknife-after-bootstrap standard errors and
        influence functions, 1992 (leaving out without drawing anew); Wager, Hastie and Efron,
        Confidence intervals for random forests, 2014 (the noise of finitely many draws).
    """
    moved = 100.0 * _left_out(features, pool, ways=plan.ways, shots=plan.shots, seed=seed)
    accuracies = 100.0 * correct / (plan.ways * plan.queries)
    owners, first, unit = np.unique(
        np.asarray(names)[pool.rows[pool.unit_starts]], return_index=True, return_inverse=True
    )
    strata = _class_of(pool)[first]
    own = np.bincount(unit, weights=moved)
    count = np.bincount(strata, minlength=len(pool.class_sizes))[strata]
    own *= np.sqrt(count / np.maximum(count - 1, 1))
    episodes = len(accuracies)
    drawn = (accuracies - accuracies.mean()) / math.sqrt(episodes * max(episodes - 1, 1))
    return Influences(
        units=(*owners.tolist(), *(f"episode {number}" for number in range(episodes))),
        values=np.concatenate([own, drawn]),
        strata=np.concatenate([strata, np.full(episodes, -1)]),
        plan=plan.fingerprint,
    )


def _left_out(
    features: NDArray[np.float32],
    pool: EpisodePool,
    *,
    ways: int,
    shots: int,
    seed: Sequence[int],
) -> Floats:
    """By how much leaving out each unit of the pool moves the accuracy 0..1; 0 in each class."""
    of_class, sizes = _class_of(pool), pool.class_sizes
    crowded = min(float((sizes / (sizes - shots)).max()), MOST_CROWDED)
    draws = int(crowded * np.clip(DRAWS_PER_UNIT * len(of_class), FEWEST_DRAWS, MOST_DRAWS))
    drawn = draw_units(pool, ways=ways, count=shots, episodes=draws, seed=[*seed, 1])
    asked = _ask(features, pool, drawn, np.random.default_rng([*seed, 2]))
    share = ways / len(sizes)
    moved = np.zeros(len(of_class))
    for label, size in enumerate(sizes.tolist()):
        members = of_class == label
        held = asked.accuracies[(drawn.classes == label).any(axis=1)]
        if not len(held):
            continue
        times = np.maximum(asked.times_in[members], 1)
        reach = share * shots / (size - shots)
        support = reach * (asked.sums_in[members] - asked.times_in[members] * held.mean()) / times
        noise = reach**2 * held.var() * (1 - shots / size) * float((1 / times).sum())
        support *= _without_noise(float(np.square(support).sum()), noise)
        query = asked.gaps[members] / np.maximum(asked.times_out[members], 1)
        query *= share / (ways * (size - shots))
        moved[members] = support - support.mean() + query - query.mean()
    return moved


def _without_noise(total: float, noise: float) -> float:
    return math.sqrt(max(total - noise, 0.0) / total) if total else 1.0


@dataclass(frozen=True)
class _Asked:
    """Sums over the draws.

    Args:
        accuracies: (B,) over the units that are asked, less the mean of draws that ask the same.
        sums_in: (U,) accuracies of the draws that hold a unit in the support, summed.
        times_in: (U,) how many they are.
        gaps: (U,) right or wrong, less the share of its class's others, summed where asked.
        times_out: (U,) how often it was asked beside others of its class.
    """

    accuracies: Floats
    sums_in: Floats
    times_in: Floats
    gaps: Floats
    times_out: Floats


def _ask(
    features: NDArray[np.float32],
    pool: EpisodePool,
    drawn: DrawnUnits,
    generator: np.random.Generator,
) -> _Asked:
    """Let the prototypes of each draw classify all units, or a sample of them, of its classes."""
    import torch
    from medssl_models.features.runtime import threads

    of_class, count, classes = _class_of(pool), len(pool.unit_sizes), len(pool.class_sizes)
    gaps, times_out, accuracies = np.zeros(count), np.zeros(count), []
    with torch.inference_mode(), threads(1):
        rows = _isometric(features - features.mean(axis=0, dtype=np.float32), len(pool.rows))
        for chunk, asked in _chunks(drawn, pool, rows.shape[1], generator):
            images, owner = _images_of(pool, asked)
            prototypes = torch.nn.functional.embedding_bag(
                torch.from_numpy(drawn.rows[chunk].reshape(-1, drawn.rows.shape[2])),
                rows,
                mode="mean",
            )
            right = _right(prototypes, rows[images], drawn.classes[chunk], of_class[asked][owner])
            units = torch.zeros(len(right), len(asked)).index_add_(
                1, torch.from_numpy(owner), right
            )
            out = _outside(drawn.classes[chunk], drawn.units[chunk], of_class, asked)
            shares = units.numpy() / pool.unit_sizes[asked].astype(np.float32) * out
            member = np.eye(classes, dtype=np.float32)[of_class[asked]]
            counts = out @ member
            means = shares @ member / np.maximum(counts, 1)
            found = means.sum(axis=1) / drawn.classes.shape[1]
            # Which units are asked moves all draws of a chunk alike: it is no noise between them.
            accuracies.append(found - found.mean())
            beside = (counts > 1).astype(np.float32)
            without = beside * counts / np.maximum(counts - 1, 1)
            own = of_class[asked], np.arange(len(asked))
            gaps[asked] += (without.T @ shares - (without * means).T @ out)[own]
            times_out[asked] += (beside.T @ out)[own]
    found = np.concatenate(accuracies).astype(np.float64)
    held = drawn.units.reshape(len(found), -1)
    shared = np.bincount(held.ravel(), weights=np.repeat(found, held.shape[1]), minlength=count)
    return _Asked(
        accuracies=found,
        sums_in=np.asarray(shared, np.float64),
        times_in=np.bincount(held.ravel(), minlength=count).astype(np.float64),
        gaps=gaps,
        times_out=times_out,
    )


def _isometric(features: NDArray[np.float32], drawable: int) -> Tensor:
    """Return rows with the same distances, in no more dimensions than there are rows."""
    import torch

    rows = torch.from_numpy(features)
    if drawable > ASKED or len(rows) >= rows.shape[1]:
        return rows
    triangle: Tensor = torch.linalg.qr(rows.T, mode="r").R
    return triangle.T.contiguous()


def _chunks(
    drawn: DrawnUnits, pool: EpisodePool, width: int, generator: np.random.Generator
) -> Iterator[tuple[slice, Integers]]:
    """Yield some draws at a time, and which units they ask: as many of each class."""
    ways, draws = drawn.classes.shape[1], len(drawn.classes)
    most = max(ASKED // len(pool.class_sizes), drawn.units.shape[2] + 1)
    asked = int(np.minimum(pool.class_sizes, most).sum())
    step = max(100, CHUNK_NUMBERS // (ways * (asked + width)))
    for begin in range(0, draws, step):
        chosen = [
            start + np.sort(generator.permutation(size)[:most])
            for start, size in zip(pool.class_starts, pool.class_sizes, strict=True)
        ]
        yield slice(begin, begin + step), np.concatenate(chosen)


def _images_of(pool: EpisodePool, units: Integers) -> tuple[Integers, Integers]:
    """Row numbers of all images of some units, and to which of them each belongs."""
    sizes = pool.unit_sizes[units]
    owner = np.repeat(np.arange(len(units)), sizes)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return pool.rows[pool.unit_starts[units][owner] + within], owner


def _right(prototypes: Tensor, images: Tensor, classes: Integers, labels: Integers) -> Tensor:
    """Tell which images (draws, images) the nearest prototype classifies rightly, as 0 and 1."""
    import torch

    draws, ways = classes.shape
    scores = (prototypes.square().sum(dim=1)[:, None] - 2 * prototypes @ images.T).view(
        draws, ways, -1
    )
    nearest = torch.gather(torch.from_numpy(classes), 1, scores.min(dim=1).indices)
    return (nearest == torch.from_numpy(labels)).to(torch.float32)


def _outside(
    classes: Integers, support: Integers, of_class: Integers, asked: Integers
) -> NDArray[np.float32]:
    """Tell by 1 which units (draws, asked) are of a drawn class and not in the support."""
    draws = np.arange(len(classes))[:, None]
    present = np.zeros((len(classes), int(of_class.max()) + 1), dtype=bool)
    present[draws, classes] = True
    inside = np.zeros((len(classes), len(of_class)), dtype=bool)
    inside[draws, support.reshape(len(classes), -1)] = True
    return (present[:, of_class[asked]] & ~inside[:, asked]).astype(np.float32)


def _class_of(pool: EpisodePool) -> Integers:
    """(U,) the class of each unit."""
    return np.repeat(np.arange(len(pool.class_sizes)), pool.class_sizes)
