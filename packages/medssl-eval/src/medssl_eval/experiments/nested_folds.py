"""Nested cross-validation of a linear classifier: every image is predicted, and by others only.

C is chosen for each fold on the other folds, so that no image helps to choose what predicts it.
Which images stand in which fold is `partition`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.errors import InfeasibleError
from medssl_eval.solver.logistic import choose_c, solve, solve_path
from medssl_eval.solver.scaling import Scaling
from medssl_eval.statistics.metrics import validation_score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medssl_eval.solver.logistic import LogisticSolution

    Floats = NDArray[np.float64]
    Features = NDArray[np.floating]
    Integers = NDArray[np.int64]

__all__ = ["FoldedFit", "NestedFolds"]


@dataclass(frozen=True, eq=False)
class FoldedFit:
    """One classifier for each fold, fitted to the other folds.

    Args:
        probabilities: (N, K), of each row by the classifier that did not see its fold.
        solutions: One a fold.
        constant_features: How many features never change in a training part, at most.
    """

    probabilities: Floats
    solutions: tuple[LogisticSolution, ...]
    constant_features: int

    @property
    def cs(self) -> tuple[float, ...]:
        """The C of each fold."""
        return tuple(solution.c for solution in self.solutions)


@dataclass(frozen=True, eq=False)
class NestedFolds:
    """Features and labels dealt into folds.

    Args:
        features: (N, D), finite.
        targets: (N,) int64 in 0..K-1, or soft targets (N, K).
        labels: (N,) int64 in 0..K-1, by which C is chosen.
        fold_of: (N,) int64 in 0..F-1, F at least 3.
        kept: (N,) bool, the rows that train and choose; all are predicted.
        standardise: Whether each feature is brought to mean 0 and deviation 1 of what trains.
        factor: What each C is multiplied by in the solver's objective.

    Raises:
        InfeasibleError: A class without a row in some training part.
    """

    features: Features
    targets: NDArray[np.generic]
    labels: Integers
    fold_of: Integers
    kept: NDArray[np.bool_]
    standardise: bool = True
    factor: float = 1.0

    def __post_init__(self) -> None:
        for pair in combinations(self.folds, 2):
            present = np.unique(self.labels[self._without(*pair)])
            if len(present) < len(np.unique(self.labels)):
                message = (
                    f"a class has no training image outside folds {pair[0]} and {pair[1]}; use "
                    "fewer folds, or leave the class out"
                )
                raise InfeasibleError(message)

    @property
    def folds(self) -> range:
        """Numbers of the folds."""
        return range(int(self.fold_of.max()) + 1)

    @property
    def trained(self) -> float:
        """How many rows train a classifier, on average over the folds."""
        return float(np.mean([np.count_nonzero(self._without(fold)) for fold in self.folds]))

    def choose(self, cs: Sequence[float], select: str) -> list[float]:
        """Choose a C for each fold, by cross-validation over the others.

        What is fitted without the folds f and g chooses for both: for f it predicts g, for g it
        predicts f. F folds so cost F (F - 1) / 2 paths over C. A fold's predictions are pooled over
        the others before they are scored.

        Args:
            cs: Values to choose from; ties keep the larger.
            select: The metric that chooses.

        Raises:
            InfeasibleError: The metric is not defined on the other folds.

        References:
            Varma and Simon, Bias in error estimation when using cross-validation for model
            selection, 2006.
        """
        if len(cs) == 1:
            return [cs[0]] * len(self.folds)
        predicted: dict[tuple[int, int], Floats] = {}
        for one, other in combinations(self.folds, 2):
            train = self._without(one, other)
            scaling = Scaling.of(self.features[train], standardise=self.standardise)
            path = solve_path(
                scaling(self.features[train]), self.targets[train], cs=[c * self.factor for c in cs]
            )
            for chooser, held in ((one, other), (other, one)):
                rows = scaling(self.features[self._choosing(held)]).astype(np.float64)
                predicted[chooser, held] = np.stack([fit.probabilities(rows) for fit in path])
        return [cs[choose_c(cs, self._scores(fold, predicted, select))] for fold in self.folds]

    def fit(self, cs: Sequence[float], times: Integers | None = None) -> FoldedFit:
        """Fit each fold's classifier to the other folds, and predict the fold.

        Args:
            cs: The C of each fold.
            times: (N,) int64, how often each row trains; None is once.
        """
        weights = np.ones(len(self.labels)) if times is None else times.astype(np.float64)
        solutions, constant = [], 0
        found = np.zeros((len(self.labels), len(np.unique(self.labels))))
        for fold, c in zip(self.folds, cs, strict=True):
            train = self._without(fold) & (weights > 0)
            scaling = Scaling.of(
                self.features[train], standardise=self.standardise, weights=weights[train]
            )
            solution = solve(
                scaling(self.features[train]),
                self.targets[train],
                c=c * self.factor,
                weights=weights[train],
            )
            asked = self.fold_of == fold
            found[asked] = solution.probabilities(scaling(self.features[asked]))
            solutions.append(replace(solution, c=c))
            constant = max(constant, scaling.constant)
        return FoldedFit(found, tuple(solutions), constant)

    def serves(self, times: Integers) -> bool:
        """Tell whether every classifier still meets every class, rows training so many times."""
        classes = len(np.unique(self.labels))
        return all(
            len(np.unique(self.labels[self._without(fold) & (times > 0)])) == classes
            for fold in self.folds
        )

    def _without(self, *folds: int) -> NDArray[np.bool_]:
        return np.asarray(self.kept & ~np.isin(self.fold_of, folds), np.bool_)

    def _choosing(self, fold: int) -> NDArray[np.bool_]:
        return np.asarray(self.kept & (self.fold_of == fold), np.bool_)

    def _scores(
        self, fold: int, predicted: dict[tuple[int, int], Floats], select: str
    ) -> list[float]:
        others = [other for other in self.folds if other != fold]
        truth = np.concatenate([self.labels[self._choosing(other)] for other in others])
        pooled = np.concatenate([predicted[fold, other] for other in others], axis=1)
        return [validation_score(select, truth, probabilities) for probabilities in pooled]
