"""Records of one cell that met the same questions, with what each patient adds to their values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.experiments.intervals import percentile_interval

from medssl_eval.errors import LabelError
from medssl_eval.experiments.features import patients_of, unit_names
from medssl_eval.experiments.influences import read_influences
from medssl_eval.experiments.predictions import read_predictions
from medssl_eval.statistics.intervals import bootstrap_p, bootstrap_weights, checked_units
from medssl_eval.statistics.joint_tests import Panel, jackknife_panel
from medssl_eval.statistics.metrics import metric
from medssl_eval.statistics.paired_tests import Difference, delong_p, episodes_panel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from medssl_models import Record
    from numpy.typing import NDArray

    from medssl_eval.compare.cells import Cell
    from medssl_eval.experiments.influences import Influences
    from medssl_eval.experiments.predictions import Predictions
    from medssl_eval.statistics.joint_tests import PairTests

    Floats = NDArray[np.float64]

__all__ = ["Meeting", "Reason", "gather_meetings"]

Reason = tuple["Record", "Record", str]


@dataclass(frozen=True, eq=False)
class Meeting(ABC):
    """Models that answered the same questions.

    Args:
        cell: Where they stand.
        records: k, in the order of the cell.
    """

    cell: Cell
    records: tuple[Record, ...]

    @property
    @abstractmethod
    def panel(self) -> Panel:
        """What each unit adds to the values, in the unit of the records."""

    @property
    @abstractmethod
    def over(self) -> str:
        """What tests cover: `patients`, `images` or `episodes`."""

    @property
    @abstractmethod
    def units(self) -> int:
        """How many of these there are."""

    def differences(
        self, pairs: Sequence[tuple[int, int]], tests: PairTests, *, resamples: int, seed: int
    ) -> list[Difference]:
        """Put together what separates the models of each pair.

        Args:
            pairs: Positions of two models.
            tests: Of these pairs.
            resamples: Of the bootstrap.
            seed: Of the bootstrap.
        """
        drawn = self._drawn(resamples, seed)
        found = []
        for place, (one, other) in enumerate(pairs):
            gap = float(tests.difference[place])
            low, high, p = self._interval(drawn, one, other, gap)
            found.append(
                Difference(
                    metric=self.records[one].metric,
                    first=float(self.panel.values[one]),
                    second=float(self.panel.values[other]),
                    difference=gap,
                    low=low,
                    high=high,
                    standard_error=float(tests.standard_error[place]),
                    p_bootstrap=p,
                    p_permutation=float(tests.p[place]),
                    p_delong=self._delong(one, other),
                    units=self.units,
                )
            )
        return found

    def _drawn(self, resamples: int, seed: int) -> Sequence[Floats]:
        """Values of each model on common bootstrap resamples, where these can be computed."""
        del resamples, seed
        return ()

    def _interval(
        self, drawn: Sequence[Floats], one: int, other: int, gap: float
    ) -> tuple[float, float, float | None]:
        del gap
        gaps = drawn[one] - drawn[other]
        return *percentile_interval(gaps), bootstrap_p(gaps)

    def _delong(self, one: int, other: int) -> float | None:
        del one, other
        return None


@dataclass(frozen=True, eq=False)
class _OverPredictions(Meeting):
    """Models that predicted the same images.

    Args:
        answers: Of each model, row by row of the same images.
    """

    answers: tuple[Predictions, ...]

    @property
    def over(self) -> str:
        return "patients" if any(self.answers[0].groups) else "images"

    @property
    def units(self) -> int:
        return len(set(self._names))

    @cached_property
    def panel(self) -> Panel:
        found = jackknife_panel(
            self.answers[0].labels,
            [one.probabilities for one in self.answers],
            self.records[0].metric,
            units=self._names,
        )
        return Panel(
            found.units, self._scale * found.influences, self._scale * found.values, found.strata
        )

    @cached_property
    def _names(self) -> list[str]:
        return unit_names(self.answers[0].groups, self.answers[0].ids)

    @property
    def _scale(self) -> float:
        return 100.0 if self.records[0].unit == "%" else 1.0

    @cached_property
    def _patients(self) -> list[str] | None:
        return patients_of(self.answers[0].groups, separate=True)

    def _drawn(self, resamples: int, seed: int) -> Sequence[Floats]:
        compute, first = metric(self.records[0].metric).compute, self.answers[0]
        units, count = checked_units(len(first), self._patients)
        drawn = [
            [compute(one.labels, one.probabilities, weights) for one in self.answers]
            for weights in bootstrap_weights(units, count, resamples=resamples, seed=seed)
        ]
        return list(self._scale * np.concatenate(drawn, axis=1))

    def _delong(self, one: int, other: int) -> float | None:
        if self.records[0].metric != "auroc":
            return None
        ours, theirs = self.answers[one], self.answers[other]
        return delong_p(ours.labels, ours.probabilities, theirs.probabilities, self._patients)


@dataclass(frozen=True, eq=False)
class _OverInfluences(Meeting):
    """Models whose values the same patients moved.

    Args:
        influences: On each model's value.
    """

    influences: tuple[Influences, ...]

    @property
    def over(self) -> str:
        return "patients" if self.records[0].details.get("patients") else "images"

    @property
    def units(self) -> int:
        return int(np.count_nonzero(self.influences[0].strata >= 0))

    @cached_property
    def panel(self) -> Panel:
        first, *others = self.influences
        columns = [first.values, *((first - other).values for other in others)]
        return Panel(
            first.units,
            np.stack([columns[0], *(columns[0] - gap for gap in columns[1:])], axis=1),
            np.array([record.value for record in self.records]),
            first.strata,
        )

    def _interval(
        self, drawn: Sequence[Floats], one: int, other: int, gap: float
    ) -> tuple[float, float, float | None]:
        from scipy.stats import t

        del drawn
        moved = self.influences[one] - self.influences[other]
        reach = float(t.ppf(0.975, moved.freedom)) * moved.standard_error
        return gap - reach, gap + reach, None


@dataclass(frozen=True, eq=False)
class _OverEpisodes(Meeting):
    """Models that met the same episodes, of whose images nothing is known."""

    @property
    def over(self) -> str:
        return "episodes"

    @property
    def units(self) -> int:
        return len(self.panel.units)

    @cached_property
    def panel(self) -> Panel:
        return episodes_panel([_shares(record) for record in self.records])

    def _drawn(self, resamples: int, seed: int) -> Sequence[Floats]:
        count = self.units
        shares = np.array([_shares(record) for record in self.records]).T
        weights = bootstrap_weights(np.arange(count), count, resamples=resamples, seed=seed)
        return list(np.concatenate([chunk @ shares / count for chunk in weights]).T)


def gather_meetings(
    cell: Cell, results: Path, known: dict[str, Predictions]
) -> tuple[list[Meeting], list[Reason]]:
    """Sort the records of a cell into meetings.

    Args:
        cell: Its records.
        results: Their file; predictions and influences lie beside it.
        known: Predictions that were read already, by file; grows.

    Returns:
        Meetings of two models or more, and which pairs cannot be compared, with the reason.

    Raises:
        PredictionsError: A file that a record names is not there, or another one.
    """
    met = [_question(record, results, known) for record in cell.records]
    reasons = [
        (cell.records[one], cell.records[other], _reason(met[one], met[other]))
        for one, other in combinations(range(len(met)), 2)
        if met[one] != met[other] or met[one] == _NOTHING
    ]
    found: list[Meeting] = []
    for question in dict.fromkeys(met):
        records = [r for r, one in zip(cell.records, met, strict=True) if one == question]
        if len(records) < 2 or question == _NOTHING:
            continue
        meeting = _meeting(cell, records, results, known)
        try:
            _ = meeting.panel
        except LabelError as error:
            reasons += [(one, other, str(error)) for one, other in combinations(records, 2)]
        else:
            found.append(meeting)
    return found, reasons


_NOTHING = ("nothing", "")


def _question(record: Record, results: Path, known: dict[str, Predictions]) -> tuple[str, str]:
    """Say what a record answered; equal ones can be set side by side."""
    if "correct" in record.details:
        return "episodes", str(record.details.get("plan"))
    if "predictions" in record.details:
        return "images", _predictions(record, results, known).questions
    if "influences" in record.details:
        return "influences", read_influences(record, results).plan
    return _NOTHING


def _reason(one: tuple[str, str], other: tuple[str, str]) -> str:
    if _NOTHING in (one, other):
        return "a record holds no single answers: repeat it with --force"
    if one[0] == "episodes":
        return "they met other episodes; under corrected all meet the same"
    return "they were tested on other images or labels"


def _meeting(
    cell: Cell, records: Sequence[Record], results: Path, known: dict[str, Predictions]
) -> Meeting:
    if all("influences" in record.details for record in records):
        influences = tuple(read_influences(record, results) for record in records)
        return _OverInfluences(cell, tuple(records), influences)
    if "correct" not in records[0].details:
        first, *others = (_predictions(record, results, known) for record in records)
        answers = (first, *(other.in_order(first.ids) for other in others))
        return _OverPredictions(cell, tuple(records), answers)
    return _OverEpisodes(cell, tuple(records))


def _predictions(record: Record, results: Path, known: dict[str, Predictions]) -> Predictions:
    """Read predictions once; all metrics of a run share them."""
    entry = record.details["predictions"]
    name = str(entry.get("file")) if isinstance(entry, dict) else ""
    if name not in known:
        known[name] = read_predictions(record, results)
    return known[name]


def _shares(record: Record) -> Floats:
    """Accuracy in each episode, (E,) in percent."""
    correct, questions = record.details["correct"], record.details["questions"]
    return 100.0 * np.asarray(correct, np.float64) / np.asarray(questions, np.float64)
