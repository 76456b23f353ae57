"""The study's own search for C: L-BFGS as scikit-learn of spring 2022 ran it, cut off at 100.

`logistic` solves the same problem to convergence; here is what the published numbers were made
with, so that they can be repeated. scikit-learn up to 1.1 minimised the sum of the losses in
float64; later ones minimise their mean, which the same tolerances stop much earlier.
"""

from __future__ import annotations

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

    Floats = NDArray[np.float64]

__all__ = ["PublishedFit", "fit_published"]

TOLERANCE = 1e-4
"""scikit-learn's, on the largest element of the gradient."""


@dataclass(frozen=True, slots=True, eq=False)
class PublishedFit:
    """The study's classifier, step by step.

    Args:
        path: One solution for each C, on the training part, in the order of the grid; none where
            there is one C only.
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

    Of one C there is no search: the fit of both parts starts from zero. For two classes the study's
    softmax has two weight vectors, which mirror each other; a solution has their difference as
    coefficients, and the objective of both.

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
    grid = published_cs() if cs is None else cs
    ascending(grid)
    rows, held = checked_features(training[0]), checked_features(validation[0])
    labels, truth = np.asarray(training[1]), np.asarray(validation[1], np.int64)
    path: list[LogisticSolution] = []
    scores: list[float] = []
    start = None
    if len(grid) > 1:
        part = _CutOff.of(rows, labels, softmax=softmax, max_iterations=max_iterations)
        for c in grid:
            solution, start = part.fit(c, start)
            path.append(solution)
            scores.append(score(truth, solution.probabilities(held)))
        del part  # holds the features in float64, as the next one does
    chosen = choose_c(grid, scores) if scores else 0
    both, both_labels = np.concatenate([rows, held]), np.concatenate([labels, truth])
    whole = _CutOff.of(both, both_labels, softmax=softmax, max_iterations=max_iterations)
    final, _ = whole.fit(grid[chosen], start if warm_refit else None)
    return PublishedFit(tuple(path), tuple(scores), chosen, final)


@dataclass(frozen=True, slots=True, eq=False)
class _CutOff:
    """L-BFGS on one part of the data.

    Args:
        problem: Rows, not centred, with one column of targets for each weight vector.
        twins: Whether two classes have two weight vectors.
        max_iterations: For each C.
    """

    problem: Problem
    twins: bool
    max_iterations: int

    @classmethod
    def of(
        cls,
        rows: NDArray[np.floating],
        labels: NDArray[np.generic],
        *,
        softmax: bool,
        max_iterations: int,
    ) -> _CutOff:
        ones = np.ones(len(rows))
        soft = checked_targets(labels, ones, None)
        binary = soft.shape[1] == 2
        targets = soft[:, 1:] if binary and not softmax else soft
        design = Design(rows, np.zeros(rows.shape[1]))
        return cls(Problem(design, targets, ones), binary and softmax, max_iterations)

    def fit(self, c: float, start: Floats | None) -> tuple[LogisticSolution, Floats]:
        """Minimise sum(loss) + ||coefficients||^2 / (2 C) from a start, (K, D + 1), or from zero.

        Returns:
            The solution, and the parameters from which the next C starts.
        """
        from scipy.optimize import fmin_l_bfgs_b

        shape = self.problem.targets.shape[1], self.problem.design.columns + 1

        def objective(flat: Floats) -> tuple[float, Floats]:
            point = evaluate(self.problem, flat.reshape(shape).T, c)
            return point.objective / c, point.gradient.T.ravel() / c

        found, _, course = fmin_l_bfgs_b(
            objective,
            (np.zeros(shape) if start is None else start).ravel(),
            pgtol=TOLERANCE,
            maxiter=self.max_iterations,
            m=10,  # from here on what SciPy took of itself in 2022
            factr=1e7,
            maxfun=15_000,
            maxls=20,
        )
        end = found.reshape(shape)
        if self.twins:  # scikit-learn keeps the second vector and lets the first mirror it
            end = np.stack([-end[1], end[1]])
        solution = LogisticSolution.at(
            evaluate(self.problem, end.T, c),
            np.zeros(shape[1] - 1),
            c=float(c),
            iterations=int(course["nit"]),
            converged=course["warnflag"] == 0,
        )
        if self.twins:  # so does its prediction: the log-odds are twice what the second one says
            doubled = 2 * solution.coefficients[1:], 2 * solution.intercepts[1:]
            solution = replace(solution, coefficients=doubled[0], intercepts=doubled[1])
        return solution, end
