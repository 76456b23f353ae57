"""How often intervals of linear evaluation hold the truth: given the fits, and with refits.

    python packages/medssl-eval/benchmarks/linear_coverage.py [--only 'nested folds']

Two classes of Gaussian features in 8 dimensions, of patients with one image or three (a patient's
own deviation is half of the variance). The truth is the mean, over populations, of what a
classifier of one training part reaches on 20,000 other images: an interval that is given one fit
need not hold it. Everything but the features is what `medssl-eval linear` does, with three values
of C. Prints a row for each size, and a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING

import numpy as np
from medssl_eval.experiments.linear import REFITS, fit_linear
from medssl_eval.experiments.nested_folds import NestedFolds
from medssl_eval.experiments.partition import assign_folds, bootstrap_times
from medssl_eval.experiments.predictions import Predictions
from medssl_eval.experiments.scoring import Scored
from medssl_eval.experiments.settings import LinearSettings
from medssl_eval.statistics.metrics import metric
from medssl_models import Provenance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Sample = tuple[Floats, NDArray[np.int64], list[str]]
    Intervals = dict[str, tuple[tuple[float, float], ...]]
    Evaluated = tuple[Intervals, tuple[Floats, NDArray[np.int64]], float]

CS, REPEATS, FOLDS, DIMENSIONS = (1.0, 0.1, 0.01), 4, 5, 8
NAMES = ("accuracy", "auroc")


def drawn(patients: int, each: int, seed: int) -> Sample:
    """Draw features (N, D), labels and patients."""
    generator = np.random.default_rng([patients, each, seed])
    owners = np.repeat(np.arange(patients), each)
    own = generator.normal(size=(patients, DIMENSIONS))[owners]
    noise = generator.normal(size=(len(owners), DIMENSIONS))
    labels = owners % 2
    centres = np.where(labels[:, None] == 1, 0.5, -0.5) * np.array([1.6, 1.0] + [0] * 6)
    return centres + np.sqrt(0.5) * (own + noise), labels, [f"p{owner}" for owner in owners]


def records(
    sample: Sample, probabilities: Floats, refits: list[Floats], *, apart: bool
) -> Intervals:
    """Return each metric's interval given the fits, and its interval with refits."""
    _, labels, patients = sample
    asked = Predictions(
        ids=tuple(map(str, range(len(labels)))), groups=tuple(patients), classes=("0", "1"),
        labels=labels, probabilities=probabilities,
    )  # fmt: skip
    scored = Scored(
        experiment="linear",
        predictions=asked,
        settings={"interval": LinearSettings().interval},
        provenance=Provenance(model="made"),
        refits=refits,
        apart=apart,
    )
    found = {}
    for record in scored.records(NAMES, folder=None):
        given = tuple(record.details["refits"]["one_fit"])
        scale = metric(record.metric).scale
        found[record.metric] = tuple(
            (low / scale, high / scale) for low, high in (given, (record.ci_low, record.ci_high))
        )
    return found


def in_folds(patients: int, each: int, seed: int) -> Evaluated:
    """Evaluate one population in nested folds; also say what a classifier of it was."""
    sample = features, labels, names = drawn(patients, each, seed)
    kept = np.ones(len(labels), bool)
    deals = [
        NestedFolds(
            features, labels, labels, assign_folds(labels, FOLDS, seed=place, groups=names), kept
        )
        for place in range(REPEATS)
    ]
    cs = [deal.choose(CS, "accuracy") for deal in deals]
    fits = [deal.fit(own) for deal, own in zip(deals, cs, strict=True)]
    times = bootstrap_times(
        names, [np.arange(len(labels))], count=REFITS, seed=seed,
        serves=lambda drawn_: all(deal.serves(drawn_) for deal in deals),
    )  # fmt: skip
    refits = [
        deals[place % REPEATS].fit(cs[place % REPEATS], one).probabilities
        for place, one in enumerate(times)
    ]
    mean = np.mean([fit.probabilities for fit in fits], axis=0)
    learnt = features[deals[0].fold_of != 0], labels[deals[0].fold_of != 0]
    return records(sample, mean, refits, apart=False), learnt, cs[0][0]


def in_parts(patients: int, each: int, seed: int) -> Evaluated:
    """Evaluate one population with a training, a validation and a test part: 2, 1 and 2 fifths."""
    features, labels, names = drawn(patients, each, seed)
    fold_of = assign_folds(labels, FOLDS, seed=0, groups=names)
    parts = [np.flatnonzero(np.isin(fold_of, folds)) for folds in ((0, 1), (2,), (3, 4))]
    train, validation, test = parts

    def fitted(rows: list[NDArray[np.int64]], cs: tuple[float, ...]) -> object:
        pairs = [(features[part], labels[part]) for part in rows]
        return fit_linear(*pairs, settings=LinearSettings(Cs=cs))

    fit = fitted([train, validation], CS)
    times = bootstrap_times(
        names, [train, validation], count=REFITS, seed=seed,
        serves=lambda drawn_: all(len(set(labels[p][drawn_[p] > 0])) == 2 for p in parts[:2]),
    )  # fmt: skip
    refits = [
        fitted([np.repeat(p, one[p]) for p in parts[:2]], (fit.solution.c,)).probabilities(
            features[test]
        )
        for one in times
    ]
    asked = features[test], labels[test], [names[row] for row in test]
    learnt = np.concatenate([train, validation])
    found = records(asked, fit.probabilities(features[test]), refits, apart=True)
    return found, (features[learnt], labels[learnt]), fit.solution.c


WAYS = {"test part": in_parts, "nested folds": in_folds}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--populations", type=int, default=100)
    parser.add_argument("--only", choices=WAYS, help="one way of evaluating")
    given = parser.parse_args()
    count, ways = given.populations, [given.only] if given.only else list(WAYS)
    others, truth, _ = drawn(20_000, 1, 10**6)
    begin, outcome = time.perf_counter(), []
    print("| evaluated | patients x images | metric | truth | given the fits, % | with refits, % |")
    print("|---|---|---|---|---|---|")
    for name in ways:
        for patients, each in ((60, 1), (60, 3), (200, 1)):
            found, reached = [], []
            for seed in range(count):
                intervals, learnt, c = WAYS[name](patients, each, seed)
                fit = fit_linear(learnt, learnt, settings=LinearSettings(Cs=(c / 2,)))
                scores = fit.probabilities(others)
                reached.append([metric(one)(truth, scores).value for one in NAMES])
                found.append([intervals.get(one) for one in NAMES])
            for place, one in enumerate(NAMES):
                target = float(np.mean(reached, axis=0)[place])
                known = [row[place] for row in found if row[place] is not None]
                held = [[low <= target <= high for low, high in both] for both in known]
                shares = (100 * np.mean(held, axis=0)).tolist()
                outcome.append([name, patients, each, one, target, *shares])
                print(f"| {name} | {patients} x {each} | {one} | {target:.3f} | {shares[0]:.1f} | "
                      f"{shares[1]:.1f} |", flush=True)  # fmt: skip
    print(json.dumps({"seconds": time.perf_counter() - begin, "rows": outcome}))


if __name__ == "__main__":
    main()
