"""The study's own search for C: scikit-learn's L-BFGS, cut off, warm-started along the grid.

`logistic` solves the same objective to convergence; here is what the published numbers were made
with, so that they can be repeated.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.solver.logistic import (
    LogisticSolution,
    ascending,
    checked_features,
    checked_targets,
    choose_c,
    published_cs,
)
from medssl_eval.solver.newton import Design, Problem, evaluate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray
    from sklearn.linear_model import LogisticRegression

    Floats = NDArray[np.float64]

__all__ = ["PublishedFit", "fit_published"]


@dataclass(frozen=True, slots=True, eq=False)
class PublishedFit:
    """The study's classifier, step by step.

    Args:
        path: One solution for each C, on the training part, in the order of the grid.
        scores: Validation score of each.
        chosen: Index of the chosen C.
        final: The refit on training and validation parts.
    """

    path: tuple[LogisticSolution, ...]
    scores: tuple[float, ...]
    chosen: int
    final: LogisticSolution


def fit_published(
    training: tuple[ArrayLike, ArrayLike],
    validation: tuple[ArrayLike, ArrayLike],
    *,
    score: Callable[[NDArray[np.int64], Floats], float],
    cs: Sequence[float] | None = None,
    max_iterations: int = 100,
    softmax: bool = True,
    warm_refit: bool = True,
) -> PublishedFit:
    """Search for C as the study did: L-BFGS, cut off, warm-started along the grid.

    For two classes the study's softmax with two weight vectors is the binary form with C doubled;
    the `c` of a solution is the study's, its objective that of the doubled one.

    Args:
        training: Features (N, D) and labels (N,).
        validation: The same for the validation part.
        score: (labels, probabilities) -> number, higher is better.
        cs: Values of C in the order of the visit (default: `published_cs`).
        max_iterations: L-BFGS iterations for each C.
        softmax: Whether two classes have two weight vectors, as in the study.
        warm_refit: Whether the refit starts from the last point of the grid, as in the study (not
            from the chosen one), or from zero.

    Raises:
        FeatureError: Features of a wrong shape or not finite.
        LabelError: A class without a training row.

    Example:
        >>> part = [[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]
        >>> accuracy = lambda labels, scores: (labels == scores.argmax(axis=1)).mean()
        >>> fit = fit_published(part, part, score=accuracy, cs=[10.0, 0.1])
        >>> fit.chosen, fit.final.c
        (0, 10.0)
    """
    from sklearn import linear_model

    grid = published_cs() if cs is None else cs
    ascending(grid)
    rows, held = checked_features(training[0]), checked_features(validation[0])
    labels, truth = np.asarray(training[1]), np.asarray(validation[1], np.int64)
    width = checked_targets(labels, np.ones(len(rows)), None).shape[1]
    factor = 2 if softmax and width == 2 else 1
    model = linear_model.LogisticRegression(max_iter=max_iterations, warm_start=True, tol=1e-4)
    path = [_cut_off(model, rows, labels, c * factor) for c in grid]
    scores = [score(truth, solution.probabilities(held)) for solution in path]
    chosen = choose_c(grid, scores)
    both, both_labels = np.concatenate([rows, held]), np.concatenate([labels, truth])
    model.set_params(warm_start=warm_refit)
    final = _cut_off(model, both, both_labels, grid[chosen] * factor)
    steps = [replace(solution, c=float(c)) for solution, c in zip(path, grid, strict=True)]
    return PublishedFit(tuple(steps), tuple(scores), chosen, replace(final, c=float(grid[chosen])))


def _cut_off(
    model: LogisticRegression, rows: NDArray[np.floating], labels: NDArray[np.generic], c: float
) -> LogisticSolution:
    """Fit once by warm-started scikit-learn, measured with our own objective."""
    from sklearn.exceptions import ConvergenceWarning

    model.set_params(C=c)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported as `converged`
        model.fit(rows, labels)
    soft = checked_targets(labels, np.ones(len(rows)), None)
    mean = np.zeros(rows.shape[1])
    columns = soft[:, 1:] if soft.shape[1] == 2 else soft
    problem = Problem(Design(rows, mean), columns, np.ones(len(rows)))
    theta = np.vstack([model.coef_.T, model.intercept_]).astype(np.float64)
    iterations = int(model.n_iter_[0])
    solution = LogisticSolution.at(
        evaluate(problem, theta, c),
        mean,
        c=c,
        iterations=iterations,
        converged=iterations < model.max_iter,
    )
    # Products keep their last bit in the order in which scikit-learn lays the coefficients out.
    return replace(solution, coefficients=np.array(model.coef_, np.float64))
