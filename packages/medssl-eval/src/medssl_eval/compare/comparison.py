"""Is one model really better than another? Records that meet the same questions, set in pairs.

What can be paired is decided here: records by the influences of the same patients on them, by the
questions of their predictions, or, where there is nothing else, by their episodes. The tests are
the business of `joint_tests`, `paired_tests` and `average_ranks`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

from medssl_models.experiments.cells import data_of

from medssl_eval.compare.meetings import Meeting, gather_meetings
from medssl_eval.errors import InfeasibleError, UnknownNameError
from medssl_eval.statistics.average_ranks import Ranking, rank_models
from medssl_eval.statistics.joint_tests import all_pairs, needed_units

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from medssl_models import Record

    from medssl_eval.compare.cells import Cell
    from medssl_eval.experiments.predictions import Predictions
    from medssl_eval.statistics.paired_tests import Difference

__all__ = [
    "LEVEL",
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
        p_adjusted: By permutation, over all pairs that were tested together.
        family: How many pairs of models that were.
        over: What the test covers: `patients`, `images`, or `episodes`, which says nothing about
            other images.
    """

    cell: Cell
    first: Record
    second: Record
    difference: Difference
    p_adjusted: float
    family: int
    over: str

    @property
    def needed(self) -> int | None:
        """On how many units the difference would be proven; None where it is 0 or of episodes."""
        gap = self.difference
        if self.over == "episodes":
            return None
        return needed_units(gap.difference, gap.standard_error, gap.units)

    @property
    def is_at_odds(self) -> bool:
        """Whether the interval and the test of this pair alone give different answers."""
        gap = self.difference
        return (gap.low > 0 or gap.high < 0) != (gap.p_permutation < LEVEL)

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
            "standard_error": gap.standard_error,
            "p": {
                "bootstrap": gap.p_bootstrap,
                "permutation": gap.p_permutation,
                "delong": gap.p_delong,
            },
            "p_adjusted": self.p_adjusted,
            "at_odds": self.is_at_odds,
            "adjustment": f"step-down max-T by permutation over {self.family} pairs",
            "paired_units": gap.units,
            "covers": self.over,
            "needed_units": self.needed,
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
            against: A model that each pair must hold. `best` is the first one: as it was chosen on
                the same images, all pairs are tested, and its own returned. Empty takes all.
        """
        if against != "best":
            return self.compare_together([cell], against=against)
        return self.compare_together([cell], about=cell.records[0].provenance.model)

    def compare_together(
        self, cells: Sequence[Cell], *, against: str = "", about: str = ""
    ) -> list[Pair]:
        """Test the pairs of several cells so that any false alarm is as rare as the level.

        Two models have one adjusted p-value over all cells: for the claim that one of them lost in
        every cell, and in one beyond chance.

        Args:
            cells: Such as those of several experiments on one data set.
            against: A model, chosen before the data were seen, that each pair must hold; empty
                takes all.
            about: A model that each pair that is returned must hold, though all are tested.
        """
        meetings = [m for cell in cells for m in self._meetings(cell)]
        chosen = [_positions(meeting, against) for meeting in meetings]
        meetings = [m for m, pairs in zip(meetings, chosen, strict=True) if pairs]
        chosen = [pairs for pairs in chosen if pairs]
        if not meetings:
            return []
        tests = all_pairs(
            [meeting.panel for meeting in meetings],
            chosen,
            resamples=self.resamples,
            seed=self.seed,
            claims=(claims := _claims(meetings, chosen)),
        )
        family = len({abs(number) for numbers in claims for number in numbers})
        found = []
        for meeting, pairs, tested in zip(meetings, chosen, tests, strict=True):
            wanted = [place for place, pair in enumerate(pairs) if _holds(meeting, pair, about)]
            shown, tested_ = [pairs[place] for place in wanted], tested.take(wanted)
            gaps = meeting.differences(shown, tested_, resamples=self.resamples, seed=self.seed)
            for (one, other), gap, p in zip(shown, gaps, tested_.p_adjusted.tolist(), strict=True):
                first, second = meeting.records[one], meeting.records[other]
                found.append(Pair(meeting.cell, first, second, gap, p, family, meeting.over))
        return found

    def check_against(self, name: str, cells: Sequence[Cell]) -> None:
        """Refuse a model that stands in no cell.

        Raises:
            UnknownNameError: The message lists the models that do.
        """
        models = sorted({r.provenance.model for cell in cells for r in cell.records})
        if cells and name not in {"", "best", *models}:
            message = f"--against is {name!r}; choose best, {', '.join(models)}"
            raise UnknownNameError(message)

    def _meetings(self, cell: Cell) -> list[Meeting]:
        found, reasons = gather_meetings(cell, self.results, self._read)
        for one, other, why in reasons:
            models = f"{cell.labels.name(one)} and {cell.labels.name(other)}"
            self._note(f"{cell.title}: {models} cannot be compared in pairs: {why}")
        if any(meeting.over == "episodes" for meeting in found):
            self._note(
                f"{cell.title}: these records hold no influences of single images: intervals and p "
                "cover the draw of episodes only, and p is too small for claims about images"
            )
        return found

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _positions(meeting: Meeting, against: str) -> list[tuple[int, int]]:
    every = combinations(range(len(meeting.records)), 2)
    return [pair for pair in every if _holds(meeting, pair, against)]


def _holds(meeting: Meeting, pair: tuple[int, int], model: str) -> bool:
    """Tell whether a pair holds a model; every pair does where there is no name."""
    return not model or model in {meeting.records[place].provenance.model for place in pair}


def _claims(
    meetings: Sequence[Meeting], chosen: Sequence[Sequence[tuple[int, int]]]
) -> list[list[int]]:
    """Number the pairs of models, negative where the second name comes first."""
    names = [[record.provenance.model for record in meeting.records] for meeting in meetings]
    numbers: dict[tuple[str, str], int] = {}
    found = []
    for known, pairs in zip(names, chosen, strict=True):
        ordered = [(known[one], known[other]) for one, other in pairs]
        found.append(
            [
                numbers.setdefault((min(pair), max(pair)), len(numbers) + 1)
                * (1 if pair[0] <= pair[1] else -1)
                for pair in ordered
            ]
        )
    return found


def rank_cells(cells: Sequence[Cell], notes: list[str] | None = None) -> list[RankedCells]:
    """Rank models over data sets, for each question that five data sets or more answer.

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
