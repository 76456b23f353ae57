"""Records side by side: which of them answer the same question, and which model is best there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medssl_models.errors import did_you_mean
from medssl_models.experiments.cells import (
    Labels,
    data_of,
    model_of,
    newest,
    question_label,
    question_of,
    setting_of,
)
from medssl_models.experiments.registry import metric_of

from medssl_eval.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from medssl_models import Metric, Record

__all__ = ["Cell", "Choice", "gather_cells", "select_records"]


@dataclass(frozen=True)
class Choice:
    """Which records to look at; an empty field takes all.

    Args:
        models: Names of models.
        datasets: Names of data sets.
        experiments: Such as `linear`.
        metrics: Such as `accuracy`.
    """

    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    experiments: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """Records of several models that answer one question on one data set.

    Args:
        records: One a model, best first where the metric has a direction.
        labels: Of all records that were gathered with these.
    """

    records: tuple[Record, ...]
    labels: Labels

    @property
    def metric(self) -> Metric:
        """What the values mean."""
        return metric_of(self.records[0])

    @property
    def dataset(self) -> str:
        """The data set's label."""
        return self.labels.dataset(self.records[0])

    @property
    def setting(self) -> str:
        """The setting's label."""
        return self.labels.setting(self.records[0])

    @property
    def title(self) -> str:
        """Data set, setting and metric in a line."""
        return f"{self.dataset}, {self.setting}, {self.records[0].metric}"

    @property
    def question(self) -> tuple[object, ...]:
        """What is asked, whatever the data set."""
        return question_of(self.records[0])

    @property
    def question_title(self) -> str:
        """The question in a line."""
        return question_label(self.records[0])


def select_records(records: Iterable[Record], choice: Choice) -> list[Record]:
    """Take the records that were chosen, the newest of equal ones.

    Raises:
        UnknownNameError: A chosen name occurs in no record; the message lists those that do.
    """
    found = newest(records)
    asked: tuple[tuple[str, tuple[str, ...], Callable[[Record], str]], ...] = (
        ("model", choice.models, lambda record: record.provenance.model),
        ("data set", choice.datasets, lambda record: record.provenance.dataset),
        ("experiment", choice.experiments, lambda record: record.experiment),
        ("metric", choice.metrics, lambda record: record.metric),
    )
    for kind, wanted, name_of in asked:
        there = list(dict.fromkeys(name_of(record) for record in found))
        for name in wanted:
            _demand(kind, name, there)
        found = [record for record in found if not wanted or name_of(record) in wanted]
    return found


def gather_cells(records: Iterable[Record]) -> list[Cell]:
    """Put together the records of different models that answer one question on one data set.

    Two records stand in one cell only where they differ in nothing but the model: its weights, what
    it is fed, and its precision.
    """
    found = newest(records)
    labels = Labels.of(found)
    cells: dict[tuple[object, ...], dict[object, Record]] = {}
    for record in found:
        key = (record.metric, data_of(record), setting_of(record))
        cells.setdefault(key, {})[model_of(record)] = record
    return [Cell(tuple(_best_first(cell.values())), labels) for cell in cells.values()]


def _best_first(records: Iterable[Record]) -> list[Record]:
    ordered = list(records)
    sign = metric_of(ordered[0]).sign
    return sorted(ordered, key=lambda record: (-sign * record.value, record.provenance.model))


def _demand(kind: str, name: str, there: Sequence[str]) -> None:
    if name in there:
        return
    listed = f"there are {', '.join(there)}" if there else "there are none"
    hint = did_you_mean(name, there, close_only=True)
    message = f"no record of {kind} {name!r}{hint} ({listed})"
    raise UnknownNameError(message)
