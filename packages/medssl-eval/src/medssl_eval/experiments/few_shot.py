"""Few-shot evaluation: nearest prototype in small episodes, on features that are computed once.

The arithmetic (`count_correct`, `summarise`) takes arrays; `few_shot` joins it with a backbone and
a data set. Which images meet in an episode is decided in `episodes`.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.errors import FeatureError, InfeasibleError
from medssl_eval.experiments.episodes import EpisodePool, check_plan, plan_episodes
from medssl_eval.experiments.features import (
    SHORT_SIDE,
    SQUASH,
    collect,
    patients_of,
    prepare,
    unit_names,
)
from medssl_eval.experiments.influences import few_shot_influences
from medssl_eval.experiments.scoring import predictions_of
from medssl_eval.experiments.settings import FewShotSettings
from medssl_eval.statistics.intervals import bounded_interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Preprocessing, Record, Records, RunContext
    from medssl_models.experiments.experiment import Table
    from medssl_models.experiments.settings import ProtocolName
    from numpy.typing import NDArray
    from torch import Tensor

    from medssl_eval.experiments.episodes import EpisodePlan
    from medssl_eval.experiments.features import FeatureSet
    from medssl_eval.experiments.influences import Influences

__all__ = [
    "Summary",
    "count_correct",
    "drawable_images",
    "feasible",
    "few_shot",
    "few_shot_preprocessing",
    "few_shot_tables",
    "over_images",
    "quick_few_shot",
    "run_few_shot",
    "summarise",
]

# Both ways compute the same. Multiplications through the Gram matrix are cheap (one big product),
# gathered rows cost memory traffic: one gathered number is worth about 40 multiplications (600
# episodes of 2-way 20+15, D = 2048, one core: equal near 1,000 rows).
GATHER_COST = 40
# For a ranking: from the study's size down to the least that says anything.
EPISODES = tuple(product((20, 10, 5, 2, 1), (15, 10, 5)))
CHUNK_NUMBERS = 4_000_000  # float32 numbers in a chunk: 16 MB


@dataclass(frozen=True)
class Summary:
    """Mean accuracy over episodes, in percent.

    Args:
        mean: 0..100; 100/ways is chance.
        half_width: Of the 95 % interval over episodes, 1.96 std / sqrt(E); 0 where all episodes
            have the same accuracy, which says nothing about the next one.
        std: Standard deviation over episodes, with denominator E.
        episodes: E.
    """

    mean: float
    half_width: float
    std: float
    episodes: int

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """Both ends; None where there is none."""
        if not self.half_width:
            return None, None
        return self.mean - self.half_width, self.mean + self.half_width


def few_shot(
    backbone: Backbone,
    data: ImageDataset,
    *,
    protocol: ProtocolName = "corrected",
    settings: FewShotSettings | None = None,
    context: RunContext | None = None,
    **changes: object,
) -> Records:
    """Measure how well prototypes of a few images classify the others.

    Args:
        backbone: The network; its features are computed once for all episodes and shots.
        data: The images.
        protocol: `published` or `corrected`, where there are no settings.
        settings: Ways, shots, episodes and so on, ready made.
        context: Extraction, store and what is known already; None is the command's way.
        changes: Fields of `FewShotSettings` as keywords, such as `shots=5`.

    Returns:
        One record for each number of shots: mean accuracy in percent with its 95 % interval over
        patients (images where patients are unknown), or over episodes where the settings say so.
        `details` holds both, the correct answers of each episode, and where the influence of each
        patient lies, for paired tests.

    Raises:
        InfeasibleError: A class has fewer images than shots + queries; said before extraction.
        FeatureError: A feature is not finite.

    Example:
        >>> from medssl_data import load_dataset
        >>> from medssl_models import create_model
        >>> data = load_dataset("phantom:chest-xray").select(range(40))
        >>> records = few_shot(create_model("random_r18"), data, shots=2, queries=5, episodes=10)
        >>> records[0].metric, records[0].n
        ('accuracy', 10)
    """
    from medssl_models.experiments.runner import measure

    from medssl_eval.experiments.declarations import FEW_SHOT

    return measure(
        FEW_SHOT, backbone, data, protocol=protocol, settings=settings, context=context, **changes
    )


def run_few_shot(
    backbone: Backbone, data: ImageDataset, settings: FewShotSettings, context: RunContext
) -> list[Record]:
    """Evaluate the numbers of shots that are not known yet; see `few_shot`."""
    from medssl_models.experiments.record import record_key

    preprocessing = few_shot_preprocessing(backbone, data, settings)
    provenance = context.provenance(
        backbone, data, settings, preprocessing=preprocessing.fingerprint, split="all"
    )
    carried, left_out = _carried(data, np.arange(len(data)), settings)
    known: dict[int, Record] = {}
    for shots in carried:
        identity = context.settings_of(settings, ways=_ways(data, settings), shots=shots)
        key = record_key("few-shot", "accuracy", identity, provenance)
        if key in context.known:
            known[shots] = context.known[key]
    if len(known) < len(carried):
        features = collect(
            backbone, data, preprocessing=preprocessing, provenance=provenance, context=context
        )
        carried, left_out = _carried(data, features.rows, settings)
    else:  # what is measured now says it in its notes
        for reason in left_out:
            context.say(reason)
    found = []
    for shots in carried:
        record = known.get(shots)
        if record is None:
            made = _record(backbone, data, features, settings, shots, context)
            record = made.model_copy(update={"notes": (*made.notes, *left_out)})
        found.append(record)
    return found


def few_shot_preprocessing(
    backbone: Backbone, data: ImageDataset, settings: FewShotSettings
) -> Preprocessing:
    """Decide how an image reaches the network; the study's geometry depended on the data set."""
    return prepare(backbone, settings, geometry=_published_geometry(data))


def drawable_images(data: ImageDataset, settings: FewShotSettings) -> ImageDataset:
    """Keep the images that episodes may draw, in their order.

    Of sets that it cached, the study drew from the first images of train followed by test; no other
    is opened.
    """
    card = data.card
    if settings.pool == "all" or card is None or card.published_pool is None:
        return data
    train_first = np.argsort([split == "test" for split in data.splits], kind="stable")
    return data.select(sorted(train_first[: card.published_pool].tolist()))


def feasible(data: ImageDataset, settings: FewShotSettings) -> None:
    """Say before any image is opened whether the episodes of some number of shots can be drawn.

    Raises:
        InfeasibleError: A class has fewer images or patients than the fewest shots + queries.
        SettingsError: More ways than classes.
    """
    _carried(data, np.arange(len(data)), settings)


def _carried(
    data: ImageDataset, rows: NDArray[np.int64], settings: FewShotSettings
) -> tuple[list[int], list[str]]:
    """List the numbers of shots that these images can carry, and why the others are left out.

    Raises:
        InfeasibleError: They can carry none.
        SettingsError: More ways than classes.
    """
    pool, _ = _pool(data, rows, settings)
    carried: list[int] = []
    refused: dict[int, InfeasibleError] = {}
    for shots in settings.shots:
        try:
            check_plan(
                pool,
                ways=_ways(data, settings),
                shots=shots,
                queries=settings.queries,
                episodes=settings.episodes,
                names=data.classes,
            )
            carried.append(shots)
        except InfeasibleError as error:
            refused[shots] = error
    if not carried:
        raise refused[min(refused)]
    return carried, [f"{data.name}, {n} shots left out: {why}" for n, why in refused.items()]


def quick_few_shot(data: ImageDataset, seed: int) -> FewShotSettings:
    """Choose the largest episodes that a data set can carry, for a ranking.

    Raises:
        InfeasibleError: It can carry none.
    """
    sizes = [
        FewShotSettings(shots=(shots,), queries=queries, seed=seed) for shots, queries in EPISODES
    ]
    for settings in sizes:
        with contextlib.suppress(InfeasibleError):
            feasible(data, settings)
            return settings
    feasible(data, sizes[-1])
    return sizes[-1]


def summarise(correct: NDArray[np.int64], questions: int) -> Summary:
    """Average episodes as the study does.

    Args:
        correct: (E,) int64, queries answered correctly in each episode.
        questions: Queries of an episode, ways x queries.
    """
    accuracy = 100.0 * np.asarray(correct, dtype=np.float64) / questions
    std = float(accuracy.std())
    return Summary(
        mean=float(accuracy.mean()),
        half_width=1.96 * std / math.sqrt(len(accuracy)),
        std=std,
        episodes=len(accuracy),
    )


def count_correct(features: NDArray[np.float32], plan: EpisodePlan) -> NDArray[np.int64]:
    """Classify the queries of all episodes by the nearest prototype.

    A prototype is the plain mean of a class's support features; nearness is squared Euclidean
    distance; a tie goes to the way that was drawn first. Memory is bounded whatever N, D and E.

    Args:
        features: (N, D) float32, finite.
        plan: Row numbers in 0..N-1.

    Returns:
        (E,) int64, 0..ways x queries.

    Raises:
        FeatureError: Features are not two-dimensional or not finite.

    References:
        Snell et al., Prototypical networks for few-shot learning, 2017.
    """
    import torch
    from medssl_models.features.runtime import threads

    _check(features)
    # On matrices this small threads cost more than they bring (20 times the time on two busy
    # cores), and with one the sums have the same bits wherever they are computed.
    with torch.inference_mode(), threads(1):
        # Distances do not depend on the origin; near it the products keep their precision.
        centred = np.asarray(features, dtype=np.float32) - features.mean(axis=0, dtype=np.float32)
        rows = torch.from_numpy(centred)
        support, query = torch.from_numpy(plan.support), torch.from_numpy(plan.query)
        query = query.flatten(start_dim=1)
        scores = _gram_scores if _prefers_gram(rows, plan) else _gathered_scores
        expected = torch.arange(plan.ways).repeat_interleave(plan.queries)
        hits = [(nearest == expected).sum(dim=1) for nearest in scores(rows, support, query)]
        return np.asarray(torch.cat(hits).numpy(), dtype=np.int64)


def _record(
    backbone: Backbone,
    data: ImageDataset,
    features: FeatureSet,
    settings: FewShotSettings,
    shots: int,
    context: RunContext,
) -> Record:
    """Draw the episodes of one number of shots, evaluate them, and write down the outcome."""
    from medssl_models import Record as Result

    pool, copies = _pool(data, features.rows, settings)
    entropy = _entropy(backbone, settings)
    plan = plan_episodes(
        pool,
        ways=_ways(data, settings),
        shots=shots,
        queries=settings.queries,
        episodes=settings.episodes,
        seed=entropy,
        names=data.classes,
    )
    correct = count_correct(features.features, plan)
    questions = plan.ways * plan.queries
    summary = summarise(correct, questions)
    patients = [data.groups[row] for row in features.rows]
    influences = few_shot_influences(
        features.features,
        pool,
        unit_names(patients, [data.ids[row] for row in features.rows]),
        plan,
        correct,
        seed=entropy,
    )
    over = {"episodes": summary.interval, "images": over_images(summary, influences)}
    low, high = over[settings.interval]
    units = len(influences.units) - plan.episodes
    folder = predictions_of(context)
    return Result(
        experiment="few-shot",
        metric="accuracy",
        value=summary.mean,
        ci_low=low,
        ci_high=high,
        n=summary.episodes,
        settings=context.settings_of(settings, ways=plan.ways, shots=shots),
        details={
            "half_width": summary.half_width,
            "std": summary.std,
            "chance": 100.0 / plan.ways,
            "correct": correct.tolist(),
            "questions": questions,
            "plan": plan.fingerprint,
            "images": len(features.rows),
            "patients": len(set(patients) - {""}),
            "drawable": len(np.unique(pool.rows)),
            "copies": copies,
            "left_out": pool.left_out,
            "unreadable": len(features.unreadable),
            "intervals": {name: list(ends) for name, ends in over.items()},
            "resampled": units,
            "standard_error": influences.standard_error,
            "interval": _meaning(settings, units, patients=any(patients)),
            **({} if folder is None else {"influences": influences.save(folder)}),
        },
        notes=() if low is not None else _without_interval(summary),
        provenance=features.provenance,
    )


def few_shot_tables(records: Sequence[Record]) -> list[Table]:
    """Lay records out with both intervals, whichever one is the record's."""
    from medssl_models.experiments.cells import Labels, asked_of, best_first, newest
    from medssl_models.experiments.experiment import Table as Laid

    ordered = best_first(newest(records))
    labels = Labels.of(ordered)
    columns = ("data set", "setting", "model", "accuracy, %", "over images", "over episodes")
    rows = [
        (
            labels.dataset(record),
            labels.setting(record),
            labels.model(record),
            f"{record.value:.2f}",
            *(_ends(record, name) for name in ("images", "episodes")),
            *asked_of(record),
            record.n,
        )
        for record in ordered
    ]
    return [Laid((*columns, "images", "patients", "episodes"), rows)]


def _ends(record: Record, name: str) -> str:
    """One of a record's intervals; records of before have that over episodes only."""
    held = record.details.get("intervals")
    known = held if isinstance(held, dict) else {"episodes": [record.ci_low, record.ci_high]}
    ends = known.get(name)
    if not isinstance(ends, list) or None in ends:
        return ""
    return " to ".join(f"{end:.2f}" for end in ends)


def over_images(
    summary: Summary, influences: Influences
) -> tuple[float, float] | tuple[None, None]:
    """The interval over patients; the rarest class decides what none of them shows."""
    if summary.episodes == 1:  # how far another episode lies is not known
        return None, None
    sizes = np.unique(influences.strata[influences.strata >= 0], return_counts=True)[1]
    return bounded_interval(
        summary.mean,
        influences.standard_error,
        influences.freedom,
        units=int(len(sizes) * sizes.min()),
    )


def _meaning(settings: FewShotSettings, units: int, *, patients: bool) -> str:
    """Say in a line what the interval covers."""
    if settings.interval == "episodes":
        return f"over the draw of {settings.episodes} episodes, given these images"
    return f"over {units} {'patients' if patients else 'images'}, support and queries alike"


def _without_interval(summary: Summary) -> tuple[str, ...]:
    """Say why there is none: a width of 0 would claim that the mean is known exactly."""
    alike = (
        "the only episode" if summary.episodes == 1 else f"all {summary.episodes} episodes alike"
    )
    return (f"no interval: {alike}, accuracy {summary.mean:.2f} %; more episodes give one",)


def _pool(
    data: ImageDataset, rows: NDArray[np.int64], settings: FewShotSettings
) -> tuple[EpisodePool, int]:
    """Sort the images that may be drawn; numbers in the pool are positions in `rows`.

    Returns:
        The pool, and how often each image stands in it.
    """
    groups = patients_of(
        [data.groups[row] for row in rows], separate=settings.patients == "separate"
    )
    pool = EpisodePool.of(data.labels[rows], len(data.classes), groups=groups)
    twins = data.card is not None and data.card.published_duplicates
    if twins and settings.duplicate_images == "published":
        return pool.twice(), 2
    return pool, 1


def _ways(data: ImageDataset, settings: FewShotSettings) -> int:
    classes = len(data.classes)
    if settings.ways == "all":
        return classes
    if settings.ways == "published":
        # Asked for more ways than classes, the study's sampler took all classes.
        return min(2 if data.card is None else data.card.ways, classes)
    return settings.ways


def _published_geometry(data: ImageDataset) -> Mapping[str, object]:
    cached = data.card is not None and data.card.published_geometry == "short-side"
    return SHORT_SIDE if cached else SQUASH


def _entropy(backbone: Backbone, settings: FewShotSettings) -> list[int]:
    """Seed the plan: with one list for all models, or with one for each architecture."""
    if settings.episode_list == "fixed":
        return [settings.seed]
    return [settings.seed, *backbone.card.architecture.encode()]


def _prefers_gram(rows: Tensor, plan: EpisodePlan) -> bool:
    count, dim = rows.shape
    prototypes = plan.episodes * plan.ways
    multiplications = count * count * (dim + prototypes)
    gathered = prototypes * (plan.shots + plan.queries) * dim
    return multiplications < GATHER_COST * gathered


def _gram_scores(rows: Tensor, support: Tensor, query: Tensor) -> Iterator[Tensor]:
    """Yield the nearest way of each query, from inner products between rows only.

    A prototype is a row of averaging weights w over images. With the Gram matrix G, its inner
    product with every image is w G, and its squared norm is w G w.
    """
    import torch

    count = len(rows)
    _, ways, shots = support.shape
    gram = rows @ rows.T
    step = max(1, CHUNK_NUMBERS // (ways * count))
    for chosen, asked in zip(torch.split(support, step), torch.split(query, step), strict=True):
        weights = torch.zeros(len(chosen) * ways, count)
        # Twins, where a set holds images twice, add up.
        weights.scatter_add_(
            1, chosen.reshape(-1, shots), torch.full((len(weights), shots), 1 / shots)
        )
        products = weights @ gram
        norms = (products * weights).sum(dim=1).view(-1, ways, 1)
        wanted = asked[:, None].expand(-1, ways, -1)
        met = products.view(-1, ways, count).gather(2, wanted)
        yield (norms - 2 * met).min(dim=1).indices


def _gathered_scores(rows: Tensor, support: Tensor, query: Tensor) -> Iterator[Tensor]:
    """Yield the nearest way of each query, from gathered features, a few episodes at a time."""
    import torch

    _, ways, shots = support.shape
    step = max(1, CHUNK_NUMBERS // ((query.shape[1] + ways) * rows.shape[1]))
    for chosen, asked in zip(torch.split(support, step), torch.split(query, step), strict=True):
        means = torch.nn.functional.embedding_bag(chosen.reshape(-1, shots), rows, mode="mean")
        prototypes = means.view(len(chosen), ways, -1)
        products = torch.bmm(prototypes, rows[asked].transpose(1, 2))
        norms = prototypes.square().sum(dim=2, keepdim=True)
        yield (norms - 2 * products).min(dim=1).indices


def _check(features: NDArray[np.float32]) -> None:
    if features.ndim != 2 or not features.size:
        message = f"features have shape {features.shape}; (N, D) is needed, with N and D above 0"
        raise FeatureError(message)
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(broken):
        message = (
            f"features of {len(broken)} of {len(features)} images are NaN or infinite, "
            f"the first in row {broken[0]}; extract them again with force, or leave the image out"
        )
        raise FeatureError(message)
