"""The study's classifier as scikit-learn of spring 2022 fits it, held against `*.npz` beside it.

Run by `nox -s oracle-sklearn` in an environment of its own; nothing else of ours runs there.
With `--write` the fits are stored, for the tests that hold our own solver against them.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression

STORED = Path(__file__).with_suffix(".npz")
CLASSES = (2, 3)
COLUMNS, TRAINING, VALIDATION = 12, 300, 150
COLD_C = 100.0
OPTIONS = {"multi_class": "multinomial", "max_iter": 100, "tol": 1e-4}
# Fits that are cut off differ so much between kernels of linear algebra (measured on five).
CLOSE = {"coefficients": 0.08, "final": 1e-3, "cold": 1e-3}


def grid():
    """Return the study's 45 values of C, in its order."""
    return 1 / (10.0 ** (-6 + 0.25 * np.arange(45))).astype(np.float32).astype(float)


def part(rows, classes, generator):
    """Make rectified features of unlike sizes, (N, D) float32, and labels that overlap, (N,)."""
    scales = np.geomspace(10, 2, COLUMNS)
    features = np.maximum(generator.randn(rows, COLUMNS) + 2, 0) * scales
    features = (np.rint(4 * features) / 4).astype(np.float32)  # few digits are stored small
    weights = np.geomspace(1, 9, COLUMNS // classes)
    pull = np.stack([features[:, k::classes] @ weights for k in range(classes)], axis=1)
    labels = (pull / 40 + generator.gumbel(size=(rows, classes))).argmax(axis=1)
    labels[:classes] = np.arange(classes)
    return features, labels.astype(np.int8)


def fitted(model):
    """Return coefficients and intercepts, (K, D + 1), and iterations of a fitted model."""
    return np.column_stack([model.coef_, model.intercept_]), int(model.n_iter_[0])


def search(classes):
    """Search as the study did: along the grid, then a refit that starts from its last point."""
    generator = np.random.RandomState(70 + classes)
    features, labels = part(TRAINING, classes, generator)
    held, truth = part(VALIDATION, classes, generator)
    model = LogisticRegression(warm_start=True, **OPTIONS)
    path, iterations, scores = [], [], []
    for c in grid():
        coefficients, count = fitted(model.set_params(C=c).fit(features, labels))
        path.append(coefficients)
        iterations.append(count)
        scores.append(model.score(held, truth))
    chosen = int(np.argmax(scores))
    both = np.concatenate([features, held]), np.concatenate([labels, truth])
    cold = LogisticRegression(C=COLD_C, **OPTIONS).fit(*both)
    return {
        "features": both[0],
        "labels": both[1],
        "coefficients": np.array(path),
        "iterations": np.array(iterations, np.int16),
        "scores": np.array(scores),
        "chosen": np.array(chosen),
        "final": fitted(model.set_params(C=grid()[chosen]).fit(*both))[0],
        "cold": fitted(cold)[0],
        "cold_iterations": np.array(fitted(cold)[1], np.int16),
    }


def everything():
    """Fit the problems of two and of three classes."""
    return {
        f"{name}_{classes}": value for classes in CLASSES for name, value in search(classes).items()
    }


def differences(found, stored):
    """Say what is not as it was stored."""
    for classes in CLASSES:
        for name, close in CLOSE.items():
            ours, theirs = found[f"{name}_{classes}"], stored[f"{name}_{classes}"]
            error = np.abs(ours - theirs).max() / np.abs(theirs).max()
            if error > close:
                yield f"{classes} classes: {name} differ by {error:.1e} of the largest"
        moved = int((found[f"scores_{classes}"] != stored[f"scores_{classes}"]).sum())
        if moved > 2 or found[f"chosen_{classes}"] != stored[f"chosen_{classes}"]:
            yield f"{classes} classes: {moved} of 45 scores differ"


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # as the study hid that fits were cut off
    results = everything()
    if "--write" in sys.argv:
        np.savez_compressed(STORED, **results)
    wrong = list(differences(results, np.load(STORED)))
    sys.exit("\n".join([f"scikit-learn {sklearn.__version__}", *wrong]) if wrong else 0)
