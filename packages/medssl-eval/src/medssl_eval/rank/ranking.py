"""Which backbone for these images? All models in quick experiments, within a budget of time.

Models first meet on few images. Where the whole would not fit into the budget, those that are
clearly worse are dropped, then the lower half (successive halving), and the others go on with four
times as many images. The two that lead go on together until one is clearly worse. What was dropped,
and when, is part of the answer. Words for it: `verdict`; how sure "clearly" is: `looks`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl_models.experiments.context import RunContext
from medssl_models.experiments.record_store import RecordStore
from medssl_models.experiments.registry import installed_experiments, metric_of
from medssl_models.files import write_atomically

from medssl_eval.compare.cells import gather_cells
from medssl_eval.compare.comparison import Comparer, Pair
from medssl_eval.errors import InfeasibleError
from medssl_eval.experiments.predictions import predictions_folder
from medssl_eval.rank.looks import Looks
from medssl_eval.rank.subsets import FLOOR, nested_order

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from medssl_data import ImageDataset
    from medssl_models import Experiment, Record

    from medssl_eval.rank.cost import Cost

__all__ = [
    "ModelRank",
    "Ranker",
    "RankingResult",
    "choose_experiments",
    "is_rival",
    "is_worse",
]

GROWTH = 4
ENOUGH = 1.5  # a further round must have so many times the images to be worth its time
LEADERS = 2  # are not dropped for want of time
MARGIN = 0.8  # of the time that is left may be planned: what an image takes is known roughly
Choice = tuple["Experiment", Any]  # an experiment and its settings


@dataclass(frozen=True)
class ModelRank:
    """How a model ranks.

    Args:
        model: Its one name, as in records.
        images: On how many images it was measured last.
        records: Experiment to the record that ranks.
        seconds: What that took.
        cost: What an image costs.
        dropped: Why it was not measured on more images; empty while it is in the race.
        beaten: Whether it was dropped for being clearly worse, not for want of time.
        mean_rank: Over the experiments, among the models on as many images; 1 is the best.
        ranked: How many models that were.
    """

    model: str
    images: int
    records: Mapping[str, Record]
    seconds: float
    cost: Cost
    dropped: str = ""
    beaten: bool = False
    mean_rank: float = 0.0
    ranked: int = 0

    @property
    def control(self) -> bool:
        """Whether the model is untrained."""
        return any(record.details.get("control") for record in self.records.values())

    @property
    def mean_value(self) -> float:
        """Mean over the experiments, more being better, which decides between equal ranks."""
        return statistics.fmean(metric_of(r).sign * r.value for r in self.records.values())


@dataclass(frozen=True)
class RankingResult:
    """The answer.

    Args:
        ranks: All models, best first; those on fewer images after those on more.
        pairs: The best against each model on as many images, per experiment; p-values are adjusted
            over all pairs of models and experiments.
        level: Below which an adjusted p-value is beyond chance: what earlier looks left of 5 %.
        records: Everything that was measured on the most images.
        images: How many images the best was measured on.
        total: How many images there are.
        notes: Which experiments were not possible, what could not be paired.
        seconds: What it all took.
    """

    ranks: tuple[ModelRank, ...]
    pairs: tuple[Pair, ...]
    level: float
    records: tuple[Record, ...]
    images: int
    total: int
    notes: tuple[str, ...]
    seconds: float


def choose_experiments(data: ImageDataset, *, seed: int = 0) -> tuple[list[Choice], list[str]]:
    """Choose the quick experiments that a data set can carry, each as large as it can.

    Args:
        data: The images.
        seed: Of all experiments.

    Returns:
        Each experiment with its settings, and why others are missing.

    Raises:
        InfeasibleError: No experiment is possible.

    Example:
        >>> from medssl_data import load_dataset
        >>> found, missing = choose_experiments(load_dataset("phantom:chest-xray"))
        >>> len(found), missing
        (3, [])
    """
    found: list[Choice] = []
    reasons: list[str] = []
    for experiment in installed_experiments():
        if experiment.quick is None:
            continue
        try:
            found.append((experiment, experiment.quick(data, seed)))
        except Exception as error:
            if not isinstance(getattr(error, "exit_code", None), int):
                raise
            reasons.append(str(error))
    if not found:
        why = f": {reasons[0]}" if reasons else ""
        message = f"{data.name} can carry no experiment{why}"
        raise InfeasibleError(message)
    return found, reasons


@dataclass
class Ranker:
    """Measures models on more and more images of a data set.

    Args:
        data: The images.
        models: Names, as for `create_model`; a model that is named twice counts once.
        context: How features are computed and kept, and the file that the last round's records are
            appended to.
        budget: Seconds for everything; None measures all models on all images.
        seed: Of the order of images and of all experiments.
        clock: Tells the time in seconds.

    Example:
        >>> from medssl_data import load_dataset
        >>> ranker = Ranker(load_dataset("phantom:chest-xray,count=60"), ["random_r18"])
        >>> [rank.model for rank in ranker.run().ranks]
        ['random_r18']
    """

    data: ImageDataset
    models: Sequence[str]
    context: RunContext = field(default_factory=RunContext.default)
    budget: float | None = None
    seed: int = 0
    clock: Callable[[], float] = time.monotonic
    _begin: float = 0.0
    _looks: Looks = field(init=False)
    _asked: Mapping[str, str] = field(default_factory=dict)
    _ranks: dict[str, ModelRank] = field(default_factory=dict)
    _costs: dict[str, Cost] = field(default_factory=dict)
    _records: dict[int, list[Record]] = field(default_factory=dict)
    _pairs: list[Pair] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)

    def run(self) -> RankingResult:
        """Measure, drop and go on until all images are used or the time is.

        Raises:
            UnknownModelError: A name that no model bears, before anything is computed.
            InfeasibleError: The images can carry no experiment, likewise.
            OSError: The folder of the records cannot be written, likewise.
        """
        from medssl_models.experiments.models import check_models, distinct_models
        from medssl_models.files import check_writable

        check_models(self.models)
        self._asked = distinct_models(self.models)
        choose_experiments(self.data, seed=self.seed)
        if self.context.results is not None:
            check_writable(self.context.results.parent, option="--output")
        self._begin = self.clock()
        return self._race()

    def __post_init__(self) -> None:
        self._looks = Looks(len(self.data))

    def _race(self) -> RankingResult:
        """Go on with more and more images, and keep what the last round measured."""
        order = nested_order(self.data.labels, self.data.splits, seed=self.seed)
        size = min(len(order), 2 * FLOOR * len(self.data.classes))
        alive = list(self._asked)
        with tempfile.TemporaryDirectory(prefix="medssl-rank-") as drafts:
            while alive:
                data = self.data if size == len(order) else self.data.select(sorted(order[:size]))
                results = self._place(Path(drafts), size)
                self._round(data, alive, results)
                alive, size = self._next(size)
            result = self._result()
            if result.images < result.total:
                self._publish(result, self._place(Path(drafts), result.images))
        return result

    def _place(self, drafts: Path, size: int) -> Path:
        """Where a round keeps its records: all images beside the user's results, others aside."""
        results = self.context.results
        if results is not None and size == len(self.data):
            return results
        return drafts / str(size) / self.context.results_file.name

    def _publish(self, result: RankingResult, draft: Path) -> None:
        """Keep what was measured on a part of the images, marked as such."""
        results = self.context.results
        if results is None:
            return
        note = f"measured on {result.images} of {result.total} images"
        marked = [r.model_copy(update={"notes": (*r.notes, note)}) for r in result.records]
        for file in predictions_folder(draft).glob("*"):
            write_atomically(predictions_folder(results) / file.name, file.read_bytes())
        RecordStore(results, self.context.warn).append(marked)

    def _round(self, data: ImageDataset, models: Sequence[str], results: Path) -> None:
        """Measure models on the same images, those that lead first, while there is time."""
        chosen, reasons = choose_experiments(data, seed=self.seed)
        self._notes = list(reasons)
        known = RecordStore(results, self.context.warn).refresh()
        context = replace(self.context, results=results, known=known)
        measured = 0
        for name in models:
            if measured >= LEADERS and self._is_too_late(name, len(data)):
                self._drop(models, models[measured:], f"no time left for {len(data)} images")
                break
            measured += 1
            begin = self.clock()
            found, first = self._measure(name, data, chosen, context)
            rank = ModelRank(name, len(data), first, self.clock() - begin, self._costs[name])
            self._ranks[name] = rank
            self._records.setdefault(len(data), []).extend(found)
            self.context.say(_line(rank, self.clock() - self._begin))
        if measured:
            self._order(len(data))
            self._pairs = self._against_best(len(data), results)

    def _measure(
        self, name: str, data: ImageDataset, chosen: Sequence[Choice], context: RunContext
    ) -> tuple[list[Record], dict[str, Record]]:
        """Run the experiments; also name the record of each that ranks."""
        from medssl_models.backbone import create_model
        from medssl_models.experiments.runner import measure

        from medssl_eval.rank.cost import measure_cost

        backbone = create_model(self._asked[name])
        if name not in self._costs:
            self._costs[name] = measure_cost(backbone, context.extracting)
        found: list[Record] = []
        first: dict[str, Record] = {}
        for experiment, settings in chosen:
            records = measure(experiment, backbone, data, settings=settings, context=context)
            found += records
            ranking = (record for record in records if record.metric == experiment.metrics[0].name)
            first[experiment.name] = next(ranking, records[0])
        return found, first

    def _order(self, images: int) -> None:
        """Rank the models of the newest round within each experiment, and average."""
        field_ = [rank for rank in self._ranks.values() if rank.images == images]
        for rank in field_:
            places = [_place_in(rank, field_, name) for name in rank.records]
            self._ranks[rank.model] = replace(
                rank, mean_rank=statistics.fmean(places), ranked=len(field_)
            )

    def _against_best(self, images: int, results: Path) -> list[Pair]:
        """Compare the best with each other model on as many images.

        Which model is the best these images have said, so that all pairs of all experiments are
        tested together.
        """
        ranked = self._ranked(images)
        cells = gather_cells(r for rank in ranked for r in rank.records.values())
        comparer = self._comparer(results)
        best = ranked[0].model if ranked else ""
        found = comparer.compare_together(cells, about=best)
        self._notes += comparer.notes
        return found

    def _comparer(self, results: Path) -> Comparer:
        return Comparer(results, seed=self.seed)

    def _ranked(self, images: int) -> list[ModelRank]:
        found = [rank for rank in self._ranks.values() if rank.images == images]
        return sorted(found, key=lambda rank: (rank.mean_rank, -rank.mean_value, rank.model))

    def _next(self, size: int) -> tuple[list[str], int]:
        """Decide who goes on, and with how many images; nobody where it is over."""
        total = len(self.data)
        alive = [rank.model for rank in self._ranked(size)]
        if size == total or len(alive) == 0:
            return [], size
        if self._fits(alive, total):
            return alive, total
        level = self._looks.level(size)
        worse = [name for name in alive[1:] if is_worse(name, self._pairs_of(name), level)]
        alive = self._drop(alive, worse, f"clearly worse on {size} images", beaten=True)
        if len(alive) < LEADERS:
            return [], size
        if self._fits(alive, total):
            return alive, total
        size_next = min(total, GROWTH * size)
        while len(alive) > LEADERS and not self._fits(alive, size_next, share=0.5):
            lower = alive[(len(alive) + 1) // 2 :]
            alive = self._drop(
                alive, lower, f"in the lower half on {size} images, no time for more"
            )
        if not self._fits(alive, size_next):
            size_next = int(self._affordable(alive))
        if size_next < ENOUGH * size:
            self._drop(alive, alive, f"no time for more than {size} images")
            return [], size
        return alive, size_next

    def _drop(
        self, alive: Sequence[str], who: Sequence[str], why: str, *, beaten: bool = False
    ) -> list[str]:
        for name in set(who) & set(alive):
            self._ranks[name] = replace(self._ranks[name], dropped=why, beaten=beaten)
        if set(who) != set(alive) and who:
            self.context.say(f"dropped: {', '.join(n for n in alive if n in who)} ({why})")
        return [name for name in alive if name not in who]

    def _pairs_of(self, name: str) -> list[Pair]:
        return [pair for pair in self._pairs if is_rival(pair, name)]

    def _is_too_late(self, name: str, images: int) -> bool:
        """Tell whether a model would overrun the budget; the first round is always run."""
        if self.budget is None or name not in self._ranks:
            return False
        return self._seconds([name], images) > self._left()

    def _fits(self, models: Sequence[str], images: int, *, share: float = 1.0) -> bool:
        if self.budget is None:
            return True
        return self._seconds(models, images) <= share * MARGIN * self._left()

    def _affordable(self, models: Sequence[str]) -> float:
        return MARGIN * self._left() / max(self._seconds(models, 1), 1e-9)

    def _seconds(self, models: Sequence[str], images: int) -> float:
        """Expect what the last round took, image for image."""
        rates = (self._ranks[n].seconds / self._ranks[n].images for n in models)
        return images * sum(rates)

    def _left(self) -> float:
        return (self.budget or 0.0) - (self.clock() - self._begin)

    def _result(self) -> RankingResult:
        sizes = sorted({rank.images for rank in self._ranks.values()}, reverse=True)
        images = sizes[0]
        return RankingResult(
            ranks=tuple(rank for size in sizes for rank in self._ranked(size)),
            pairs=tuple(self._pairs),
            level=self._looks.last_level(images),
            records=tuple(self._records[images]),
            images=images,
            total=len(self.data),
            notes=tuple(dict.fromkeys(self._notes)),
            seconds=self.clock() - self._begin,
        )


def is_rival(pair: Pair, model: str) -> bool:
    """Tell whether a model is one of a pair."""
    return model in {pair.first.provenance.model, pair.second.provenance.model}


def is_worse(model: str, pairs: Sequence[Pair], level: float) -> bool:
    """Tell whether a model lost all its pairs against the best, one of them beyond chance.

    Pairs over episodes decide nothing: they know nothing of other images.

    Args:
        model: Its name.
        pairs: Of the best and the model.
        level: Below which an adjusted p-value is beyond chance.
    """
    firm = [pair for pair in pairs if pair.over != "episodes"]
    if any(pair.first.provenance.model == model for pair in firm):
        return False
    return any(pair.p_adjusted < level for pair in firm)


def _place_in(rank: ModelRank, others: Sequence[ModelRank], experiment: str) -> float:
    """Place 1 is the best; ties share."""
    record = rank.records[experiment]
    sign = metric_of(record).sign
    values = [sign * other.records[experiment].value for other in others]
    own = sign * record.value
    return sum(v > own for v in values) + (sum(v == own for v in values) + 1) / 2


def _line(rank: ModelRank, seconds: float) -> str:
    values = ", ".join(f"{name} {r.value:.1f} {r.unit}" for name, r in rank.records.items())
    return f"{seconds:.0f} s: {rank.model} on {rank.images} images: {values}"
