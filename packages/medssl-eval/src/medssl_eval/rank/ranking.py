"""Which backbone for these images? All models in quick experiments, within a budget of time.

Models first meet on few images. Where the whole would not fit into the budget, those that are
clearly worse are dropped, then the lower half (successive halving), and the others go on with four
times as many images. The two that lead go on together, so that the answer rests on a test on the
most images; it is over where the rival was clearly worse twice. What was dropped, and when, is part
of the answer. Words for it: `verdict`.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medssl_eval.compare.cells import gather_cells, higher_is_better
from medssl_eval.compare.comparison import Comparer, Pair
from medssl_eval.experiments.features import Means
from medssl_eval.experiments.predictions import predictions_folder
from medssl_eval.experiments.subsets import FLOOR, nested_order
from medssl_eval.rank.quick_experiments import probes_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medssl_data import ImageDataset
    from medssl_models import Record

    from medssl_eval.rank.cost import Cost

__all__ = ["Contest", "Outcome", "Standing", "available_models", "is_rival", "is_worse"]

GROWTH = 4
LEVEL = 0.05
ENOUGH = 1.5  # a further round must have so many times the images to be worth its time
LEADERS = 2  # are never dropped before the end
MARGIN = 0.8  # of the time that is left may be planned: what an image takes is known roughly
Say = Callable[[str], None]


@dataclass(frozen=True)
class Standing:
    """How a model stands.

    Attributes:
        model: Its name.
        images: On how many images it was measured last.
        records: Experiment to the record that ranks.
        seconds: What that took.
        cost: What an image costs.
        control: Whether it is untrained.
        dropped: Why it was not measured on more images; empty while it is in the contest.
        beaten: Whether it was dropped for being clearly worse, not for want of time.
        mean_rank: Over the experiments, among the models on as many images; 1 is the best.
        ranked: How many models that were.
    """

    model: str
    images: int
    records: Mapping[str, Record]
    seconds: float
    cost: Cost
    control: bool
    dropped: str = ""
    beaten: bool = False
    mean_rank: float = 0.0
    ranked: int = 0

    @property
    def mean_value(self) -> float:
        """Mean over the experiments, which decides between equal ranks."""
        return statistics.fmean(record.value for record in self.records.values())


@dataclass(frozen=True)
class Outcome:
    """The answer.

    Attributes:
        standings: All models, best first; those on fewer images after those on more.
        pairs: The best against each model on as many images, per experiment, Holm-corrected.
        records: Everything that was measured on the most images.
        images: How many images the best was measured on.
        total: How many images there are.
        notes: Which experiments were not possible, what could not be paired.
        seconds: What it all took.
    """

    standings: tuple[Standing, ...]
    pairs: tuple[Pair, ...]
    records: tuple[Record, ...]
    images: int
    total: int
    notes: tuple[str, ...]
    seconds: float


def available_models() -> list[str]:
    """Name every model that can be created now: the local library's, and the controls."""
    from medssl_models import list_models
    from medssl_models.hub.library import is_imported

    return [card.name for card in list_models() if is_imported(card)]


@dataclass
class Contest:
    """Measures models on more and more images of a data set.

    Attributes:
        data: The images.
        models: Names.
        means: How features are computed and kept.
        budget: Seconds for everything; None measures all models on all images.
        results: The file that the last round's records are appended to; None keeps none.
        seed: Of the order of images and of all experiments.
        say: Takes notes on how far it is.
        clock: Gives seconds.
    """

    data: ImageDataset
    models: Sequence[str]
    means: Means = field(default_factory=Means)
    budget: float | None = None
    results: Path | None = None
    seed: int = 0
    say: Say = lambda _: None
    clock: Callable[[], float] = time.monotonic
    _begin: float = 0.0
    _standings: dict[str, Standing] = field(default_factory=dict)
    _costs: dict[str, Cost] = field(default_factory=dict)
    _records: dict[int, list[Record]] = field(default_factory=dict)
    _pairs: list[Pair] = field(default_factory=list)
    _settled: int = 0
    _notes: list[str] = field(default_factory=list)

    def run(self) -> Outcome:
        """Measure, drop and go on until all images are used or the time is.

        Raises:
            UnknownModelError: A name that no model bears, before anything is computed.
            InfeasibleError: The images can carry no experiment, likewise.
        """
        from medssl_models.experiments.models import check_models

        check_models(self.models)
        probes_for(self.data, seed=self.seed)
        self._begin = self.clock()
        order = nested_order(self.data.labels, self.data.splits, seed=self.seed)
        size = min(len(order), 2 * FLOOR * len(self.data.classes))
        alive = list(self.models)
        with tempfile.TemporaryDirectory(prefix="medssl-rank-") as drafts:
            while alive:
                data = self.data if size == len(order) else self.data.select(sorted(order[:size]))
                results = self._place(Path(drafts), size)
                self._round(data, alive, results)
                alive, size = self._next(size)
            outcome = self._outcome()
            if outcome.images < outcome.total:
                self._publish(outcome, self._place(Path(drafts), outcome.images))
        return outcome

    def _place(self, drafts: Path, size: int) -> Path:
        """Where a round keeps its records: all images beside the user's results, others aside."""
        if self.results is not None and size == len(self.data):
            return self.results
        name = self.results.name if self.results is not None else "results.jsonl"
        return drafts / str(size) / name

    def _publish(self, outcome: Outcome, draft: Path) -> None:
        """Keep what was measured on a part of the images, marked as such."""
        from medssl_models import append_records

        if self.results is None:
            return
        note = f"measured on {outcome.images} of {outcome.total} images"
        marked = [r.model_copy(update={"notes": (*r.notes, note)}) for r in outcome.records]
        if predictions_folder(draft).exists():
            shutil.copytree(
                predictions_folder(draft), predictions_folder(self.results), dirs_exist_ok=True
            )
        append_records(self.results, marked)

    def _round(self, data: ImageDataset, models: Sequence[str], results: Path) -> None:
        """Measure models on the same images, those that lead first, while there is time."""
        from medssl_eval.sweep import known_records

        probes, reasons = probes_for(data, seed=self.seed)
        self._notes = list(reasons)
        means = replace(
            self.means,
            known=known_records(results),
            predictions=predictions_folder(results),
        )
        measured = 0
        for name in models:
            if measured >= LEADERS and self._is_too_late(name, len(data)):
                self._drop(models, models[measured:], f"no time left for {len(data)} images")
                break
            measured += 1
            begin = self.clock()
            found, first = self._measure(name, data, [p.evaluate for p in probes], means)
            self._keep(results, found, means)
            standing = replace(self._standing(name, len(data), first), seconds=self.clock() - begin)
            self._standings[name] = standing
            self._records.setdefault(len(data), []).extend(found)
            self.say(_line(standing, self.clock() - self._begin))
        if measured:
            self._order(len(data))
            self._pairs = self._against_best(len(data), results)

    def _measure(
        self,
        name: str,
        data: ImageDataset,
        evaluations: Sequence[Callable[..., list[Record]]],
        means: Means,
    ) -> tuple[list[Record], dict[str, Record]]:
        from medssl_models import ExtractionSettings, create_model

        from medssl_eval.rank.cost import measure_cost

        backbone = create_model(name)
        if name not in self._costs:
            self._costs[name] = measure_cost(backbone, means.extraction or ExtractionSettings())
        runs = [evaluate(backbone, data, means) for evaluate in evaluations]
        return [r for run in runs for r in run], {run[0].experiment: run[0] for run in runs}

    def _standing(self, name: str, images: int, records: dict[str, Record]) -> Standing:
        from medssl_models import model_card

        return Standing(name, images, records, 0.0, self._costs[name], model_card(name).control)

    def _keep(self, results: Path, found: Sequence[Record], means: Means) -> None:
        from medssl_models import append_records

        append_records(results, [record for record in found if record.key not in means.known])

    def _order(self, images: int) -> None:
        """Rank the models of the newest round within each experiment, and average."""
        field_ = [s for s in self._standings.values() if s.images == images]
        for standing in field_:
            ranks = [_rank_in(standing, field_, name) for name in standing.records]
            self._standings[standing.model] = replace(
                standing, mean_rank=statistics.fmean(ranks), ranked=len(field_)
            )

    def _against_best(self, images: int, results: Path) -> list[Pair]:
        """Compare the best with each other model on as many images."""
        ranked = self._ranked(images)
        cells = gather_cells(r for standing in ranked for r in standing.records.values())
        comparer = Comparer(results, seed=self.seed)
        best = ranked[0].model if ranked else ""
        found = [pair for cell in cells for pair in comparer.compare(cell, against=best)]
        paired = {pair.first.experiment for pair in found}
        self._notes += [
            f"no paired test for {name}: its records keep no single answers"
            for name in dict.fromkeys(cell.records[0].experiment for cell in cells)
            if len(ranked) > 1 and name not in paired
        ]
        return found

    def _ranked(self, images: int) -> list[Standing]:
        found = [standing for standing in self._standings.values() if standing.images == images]
        return sorted(found, key=lambda s: (s.mean_rank, -s.mean_value, s.model))

    def _next(self, size: int) -> tuple[list[str], int]:
        """Decide who goes on, and with how many images; nobody where it is over."""
        total = len(self.data)
        alive = [standing.model for standing in self._ranked(size)]
        if size == total or len(alive) == 0:
            return [], size
        if self._fits(alive, total):
            return alive, total
        worse = [name for name in alive[1:] if is_worse(name, self._pairs_of(name))]
        self._settled += len(worse) == len(alive) - 1
        over = self._settled >= 2 or len(alive) < LEADERS
        lost = [name for name in worse if over or name not in alive[:LEADERS]]
        alive = self._drop(alive, lost, f"clearly worse on {size} images", beaten=True)
        if over:
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
            self._standings[name] = replace(self._standings[name], dropped=why, beaten=beaten)
        if set(who) != set(alive) and who:
            self.say(f"dropped: {', '.join(n for n in alive if n in who)} ({why})")
        return [name for name in alive if name not in who]

    def _pairs_of(self, name: str) -> list[Pair]:
        return [pair for pair in self._pairs if is_rival(pair, name)]

    def _is_too_late(self, name: str, images: int) -> bool:
        """Tell whether a model would overrun the budget; the first round is always run."""
        if self.budget is None or name not in self._standings:
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
        rates = (self._standings[n].seconds / self._standings[n].images for n in models)
        return images * sum(rates)

    def _left(self) -> float:
        return (self.budget or 0.0) - (self.clock() - self._begin)

    def _outcome(self) -> Outcome:
        sizes = sorted({standing.images for standing in self._standings.values()}, reverse=True)
        images = sizes[0]
        return Outcome(
            standings=tuple(standing for size in sizes for standing in self._ranked(size)),
            pairs=tuple(self._pairs),
            records=tuple(self._records[images]),
            images=images,
            total=len(self.data),
            notes=tuple(dict.fromkeys(self._notes)),
            seconds=self.clock() - self._begin,
        )


def is_rival(pair: Pair, model: str) -> bool:
    """Tell whether a model is one of a pair."""
    return model in {pair.first.provenance.model, pair.second.provenance.model}


def is_worse(model: str, pairs: Sequence[Pair]) -> bool:
    """Tell whether a model lost all its pairs against the best, one of them beyond chance.

    Episodes share images, so few-shot alone decides only where nothing else could be paired.
    """
    if any(pair.first.provenance.model == model for pair in pairs):
        return False
    firm = [pair for pair in pairs if pair.first.experiment != "few-shot"] or list(pairs)
    return any(pair.adjusted["permutation"] < LEVEL for pair in firm)


def _rank_in(standing: Standing, others: Sequence[Standing], experiment: str) -> float:
    """Rank 1 is the best; ties share."""
    record = standing.records[experiment]
    sign = 1 if higher_is_better(record.metric) else -1
    values = [sign * other.records[experiment].value for other in others]
    own = sign * record.value
    return sum(v > own for v in values) + (sum(v == own for v in values) + 1) / 2


def _line(standing: Standing, seconds: float) -> str:
    values = ", ".join(f"{name} {r.value:.1f} {r.unit}" for name, r in standing.records.items())
    return f"{seconds:.0f} s: {standing.model} on {standing.images} images: {values}"
