"""Is one model really better than another? Records that meet the same questions, set in pairs.

What can be paired is decided here: few-shot records by their episode plan, others by the questions
of their predictions. The tests are the business of `paired_tests` and `average_ranks`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING

from medssl_models.experiments.cells import data_of

from medssl_eval.errors import InfeasibleError, UnknownNameError
from medssl_eval.experiments.features import patients_of
from medssl_eval.experiments.predictions import read_predictions
from medssl_eval.statistics.average_ranks import Ranking, rank_models
from medssl_eval.statistics.intervals import holm
from medssl_eval.statistics.paired_tests import Difference, compare_episodes, compare_predictions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from medssl_models import Record

    from medssl_eval.compare.cells import Cell
    from medssl_eval.experiments.predictions import Predictions

__all__ = [
    "Comparer",
    "Pair",
    "RankedCells",
    "rank_cells",
]

RESAMPLES = 2000
LEVEL = 0.05


@dataclass(frozen=True)
class Pair:
    """Two models on the same questions.

    Args:
        cell: Where they met.
        first: The better one's record.
        second: The other's.
        difference: First minus second, in the unit of the records.
        adjusted: Test to p-value, Holm-corrected over the pairs of the cell.
    """

    cell: Cell
    first: Record
    second: Record
    difference: Difference
    adjusted: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """The pair as JSON."""
        record, gap, labels = self.first, self.difference, self.cell.labels
        return {
            "dataset": self.cell.dataset,
            "experiment": record.experiment,
            "setting": self.cell.setting,
            "metric": record.metric,
            "unit": record.unit,
            "models": [labels.name(record), labels.name(self.second)],
            "values": [gap.first, gap.second],
            "difference": gap.difference,
            "ci_low": gap.low,
            "ci_high": gap.high,
            "p": _p_values(gap),
            "p_holm": dict(self.adjusted),
            "paired_units": gap.units,
        }


@dataclass(frozen=True)
class RankedCells:
    """Average ranks for one question over several data sets.

    Args:
        title: Experiment and metric.
        datasets: In the order of the rows of `ranking.ranks`.
        ranking: See `Ranking`.
        left_out: Models that miss on some data set.
    """

    title: str
    datasets: tuple[str, ...]
    ranking: Ranking
    left_out: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """The ranks as JSON."""
        found = self.ranking
        return {
            "title": self.title,
            "datasets": list(self.datasets),
            "models": list(found.models),
            "mean_ranks": found.mean_ranks.tolist(),
            "ranks": found.ranks.tolist(),
            "friedman_chi_square": found.chi_square,
            "p_friedman": found.p_friedman,
            "iman_davenport_f": found.f_statistic,
            "p_iman_davenport": found.p_value,
            "nemenyi_critical_difference": found.critical_difference,
            "p_nemenyi": found.p_nemenyi.tolist(),
            "not_told_apart": [list(found.models[a : b + 1]) for a, b in found.groups],
            "left_out": list(self.left_out),
        }


@dataclass
class Comparer:
    """Compares the models of a cell in pairs.

    Args:
        results: The records' file; predictions lie beside it.
        resamples: Of the bootstrap, and as many permutations.
        seed: Of both.
        notes: What could not be compared, and why; grows.
    """

    results: Path
    resamples: int = RESAMPLES
    seed: int = 0
    notes: list[str] = field(default_factory=list)
    _read: dict[str, Predictions] = field(default_factory=dict)

    def compare(self, cell: Cell, *, against: str = "") -> list[Pair]:
        """Test all pairs of a cell, better model first.

        Args:
            cell: Its records.
            against: A model that each pair must hold; `best` is the first one; empty takes all.
        """
        anchor = cell.records[0].provenance.model if against == "best" else against
        pairs = []
        for first, second in combinations(cell.records, 2):
            if anchor and anchor not in {first.provenance.model, second.provenance.model}:
                continue
            difference = self._difference(cell, first, second)
            if difference is not None:
                pairs.append(Pair(cell, first, second, difference))
        self._warn_of_few_resamples(len(pairs))
        return _adjust(pairs)

    def check_against(self, name: str, cells: Sequence[Cell]) -> None:
        """Refuse a model that stands in no cell.

        Raises:
            UnknownNameError: The message lists the models that do.
        """
        models = sorted({r.provenance.model for cell in cells for r in cell.records})
        if cells and name not in {"", "best", *models}:
            message = f"--against is {name!r}; choose best, {', '.join(models)}"
            raise UnknownNameError(message)

    def _difference(self, cell: Cell, first: Record, second: Record) -> Difference | None:
        if "correct" in first.details and "correct" in second.details:
            return self._between_episodes(cell, first, second)
        if "predictions" in first.details and "predictions" in second.details:
            return self._between_predictions(cell, first, second)
        self._note(cell, first, second, "a record holds no single answers: repeat it with --force")
        return None

    def _between_episodes(self, cell: Cell, first: Record, second: Record) -> Difference | None:
        if first.details.get("plan") != second.details.get("plan"):
            why = "they met other episodes; under corrected all meet the same"
            self._note(cell, first, second, why)
            return None
        shares = [
            [100.0 * count / _number(record, "questions") for count in _numbers(record, "correct")]
            for record in (first, second)
        ]
        return compare_episodes(shares[0], shares[1], resamples=self.resamples, seed=self.seed)

    def _between_predictions(self, cell: Cell, first: Record, second: Record) -> Difference | None:
        ours, theirs = self._predictions(first), self._predictions(second)
        if ours.questions != theirs.questions:
            self._note(cell, first, second, "they were tested on other images or labels")
            return None
        theirs = theirs.in_order(ours.ids)
        found = compare_predictions(
            ours.labels,
            ours.probabilities,
            theirs.probabilities,
            first.metric,
            clusters=patients_of(ours.groups, separate=True),
            resamples=self.resamples,
            seed=self.seed,
        )
        return _scaled(found, 100.0 if first.unit == "%" else 1.0)

    def _predictions(self, record: Record) -> Predictions:
        """Read predictions once; all metrics of a run share them."""
        entry = record.details["predictions"]
        name = str(entry.get("file")) if isinstance(entry, dict) else ""
        if name not in self._read:
            self._read[name] = read_predictions(record, self.results)
        return self._read[name]

    def _note(self, cell: Cell, first: Record, second: Record, why: str) -> None:
        models = f"{cell.labels.name(first)} and {cell.labels.name(second)}"
        self.notes.append(f"{cell.title}: {models} cannot be compared in pairs: {why}")

    def _warn_of_few_resamples(self, pairs: int) -> None:
        if pairs > LEVEL * (self.resamples + 1):
            needed = int(pairs / LEVEL)
            self.notes.append(
                f"with {pairs} pairs and {self.resamples} resamples no corrected p-value can be "
                f"below {LEVEL}: use --resamples {needed} or --against"
            )


def rank_cells(cells: Sequence[Cell], notes: list[str] | None = None) -> list[RankedCells]:
    """Rank models over data sets, for each question that two data sets or more answer.

    Args:
        cells: From `gather_cells`.
        notes: Takes why a question with several data sets cannot be ranked.
    """
    questions: dict[tuple[object, ...], dict[object, Cell]] = {}
    for cell in cells:
        questions.setdefault(cell.question, {})[data_of(cell.records[0])] = cell
    ranked = []
    for datasets in questions.values():
        group = list(datasets.values())
        if len(group) < 2 or not group[0].metric.sign:
            continue
        try:
            ranked.append(_rank(group))
        except InfeasibleError as error:
            if notes is not None:
                notes.append(f"{group[0].title}: {error}")
    return ranked


def _rank(group: Sequence[Cell]) -> RankedCells:
    tables = [{cell.labels.name(r): r.value for r in cell.records} for cell in group]
    everywhere = [name for name in tables[0] if all(name in table for table in tables)]
    ranking = rank_models(
        [[table[name] for name in everywhere] for table in tables],
        everywhere,
        higher_is_better=group[0].metric.sign > 0,
    )
    some = dict.fromkeys(name for table in tables for name in table)
    return RankedCells(
        title=group[0].question_title,
        datasets=tuple(cell.dataset for cell in group),
        ranking=ranking,
        left_out=tuple(name for name in some if name not in everywhere),
    )


def _adjust(pairs: Sequence[Pair]) -> list[Pair]:
    """Correct each test over the pairs that have it."""
    adjusted: list[dict[str, float]] = [{} for _ in pairs]
    for test in ("bootstrap", "permutation", "delong"):
        found = [(row, p) for row, pair in enumerate(pairs) if (p := _p(pair, test)) is not None]
        for (row, _), value in zip(found, holm([p for _, p in found]), strict=True):
            adjusted[row][test] = float(value)
    return [replace(pair, adjusted=p) for pair, p in zip(pairs, adjusted, strict=True)]


def _p(pair: Pair, test: str) -> float | None:
    return _p_values(pair.difference)[test]


def _p_values(gap: Difference) -> dict[str, float | None]:
    return {
        "bootstrap": gap.p_bootstrap,
        "permutation": gap.p_permutation,
        "delong": gap.p_delong,
    }


def _scaled(gap: Difference, factor: float) -> Difference:
    return replace(
        gap,
        first=factor * gap.first,
        second=factor * gap.second,
        difference=factor * gap.difference,
        low=factor * gap.low,
        high=factor * gap.high,
    )


def _number(record: Record, name: str) -> float:
    value = record.details[name]
    return float(value) if isinstance(value, int | float) else 0.0


def _numbers(record: Record, name: str) -> list[float]:
    values = record.details[name]
    return (
        [float(v) for v in values if isinstance(v, int | float)] if isinstance(values, list) else []
    )
