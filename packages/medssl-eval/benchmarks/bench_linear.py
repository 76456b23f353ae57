"""The path of 45 values of C to convergence, against 45 scikit-learn fits cut off at 100 steps.

    python packages/medssl-eval/benchmarks/bench_linear.py [--shapes 110x2048,1000x2048,20000x1024]
    python packages/medssl-eval/benchmarks/bench_linear.py --folds 200x2048

Both sides get the same standardised float32 features of two classes. scikit-learn fits each C from
zero (L-BFGS, max_iter=100); of the largest shape every fifth C is fitted, and the time is
multiplied by five. The study's warm-started loop is timed too. Features are made, not a network's:
rectified mixtures of 64 latent causes with noise, two of which decide the class. The objective of
scikit-learn's fits is computed in float64, and ours must be lower or equal at every C that was
fitted. Small shapes are timed with one thread of linear algebra and with the default (of 1,000 rows
every fifth C then, as of the largest shape). Prints ratios, targets and a line of JSON.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
from medssl_eval.experiments.linear import REFITS
from medssl_eval.experiments.nested_folds import NestedFolds
from medssl_eval.experiments.partition import assign_folds
from medssl_eval.experiments.settings import LinearSettings
from medssl_eval.solver.logistic import published_cs, solve_path
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

TARGETS = {"110x2048": 10.0, "1000x2048": 3.0, "20000x1024": 2.0}


def made(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw features like those of a network: rectified, correlated, then standardised."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(rows, 64)) * np.geomspace(1, 0.1, 64)
    mixed = latent @ rng.normal(size=(64, columns)) + 0.3 * rng.normal(size=(rows, columns))
    features = np.maximum(mixed, 0)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    noise = rng.logistic(size=rows)
    return features.astype(np.float32), (2 * latent[:, 0] + latent[:, 5] + noise > 0).astype(int)


def seconds(function: Callable[[], object]) -> tuple[float, object]:
    """Give wall time and result of a call."""
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result


def objective(features: np.ndarray, labels: np.ndarray, model: LogisticRegression) -> float:
    """Compute scikit-learn's objective by its definition, in float64."""
    weights = np.asarray(model.coef_, np.float64)
    logits = (features.astype(np.float64) @ weights.T + model.intercept_).ravel()
    losses = np.logaddexp(0, np.where(labels == 1, -logits, logits))
    return float(model.C * losses.sum() + 0.5 * (weights**2).sum())


def fitted(features: np.ndarray, labels: np.ndarray, cs: list[float], *, warm: bool) -> list[float]:
    """Fit each C with scikit-learn, and return the objectives."""
    model = LogisticRegression(max_iter=100, warm_start=warm)
    return [objective(features, labels, model.set_params(C=c).fit(features, labels)) for c in cs]


def compare(shape: str, *, threads: int | None) -> dict[str, float]:
    """Time both sides on one shape, taking turns, with so many threads (None: the default)."""
    rows, columns = map(int, shape.split("x"))
    features, labels = made(rows, columns)
    grid = list(published_cs())
    large = rows * columns > 4_000_000
    step = 5 if large or (threads is None and rows > 500) else 1
    times: dict[str, list[float]] = {"ours": [], "cold": [], "warm": []}
    with threadpool_limits(threads, user_api="blas"):
        for _ in range(1 if large else 3):
            took, path = seconds(lambda: solve_path(features, labels, cs=grid))
            times["ours"].append(took)
            took, cold = seconds(lambda: fitted(features, labels, grid[::step], warm=False))
            times["cold"].append(took * len(grid) / len(grid[::step]))
            if step == 1:
                times["warm"].append(seconds(lambda: fitted(features, labels, grid, warm=True))[0])
    assert all(solution.converged for solution in path)
    excess = [
        (solution.objective - theirs) / theirs
        for solution, theirs in zip(path[::step], cold, strict=True)
    ]
    assert max(excess) <= 0, f"{shape}: an objective above scikit-learn's"
    medians = {name: statistics.median(taken) for name, taken in times.items() if taken}
    return medians | {
        "ratio": medians["cold"] / medians["ours"],
        "largest_excess": max(excess),
        "steps": sum(solution.iterations for solution in path),
        "fitted": len(cold),
    }


def in_folds(shape: str) -> dict[str, float]:
    """Time nested cross-validation as `medssl-eval linear` runs it on small sets."""
    preset = LinearSettings()
    features, labels = made(*map(int, shape.split("x")))
    kept = np.ones(len(labels), bool)

    folds = (assign_folds(labels, preset.folds, seed=one) for one in range(preset.repeats))
    deals = [NestedFolds(features, labels, labels, fold_of, kept) for fold_of in folds]
    chose, cs = seconds(lambda: [deal.choose(published_cs(), "accuracy") for deal in deals])
    fits, _ = seconds(lambda: [deal.fit(own) for deal, own in zip(deals, cs, strict=True)])
    times = np.random.default_rng(0).multinomial(len(labels), kept / len(labels), REFITS)
    refitted, _ = seconds(
        lambda: [deals[n % len(deals)].fit(cs[n % len(deals)], one) for n, one in enumerate(times)]
    )
    return {"choose": chose, "fit": fits, "refits": refitted}


def settings(shape: str) -> dict[str, int | None]:
    """How many threads a shape is timed with: the largest with the default only, for its time."""
    default = {"default threads": None}
    return default if shape == "20000x1024" else {"one thread": 1, **default}


def main() -> None:
    """Run all comparisons."""
    warnings.simplefilter("ignore")  # scikit-learn says that it did not converge: so it was asked
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default=",".join(TARGETS))
    parser.add_argument("--folds", metavar="SHAPE", help="time nested folds of this shape alone")
    options = parser.parse_args()
    if options.folds:
        print(json.dumps({"benchmark": "folds", options.folds: in_folds(options.folds)}))
        return
    outcome: dict[str, object] = {"benchmark": "linear"}
    for shape in options.shapes.split(","):
        for label, threads in settings(shape).items():
            found = compare(shape, threads=threads)
            outcome[f"{shape}, {label}"] = found
            warm = f", warm-started {found['warm']:.2f} s" if "warm" in found else ""
            part = "" if found["fitted"] == 45 else f" (from {found['fitted']} of 45 fits)"
            print(
                f"{shape}, {label}: {found['ours']:.3f} s ({found['steps']} Newton steps) against "
                f"{found['cold']:.2f} s{part}{warm}: {found['ratio']:.1f} times "
                f"(target {TARGETS.get(shape, 1):g}); objective minus scikit-learn's at most "
                f"{found['largest_excess']:.1e} of it",
                flush=True,
            )
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
