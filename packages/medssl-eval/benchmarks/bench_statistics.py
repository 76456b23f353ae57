"""1,000 clustered bootstrap resamples of AUROC on 20,000 rows, against a loop over scikit-learn.

    python packages/medssl-eval/benchmarks/bench_statistics.py

The loop is timed on 20 resamples between our runs and multiplied. Target: under 5 s.
"""

import json
import statistics
import time

import numpy as np
from medssl_eval.statistics.intervals import replicate
from sklearn.metrics import roc_auc_score

ROWS, PATIENTS, RESAMPLES, SAMPLE, REPEATS, TARGET = 20_000, 8_000, 1_000, 20, 3, 5.0


def loop(labels: np.ndarray, scores: np.ndarray, owners: np.ndarray, resamples: int) -> None:
    """Draw patients, gather their rows, and call scikit-learn."""
    rng = np.random.default_rng(0)
    order = np.argsort(owners, kind="stable")
    rows_of = np.split(order, np.cumsum(np.bincount(owners, minlength=PATIENTS))[:-1])
    for _ in range(resamples):
        rows = np.concatenate([rows_of[one] for one in rng.integers(0, PATIENTS, PATIENTS)])
        roc_auc_score(labels[rows], scores[rows])


def main() -> None:
    """Time both in turn and print medians, the ratio and the target."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, ROWS)
    scores = np.clip(0.5 + 0.1 * labels + 0.2 * rng.standard_normal(ROWS), 0, 1)
    owners = rng.integers(0, PATIENTS, ROWS)
    names = [f"p{owner}" for owner in owners]
    ours, theirs = [], []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        replicate(labels, scores, ["auroc"], clusters=names, resamples=RESAMPLES)
        ours.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        loop(labels, scores, owners, SAMPLE)
        theirs.append((time.perf_counter() - begin) * RESAMPLES / SAMPLE)
    mine, loops = statistics.median(ours), statistics.median(theirs)
    print(f"loop over scikit-learn {loops:.1f} s, ours {mine:.2f} s: {loops / mine:.0f} times")
    print(f"target: under {TARGET:.0f} s for {RESAMPLES} resamples of {ROWS} rows")
    print(json.dumps({"seconds": mine, "loop_seconds": loops, "target_seconds": TARGET}))


if __name__ == "__main__":
    main()
