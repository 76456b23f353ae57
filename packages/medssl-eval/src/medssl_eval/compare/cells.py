"""Records side by side: which of them answer the same question, and which model is best there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medssl_models.suggestions import did_you_mean

from medssl_eval.compare.tables import dataset_label, setting_label
from medssl_eval.errors import UnknownNameError
from medssl_eval.statistics.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from medssl_models import Record

__all__ = ["Cell", "Choice", "gather_cells", "higher_is_better", "select_records"]

_DISTANCES = ("lpips", "mahalanobis", "loss", "mse")
"""How metrics of other packages begin of which less is better."""
_PER_DATASET = frozenset({"ways"})  # settings that follow from the data set


@dataclass(frozen=True)
class Choice:
    """Which records to look at; an empty field takes all.

    Attributes:
        models: Names of models.
        datasets: Names of data sets.
        experiments: Such as `few-shot`.
        metrics: Such as `accuracy`.
    """

    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    experiments: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """Records of several models that answer one question on one data set.

    Attributes:
        records: One a model, best first.
    """

    records: tuple[Record, ...]

    @property
    def title(self) -> str:
        """Data set, experiment and metric in a line."""
        first = self.records[0]
        return f"{dataset_label(first)}, {setting_label(first)}, {first.metric}"

    @property
    def question(self) -> tuple[object, ...]:
        """What is asked, whatever the data set."""
        first = self.records[0]
        settings = {k: v for k, v in first.settings.items() if k not in _PER_DATASET}
        return (first.experiment, first.metric, first.provenance.protocol, _frozen(settings))


def select_records(records: Iterable[Record], choice: Choice) -> list[Record]:
    """Take the records that were chosen, the newest of equal ones.

    Raises:
        UnknownNameError: A chosen name occurs in no record; the message lists those that do.
    """
    newest = list({record.key: record for record in records}.values())
    asked: tuple[tuple[str, tuple[str, ...], Callable[[Record], str]], ...] = (
        ("model", choice.models, lambda record: record.provenance.model),
        ("data set", choice.datasets, lambda record: record.provenance.dataset),
        ("experiment", choice.experiments, lambda record: record.experiment),
        ("metric", choice.metrics, lambda record: record.metric),
    )
    for kind, wanted, name_of in asked:
        there = list(dict.fromkeys(name_of(record) for record in newest))
        for name in wanted:
            _demand(kind, name, there)
        newest = [record for record in newest if not wanted or name_of(record) in wanted]
    return newest


def gather_cells(records: Iterable[Record]) -> list[Cell]:
    """Put together the records of different models that answer one question on one data set.

    Of several records of a model that differ in weights or precision only, the newest is taken.
    """
    cells: dict[tuple[object, ...], dict[str, Record]] = {}
    for record in records:
        origin = record.provenance
        key = (
            *(origin.dataset, record.experiment, record.metric, origin.protocol, origin.seed),
            *(origin.manifest, _frozen(record.settings)),
        )
        cells.setdefault(key, {})[origin.model] = record
    return [Cell(tuple(_best_first(cell.values()))) for cell in cells.values()]


def higher_is_better(name: str) -> bool:
    """Tell the direction of a metric; another package's is better when higher, distances not."""
    if name in METRICS:
        return METRICS[name].higher_is_better
    return not name.lower().startswith(_DISTANCES)


def _best_first(records: Iterable[Record]) -> list[Record]:
    ordered = list(records)
    sign = -1 if higher_is_better(ordered[0].metric) else 1
    return sorted(ordered, key=lambda record: (sign * record.value, record.provenance.model))


def _demand(kind: str, name: str, there: Sequence[str]) -> None:
    if name in there:
        return
    listed = f"there are {', '.join(there)}" if there else "there are none"
    hint = did_you_mean(name, there, close_only=True)
    message = f"no record of {kind} {name!r}{hint} ({listed})"
    raise UnknownNameError(message)


def _frozen(settings: Mapping[str, object]) -> str:
    from medssl_models.plain_json import canonical_json

    return canonical_json(settings)
