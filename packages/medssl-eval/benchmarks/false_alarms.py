"""How often `compare` and `rank` call equal models different, and how soon they find a worse one.

    python packages/medssl-eval/benchmarks/coverage.py --only false-alarms

Models answer images of which some are harder for all of them: an image's difficulty makes half of
the variance, the model's own noise the other half. No network is run; what decides is the product's
own code, `all_pairs` for `compare` and the whole race of `Ranker`, with its looks at nested images,
what it drops and its verdict, for `rank`. In a race each model has two experiments: k-NN on all
images and a linear classifier on every fourth, whose answers to an image go together.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

import numpy as np
from medssl_eval.compare.comparison import Comparer
from medssl_eval.experiments.predictions import Predictions
from medssl_eval.rank import ranking
from medssl_eval.rank.cost import Cost
from medssl_eval.rank.verdict import judge
from medssl_eval.statistics.intervals import holm
from medssl_eval.statistics.joint_tests import all_pairs, jackknife_panel
from medssl_models import RunContext
from medssl_models.experiments.record import Provenance, Record
from scipy.stats import norm

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from medssl_eval.compare.comparison import Pair
    from medssl_eval.rank.ranking import RankingResult
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

LEVEL, RESAMPLES = 0.05, 500
MODELS = (2, 5, 13, 29)
IMAGES, WORSE = 200, 10.0
RANK_RESAMPLES, RANK_IMAGES = 400, 1600


def scores_of(
    generator: np.random.Generator, images: int, shares: Sequence[float], draws: int = 1
) -> Floats:
    """Draw by how much each model is for the truth, (draws, images, models); above 0 it is right.

    Args:
        generator: Of random numbers.
        images: N.
        shares: What share each model has right.
        draws: Answers to the same images, which have half of a model's own noise in common.
    """
    count = len(shares)
    hard = generator.standard_normal((1, images, 1))
    own = generator.standard_normal((1, images, count))
    new = generator.standard_normal((draws, images, count))
    noise = np.sqrt(0.5) * hard + 0.5 * own + 0.5 * new
    return np.asarray(norm.ppf(shares) + noise, np.float64)


# ------------------------------------------------------------------------------- compare


@dataclass
class Counts:
    """How often something was called different, in percent, by the product and naively.

    Args:
        ours: By step-down max-T over all pairs.
        naive: By Holm's correction of the best against the others, each tested alone.
        alone: Where each pair is tested alone, uncorrected.
    """

    ours: float = 0.0
    naive: float = 0.0
    alone: float = 0.0


def best_against_rest(
    models: int, images: int, name: str, populations: int, *, worse: float = 0.0
) -> Counts:
    """Compare the best of some models with the others, on many samples of images.

    Args:
        models: k.
        images: N.
        name: The metric.
        populations: How many samples.
        worse: By how many percent points of accuracy the last model is worse; then only its pair
            with the best is counted, else any pair of the best.
    """
    labels = np.arange(images) % 2
    pairs = [(one, other) for one in range(models) for other in range(one + 1, models)]
    shares = [0.8] * (models - 1) + [0.8 - worse / 100]
    found = Counts()
    for seed in range(populations):
        generator = np.random.default_rng([models, images, seed])
        (answers,) = scores_of(generator, images, shares)
        right = 1 / (1 + np.exp(-np.where(labels[:, None] == 1, answers, -answers)))
        panel = jackknife_panel(labels, list(right.T), name)
        (tests,) = all_pairs([panel], [pairs], resamples=RESAMPLES, seed=seed)
        best = int(panel.values.argmax())
        rivals = [place for place, pair in enumerate(pairs) if best in pair]
        asked = [place for place in rivals if not worse or models - 1 in pairs[place]]
        alone = _t_test(tests.difference, tests.standard_error)
        corrected = dict(zip(rivals, holm(alone[rivals]), strict=True))
        found.ours += (tests.p_adjusted[asked] < LEVEL).any()
        found.naive += any(corrected[place] < LEVEL for place in asked)
        found.alone += (alone[asked] < LEVEL).any()
    return Counts(*(100 * count / populations for count in vars(found).values()))


def _t_test(differences: ArrayLike, errors: ArrayLike) -> Floats:
    """Test each difference as if it were the only one; with many units t is normal."""
    errors = np.asarray(errors, np.float64)
    return np.asarray(2 * norm.sf(np.abs(differences) / np.where(errors > 0, errors, np.inf)))


# ---------------------------------------------------------------------------------- rank


@dataclass
class Images:
    """What a race needs of a data set."""

    rows: NDArray[np.int64]
    classes: tuple[str, ...] = ("no", "yes")
    name: str = "simulated"

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Every other image is of the second class."""
        return self.rows % 2

    @property
    def splits(self) -> list[str]:
        """A quarter of each class is for tests."""
        return ["test" if row // 2 % 4 == 0 else "train" for row in self.rows]

    def select(self, places: Sequence[int]) -> Images:
        """Take some of them."""
        return Images(self.rows[np.asarray(places)])


@dataclass
class Race(ranking.Ranker):
    """A ranking whose models answer without a network, in known time."""

    answers: Floats = field(default_factory=lambda: np.zeros((2, 0, 0)))
    resamples: int = RANK_RESAMPLES
    naive: dict[str, int] = field(default_factory=dict)
    _told: dict[str, Predictions] = field(default_factory=dict)
    _now: float = 0.0

    def run(self) -> RankingResult:
        """Run the race; there are no models to look up."""
        self._asked = {name: name for name in self.models}
        self.clock = lambda: self._now
        return self._race()

    def _measure(
        self,
        name: str,
        data: Images,
        chosen: object,
        context: object,  # type: ignore[override]
    ) -> tuple[list[Record], dict[str, Record]]:
        del chosen, context
        self._now += 0.01 * len(data)
        self._costs[name] = Cost(1.0, 1, 1.0, "cpu")
        column = list(self.models).index(name)
        tested = np.array([split == "test" for split in data.splits])
        records = {
            experiment: self._record(name, experiment, data.rows[part], answers[:, column])
            for experiment, part, answers in (
                ("knn", slice(None), self.answers[0]),
                ("linear", tested, self.answers[1]),
            )
        }
        return list(records.values()), records

    def _record(
        self, name: str, experiment: str, rows: NDArray[np.int64], answers: Floats
    ) -> Record:
        file, right = f"{name} {experiment} {len(rows)}", answers[rows] > 0
        chosen = np.where(right, rows % 2, 1 - rows % 2)
        self._told[file] = Predictions(
            ids=tuple(map(str, rows)),
            groups=("",) * len(rows),
            classes=("no", "yes"),
            labels=rows % 2,
            probabilities=np.eye(2)[chosen],
        )
        return Record(
            experiment=experiment,
            metric="accuracy",
            unit="%",
            value=100 * float(right.mean()),
            details={"predictions": {"file": file}},
            provenance=Provenance(model=name, dataset="simulated", manifest=str(len(rows))),
        )

    def _comparer(self, results: Path) -> Comparer:
        return Comparer(results, resamples=self.resamples, seed=self.seed, _read=self._told)

    def _against_best(self, images: int, results: Path) -> list[Pair]:
        found = super()._against_best(images, results)
        for name in naively_worse(found):
            self.naive.setdefault(name, images)
        return found


def naively_worse(pairs: Sequence[Pair]) -> set[str]:
    """Name who would be called worse at a look by the rule of version 0.1.

    It tested as if this look were the only one, the best known beforehand, and each experiment by
    itself.
    """
    lost, proven = set(), set()
    kept = {pair.first.provenance.model for pair in pairs}
    for experiment in {pair.first.experiment for pair in pairs}:
        here = [pair for pair in pairs if pair.first.experiment == experiment]
        gaps = [pair.difference for pair in here]
        alone = _t_test([gap.difference for gap in gaps], [gap.standard_error for gap in gaps])
        corrected = holm(alone)
        for pair, p in zip(here, corrected, strict=True):
            lost.add(pair.second.provenance.model)
            if p < LEVEL:
                proven.add(pair.second.provenance.model)
    return (lost & proven) - kept


@dataclass
class Raced:
    """What races came to, in percent of them.

    Args:
        ours: Some model, or the worse one where there is one, was called clearly worse.
        naive: The same of version 0.1's rule.
        early: It was before the last look.
        images: Mean size of the look at which it was called so.
        looks: Mean number of looks.
    """

    ours: float
    naive: float
    early: float
    images: float
    looks: float


def races(
    models: int,
    populations: int,
    *,
    worse: float = 0.0,
    share: float | None = 0.85,
    images: int = RANK_IMAGES,
) -> Raced:
    """Run whole rankings of models of which the last is worse, or none.

    Args:
        models: k.
        populations: How many rankings.
        worse: By how many percent points the last model is worse.
        share: The budget, as a share of the time that all models on all images take; None has no
            limit.
        images: How many there are.
    """
    budget = None if share is None else 0.01 * images * share * models
    names = [f"m{number:02d}" for number in range(models)]
    shares = [0.8] * (models - 1) + [0.8 - worse / 100]
    called, naive, early, sizes, looks = 0, 0, 0, [], []
    for seed in range(populations):
        generator = np.random.default_rng([7, models, seed])
        race = Race(
            cast("Any", Images(np.arange(images))), names, RunContext(), seed=seed,
            budget=budget,
            answers=scores_of(generator, images, shares, draws=2),
        )  # fmt: skip
        with patch.object(ranking, "choose_experiments", lambda *_, **__: ([], [])):
            result = race.run()
        told = called_worse(result)
        asked = {name: size for name, size in told.items() if not worse or name == names[-1]}
        called += bool(asked)
        early += any(size < result.images for size in asked.values())
        naive += any(not worse or name == names[-1] for name in race.naive)
        sizes += [min(asked.values())] if asked else []
        looks.append(len(race._records))
    mean = float(np.mean(sizes)) if sizes else float("nan")
    return Raced(
        *(100 * count / populations for count in (called, naive, early)),
        mean,
        float(np.mean(looks)),
    )


def called_worse(result: RankingResult) -> dict[str, int]:
    """Who was called clearly worse in a ranking, and on how many images."""
    told = {rank.model: rank.images for rank in result.ranks if rank.beaten}
    verdict = judge(result)
    for rank in result.ranks[1:]:
        if rank.images == result.images and rank.model not in verdict.alike:
            told.setdefault(rank.model, rank.images)
    return told


# -------------------------------------------------------------------------------- tables


def print_false_alarms(populations: int) -> dict[str, object]:
    """Print both tables, and return them for programs.

    Args:
        populations: How many samples for each row; races, which are slow, are fewer.
    """
    begin = time.perf_counter()
    found = {"compare": print_compare(populations), "rank": print_rank(populations)}
    return {"seconds": time.perf_counter() - begin, **found}


def print_compare(populations: int) -> list[tuple[str, ...]]:
    """Print the best against the others: false alarms, and power for one that is worse."""
    rows = []
    for name, several in (
        *(("accuracy", MODELS), ("auroc", MODELS)),
        *(("balanced_accuracy", (13,)), ("auprc", (13,)), ("quadratic_kappa", (13,))),
    ):
        for models in several:
            equal = best_against_rest(models, IMAGES, name, populations)
            cells = [name, str(models), *(f"{value:.1f}" for value in vars(equal).values())]
            if name == "accuracy":
                power = best_against_rest(models, IMAGES, name, populations, worse=WORSE)
                cells += [f"{value:.0f}" for value in vars(power).values()]
            rows.append((*cells, *[""] * (8 - len(cells))))
    _print_table(
        ("metric", "models", *("false alarms: max-T", "Holm", "uncorrected"),
         *("power: max-T", "Holm", "uncorrected")), rows,
    )  # fmt: skip
    return rows


def print_rank(populations: int) -> list[tuple[str, ...]]:
    """Print whole rankings: false alarms, and how soon one that is worse is found."""
    rows = []
    for share, budget in ((None, "none"), (0.85, "short")):
        for models in MODELS:
            runs = max(2, populations // (2 if models < 29 else 4))
            equal, found = races(models, runs, share=share), ("", "", "")
            if share is not None:
                worse = races(models, runs // 2, share=share, worse=WORSE)
                found = (f"{worse.ours:.0f}", f"{worse.naive:.0f}", f"{worse.images:.0f}")
            rows.append(
                (
                    *(budget, str(models), str(runs), f"{equal.looks:.1f}"),
                    *(f"{equal.ours:.1f}", f"{equal.naive:.1f}", *found),
                )
            )
    _print_table(
        ("budget", "models", "rankings", "rounds", "false alarms", "by 0.1's rule", "found",
         "by 0.1's rule", "on images"), rows,
    )  # fmt: skip
    return rows


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    print_false_alarms(400)
