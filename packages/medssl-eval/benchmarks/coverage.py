"""How often intervals of 95 % hold the truth, by simulation: populations whose truth is known.

    python packages/medssl-eval/benchmarks/coverage.py --only coverage

Features are Gaussian: a class has its mean, a patient his own deviation, an image another, each
half of the variance. What an interval should hold is: of few-shot, the mean accuracy of supports
and queries of new patients; of linear evaluation, what this one fit scores on all images there are
(the fit's own luck is no part of it); of k-NN in folds, what the procedure scores on average over
populations of this size; of a classifier that knows the classes' densities, its value on all images
there are, and no calibration error. 400 populations have a standard error of 1.1 points.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from medssl_eval.experiments.influences import Influences
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

POPULATIONS, PROCESSES, RESAMPLES = 400, 2, 500
DIMENSIONS, EPISODES, QUERIES = 8, 600, 15
NOMINAL = (92.0, 98.0)  # what coverage of 95 % may come to


@dataclass(frozen=True)
class Population:
    """Two classes of patients.

    Args:
        images: N.
        each: Images of a patient.
        distance: Between the classes' means, in deviations of an image.
    """

    images: int
    each: int
    distance: float

    def draw(self, generator: np.random.Generator) -> tuple[Floats, Integers, list[str]]:
        """Draw features (N, D), labels (N,) and patients' names (N)."""
        count = self.images // self.each
        labels = np.arange(count) % 2
        own = self.centres()[labels] + np.sqrt(0.5) * generator.normal(size=(count, DIMENSIONS))
        features = np.repeat(own, self.each, axis=0)
        features += np.sqrt(0.5) * generator.normal(size=features.shape)
        owners = np.repeat(np.arange(count), self.each)
        return features, labels[owners], [f"p{owner:05d}" for owner in owners]

    def centres(self) -> Floats:
        """Both means, (2, D)."""
        return self.distance / np.sqrt(2) * np.eye(2, DIMENSIONS)

    def few_shot_truth(self, shots: int) -> float:
        """The mean accuracy in percent over all supports of as many new patients."""
        from scipy.stats import norm

        generator = np.random.default_rng(0)
        noise = generator.normal(size=(100_000, 2, DIMENSIONS)) / np.sqrt(shots)
        prototypes = self.centres() + noise
        axis = prototypes[:, 0] - prototypes[:, 1]
        middle = prototypes.mean(axis=1)
        length = np.linalg.norm(axis, axis=1)
        sides = [((centre - middle) * axis).sum(axis=1) / length for centre in self.centres()]
        return float(50 * (norm.cdf(sides[0]) + norm.cdf(-sides[1])).mean())


@dataclass(frozen=True)
class Coverage:
    """What is known of one interval in one population.

    Args:
        what: Experiment and metric.
        population: What was drawn.
        truth: What intervals should hold.
        covered: Percent of populations whose interval does.
        formerly: The same of the interval before: over episodes, or percentiles.
    """

    what: str
    population: Population
    truth: float
    covered: float
    formerly: float

    @property
    def row(self) -> tuple[str, str]:
        """What stands in one row of the table, whatever the model."""
        who = self.population
        patients = f" of {who.images // who.each} patients" if who.each > 1 else ""
        return self.what, f"{who.images}{patients}"

    @property
    def cells(self) -> tuple[str, ...]:
        """Truth, coverage and former coverage as text."""
        return f"{self.truth:.3g}", f"{self.covered:.1f} ({self.formerly:.1f})"


def few_shot(population: Population, shots: int, populations: int) -> list[Coverage]:
    """Cover the few-shot accuracy of new patients: over images, and formerly over episodes."""
    from medssl_eval.experiments.few_shot import over_images, summarise

    truth = population.few_shot_truth(shots)
    held = np.zeros(2)
    for seed in range(populations):
        correct, questions, influences = episodes_of(population, shots, seed)
        summary = summarise(correct, questions)
        intervals = (over_images(summary, influences), summary.interval)
        held += [low is not None and low <= truth <= high for low, high in intervals]
    covered, formerly = (100 * held / populations).tolist()
    return [Coverage(f"few-shot, {shots} shots", population, truth, covered, formerly)]


def few_shot_difference(population: Population, shots: int, populations: int) -> list[Coverage]:
    """Cover the difference of 0 between two equal models, which see the same patients otherwise."""
    from scipy.stats import t

    held = np.zeros(2)
    for seed in range(populations):
        correct, questions, influences = zip(
            *(episodes_of(population, shots, seed, model) for model in (1, 2)), strict=True
        )
        gaps = 100 * (correct[0] - correct[1]) / questions[0]
        between = influences[0] - influences[1]
        over_episodes = gaps.std(ddof=1) / np.sqrt(len(gaps))
        for way, (error, freedom) in enumerate(
            ((between.standard_error, between.freedom), (over_episodes, len(gaps) - 1))
        ):
            held[way] += abs(gaps.mean()) <= t.ppf(0.975, freedom) * error
    covered, formerly = (100 * held / populations).tolist()
    what = f"few-shot, {shots} shots, difference"
    return [Coverage(what, population, 0.0, covered, formerly)]


def episodes_of(
    population: Population, shots: int, seed: int, model: int = 1
) -> tuple[Integers, int, Influences]:
    """Draw a population and let a model answer its episodes.

    Returns:
        Right answers of each episode, how many questions it has, and each patient's influence.
    """
    from medssl_eval.experiments.episodes import EpisodePool, plan_episodes
    from medssl_eval.experiments.few_shot import count_correct
    from medssl_eval.experiments.influences import few_shot_influences

    drawn, labels, patients = population.draw(np.random.default_rng([model, seed]))
    features = drawn.astype(np.float32)
    pool = EpisodePool.of(labels, 2, groups=patients)
    queries = min(QUERIES, int(pool.class_sizes.min()) - shots)
    plan = plan_episodes(pool, ways=2, shots=shots, queries=queries, episodes=EPISODES, seed=seed)
    correct = count_correct(features, plan)
    found = few_shot_influences(features, pool, patients, plan, correct, seed=[seed])
    return correct, 2 * queries, found


Sample = tuple["Floats", "Integers", list[str]]
Predicted = tuple["Floats", "Mapping[str, float]", "Sequence[Floats]"]
"""Probabilities (N,), the truth of each metric, and the probabilities of resampled training."""


def scored(
    what: str,
    population: Population,
    populations: int,
    predict: Callable[[Sample, int], Predicted],
    names: Sequence[str] = ("accuracy", "auroc"),
) -> list[Coverage]:
    """Cover metrics of predictions.

    Args:
        what: Named in the rows.
        population: Of the images that are asked.
        populations: How often they are drawn.
        predict: A sample and its number to what is predicted; without truths these are the means
            over the populations.
        names: Metrics.
    """
    from medssl_eval.statistics.intervals import estimate, widened
    from medssl_eval.statistics.metrics import metric

    values, intervals, truths = [], [], []
    for seed in range(populations):
        sample = population.draw(np.random.default_rng([1, seed]))
        probabilities, truth, refits = predict(sample, seed)
        clusters = sample[2] if population.each > 1 else None
        ways = [
            estimate(
                sample[1],
                probabilities,
                names,
                clusters=clusters,
                resamples=RESAMPLES,
                interval=way,
            )
            for way in ("log_odds", "percentile")
        ]
        values.append([ways[0][name].value for name in names])
        stated = [[(way[name].low, way[name].high) for name in names] for way in ways]
        for place, name in enumerate(names if refits else ()):
            spread = np.std([metric(name)(sample[1], refit).value for refit in refits], ddof=1)
            stated[0][place] = widened(
                ways[0][name].value, stated[0][place], spread, freedom=len(refits) - 1
            )
        intervals.append(stated)
        truths.append([truth.get(name, np.nan) for name in names])
    ends = np.array(intervals, np.float64)  # (populations, ways, names, 2); NaN where there is none
    aims = np.where(np.isnan(truths), np.mean(values, axis=0), truths)[:, None]
    held = 100 * ((ends[..., 0] <= aims) & (aims <= ends[..., 1])).mean(axis=0)
    return [
        Coverage(f"{what}, {name}", population, float(aims[:, 0, k].mean()), *held[:, k].tolist())
        for k, name in enumerate(names)
    ]


def classifier(population: Population, populations: int) -> list[Coverage]:
    """Cover what a calibrated classifier scores."""
    from scipy.special import expit
    from scipy.stats import norm

    axis = np.diff(population.centres(), axis=0)[0]
    middle = population.centres().mean(axis=0)
    truth = {
        "accuracy": float(norm.cdf(population.distance / 2)),
        "auroc": float(norm.cdf(population.distance / np.sqrt(2))),
        "calibration_error": 0.0,
    }
    return scored(
        "classifier",
        population,
        populations,
        lambda sample, _: (expit((sample[0] - middle) @ axis), truth, ()),
        tuple(truth),
    )


def linear(population: Population, populations: int) -> list[Coverage]:
    """Cover what one logistic regression on 200 training images scores on all images there are."""
    from medssl_eval.solver.logistic import solve
    from scipy.stats import norm

    def predict(sample: Sample, seed: int) -> Predicted:
        training = Population(200, population.each, population.distance)
        features, labels, _ = training.draw(np.random.default_rng([2, seed]))
        fit = solve(features, labels, c=1.0)
        points = np.vstack([np.zeros(DIMENSIONS), np.eye(DIMENSIONS)])
        chances = fit.probabilities(points)
        odds = np.log(chances[:, 1] / chances[:, 0])
        weights, offset = odds[1:] - odds[0], odds[0]
        length = np.linalg.norm(weights)
        low, high = (population.centres() @ weights + offset) / length
        truth = {
            "accuracy": float((norm.cdf(-low) + norm.cdf(high)) / 2),
            "auroc": float(norm.cdf((high - low) / np.sqrt(2))),
        }
        return fit.probabilities(sample[0])[:, 1], truth, ()

    return scored("linear, given the fit", population, populations, predict)


def knn(population: Population, populations: int) -> list[Coverage]:
    """Cover what five neighbours in five folds score on average over populations."""
    from medssl_eval.experiments.knn import resampled_votes, vote
    from medssl_eval.experiments.partition import assign_folds
    from medssl_eval.experiments.settings import KnnSettings

    settings = KnnSettings(weighting="equal", neighbours=5)

    def predict(sample: Sample, seed: int) -> Predicted:
        features, labels, patients = sample
        features = features.astype(np.float32)
        fold_of = assign_folds(labels, 5, seed=seed, groups=patients)
        found = np.zeros(len(labels))
        for fold in range(5):
            asked = fold_of == fold
            found[asked] = vote(
                features[~asked], labels[~asked], features[asked], neighbours=5, classes=2
            )[:, 1]
        refits = resampled_votes(
            features, labels, patients, settings, folds=fold_of, voters=[5] * 5
        )
        return found, {}, refits

    return scored("k-NN in folds", population, populations, predict)


SIZES = ((60, 1), (60, 3), (200, 1), (200, 4), (1000, 1), (1000, 4))
"""Images, and how many of them a patient has."""
SHOTS = (1, 5, 20)
DISTANCES = (1.5, 4.0)
"""A weak and a strong model."""
Task = tuple["Callable[..., list[Coverage]]", tuple[Any, ...]]


def tasks(populations: int) -> Iterator[Task]:
    """Name what is measured, the longest first."""
    for images, each in reversed(SIZES):
        for one in (Population(images, each, distance) for distance in DISTANCES):
            for shots in SHOTS:
                # Of a class there are units for the support and two questions at least.
                if 2 * (shots + 2) <= images // each and (shots == 5 or images < 1000):
                    yield few_shot, (one, shots, populations)
                    if shots == 5 and images < 1000:
                        yield few_shot_difference, (one, shots, populations)
            yield classifier, (one, populations)
            if images < 1000:
                yield linear, (one, populations)
                yield knn, (one, populations)


def run(task: Task) -> list[Coverage]:
    """Measure one task."""
    function, arguments = task
    return function(*arguments)


def print_coverage(populations: int) -> dict[str, object]:
    """Print the table of coverage, and return it for programs."""
    begin = time.perf_counter()
    with ProcessPoolExecutor(PROCESSES) as pool:
        found = []
        for measured in pool.map(run, tasks(populations)):
            found += measured
            for one in measured:
                print(*one.row, *one.cells, sep=", ", file=sys.stderr, flush=True)
    rows: dict[tuple[str, str], list[Coverage]] = {}
    for one in sorted(found, key=lambda one: (one.what, one.population.images)):
        rows.setdefault(one.row, []).append(one)
    table = [[*row, *(cell for one in both for cell in one.cells)] for row, both in rows.items()]
    head = "covered (formerly), %"
    print(f"| what | images | weak: truth | {head} | strong: truth | {head} |\n{'|---' * 6}|")
    for cells in table:
        print(f"| {' | '.join(cells)} |")
    least, most = NOMINAL
    outside = sum(not least <= one.covered <= most for one in found)
    seconds = time.perf_counter() - begin
    print(f"{outside} of {len(found)} outside {least:.0f} to {most:.0f} %; {seconds:.0f} s")
    return {"seconds": seconds, "rows": table}


def print_false_alarms(populations: int) -> dict[str, object]:
    """Print how often equal models are called different; see `false_alarms`, which lies beside."""
    import false_alarms

    return false_alarms.print_false_alarms(populations)


TABLES: dict[str, Callable[[int], dict[str, object]]] = {
    "coverage": print_coverage,
    "false-alarms": print_false_alarms,
}
"""Name of a table to what prints it for a number of populations."""


def plot(path: Path) -> None:
    """Draw both intervals of few-shot in 40 populations, and the truth."""
    from medssl_eval.experiments.few_shot import over_images, summarise
    from medssl_models.experiments.figures import new_figure, save_figure

    population, shots = Population(200, 1, 1.5), 5
    truth = population.few_shot_truth(shots)
    figure = new_figure(8, 3.4)
    axes = figure.subplots(1, 2, sharey=True)
    for seed in range(40):
        correct, questions, influences = episodes_of(population, shots, seed)
        summary = summarise(correct, questions)
        for axis, (low, high) in zip(
            axes, (summary.interval, over_images(summary, influences)), strict=True
        ):
            holds = low is not None and low <= truth <= high
            axis.plot([seed, seed], [low, high], color="#31688e" if holds else "#d1495b", lw=1.6)
            axis.plot(seed, summary.mean, ".", color="black", ms=3)
    for axis, title in zip(axes, ("over episodes", "over images"), strict=True):
        axis.axhline(truth, color="0.4", lw=1)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("sample of 200 images")
        axis.set_xticks([])
    axes[0].set_ylabel("5-shot accuracy, %")
    save_figure(figure, path)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(TABLES), help="one table")
    parser.add_argument("--populations", type=int, default=POPULATIONS)
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    parser.add_argument("--plot", type=Path, help="draw few-shot intervals instead of all tables")
    given = parser.parse_args()
    if given.plot:
        plot(given.plot)
        return
    chosen = [given.only] if given.only else list(TABLES)
    found = {name: TABLES[name](given.populations) for name in chosen}
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
