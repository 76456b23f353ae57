"""Which records may stand in one cell of a table, and the words that tell cells apart.

A record's identity falls into four parts: the model, the data, the setting and the metric. Two
records belong to one cell only where all four are equal; labels are made short and grow until no
two different things share one. Importing this module imports no torch.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medssl_models.experiments.registry import find_experiment, metric_of
from medssl_models.plain_json import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from medssl_models.experiments.record import Record

__all__ = [
    "Labels",
    "best_first",
    "data_facts",
    "data_of",
    "interval",
    "model_facts",
    "model_of",
    "newest",
    "question_of",
    "run_tables",
    "setting_facts",
    "setting_of",
]

_MODEL = ("model", "weights", "preprocessing", "padding", "layer", "precision")
_DATA = ("dataset", "selection", "label_policy", "split", "manifest", "images")
_FINGERPRINTS = frozenset({"weights", "preprocessing", "manifest", "images"})
_SHOWN = 8  # digits of a fingerprint


def model_facts(record: Record) -> dict[str, Any]:
    """List what tells one model from another, the most telling first."""
    return {name: getattr(record.provenance, name) for name in _MODEL}


def data_facts(record: Record) -> dict[str, Any]:
    """List what tells one set of images from another, the most telling first."""
    return {name: getattr(record.provenance, name) for name in _DATA}


def setting_facts(record: Record) -> dict[str, Any]:
    """List what tells one measurement from another on the same images."""
    origin = record.provenance
    own: dict[str, Any] = {"experiment": record.experiment, "protocol": origin.protocol}
    return {**own, "seed": origin.seed, **record.settings}


def model_of(record: Record) -> Hashable:
    """Return the identity of a record's model: equal only where weights and input are."""
    return canonical_json(model_facts(record))


def data_of(record: Record) -> Hashable:
    """Return the identity of a record's images, labels and split."""
    return canonical_json(data_facts(record))


def setting_of(record: Record) -> Hashable:
    """Return the identity of what was done: experiment, protocol, seed and settings."""
    return canonical_json(setting_facts(record))


def question_of(record: Record) -> Hashable:
    """Return what is asked whatever the data set: the setting, without what follows from data."""
    apart = _experiment(record)
    facts = setting_facts(record)
    kept = {name: value for name, value in facts.items() if name not in apart.per_dataset}
    return record.metric, canonical_json(kept)


def newest(records: Iterable[Record]) -> list[Record]:
    """Keep the newest of records with equal keys, in the order in which keys first came."""
    return list({record.key: record for record in records}.values())


@dataclass(frozen=True)
class Labels:
    """Short labels for the models, data and settings of some records, all different.

    Args:
        models: Identity to label.
        datasets: Identity to label.
        settings: Identity to label.
    """

    models: Mapping[Hashable, str]
    datasets: Mapping[Hashable, str]
    settings: Mapping[Hashable, str]

    @classmethod
    def of(cls, records: Sequence[Record]) -> Labels:
        """Label records that will stand in one table, report or export."""
        return cls(
            _labels(records, model_of, _model_label, model_facts),
            _labels(records, data_of, _data_label, data_facts),
            _labels(records, setting_of, _setting_label, setting_facts),
        )

    def model(self, record: Record) -> str:
        """Name the model; an untrained control says so."""
        return self.models[model_of(record)]

    def dataset(self, record: Record) -> str:
        """Name the data; a phantom says so."""
        return self.datasets[data_of(record)]

    def setting(self, record: Record) -> str:
        """Say in a few words what was done."""
        return self.settings[setting_of(record)]


def best_first(records: Sequence[Record]) -> list[Record]:
    """Sort records: data sets and metrics in the order in which they came, best models first."""
    datasets = _places(data_of(record) for record in records)
    metrics = _places(record.metric for record in records)

    def place(record: Record) -> tuple[Any, ...]:
        return (
            datasets[data_of(record)],
            metrics[record.metric],
            _setting_place(record),
            -metric_of(record).sign * record.value,
            record.provenance.model,
        )

    return sorted(records, key=place)


def run_tables(
    records: Sequence[Record],
) -> list[tuple[tuple[str, ...], list[tuple[object, ...]]]]:
    """Lay records out for people: a line a run, a column a metric, a table an experiment.

    Args:
        records: Any; the newest of equal ones is shown.

    Returns:
        Columns and rows of each table.
    """
    by_experiment: dict[str, list[Record]] = defaultdict(list)
    for record in newest(records):
        by_experiment[record.experiment].append(record)
    return [_run_table(found) for found in by_experiment.values()]


def interval(record: Record) -> str:
    """Write the interval; empty where there is none."""
    if record.ci_low is None or record.ci_high is None:
        return ""
    shown = metric_of(record).show
    return f"{shown(record.ci_low)} to {shown(record.ci_high)}"


def _run_table(records: Sequence[Record]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    labels, ordered = Labels.of(records), best_first(records)
    runs: dict[tuple[Hashable, ...], dict[str, Record]] = {}
    for record in ordered:
        run = (data_of(record), setting_of(record), model_of(record))
        runs.setdefault(run, {})[record.metric] = record
    metrics = {record.metric: metric_of(record) for record in records}
    if len(metrics) == 1:
        return _value_table(labels, ordered)
    rows: list[tuple[object, ...]] = []
    for found in runs.values():
        first = next(iter(found.values()))
        values = (_cell(found[name]) if name in found else None for name in metrics)
        rows.append(
            (labels.dataset(first), labels.setting(first), labels.model(first), *values, _n(first))
        )
    headings = (metric.heading for metric in metrics.values())
    return ("data set", "setting", "model", *headings, "images"), rows


def _value_table(
    labels: Labels, ordered: Sequence[Record]
) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    columns = ("data set", "setting", "model", "metric", "value", "95 % interval", "images")
    return columns, [
        (
            labels.dataset(record),
            labels.setting(record),
            labels.model(record),
            metric_of(record).title,
            f"{metric_of(record).show(record.value)}{' ' + record.unit if record.unit else ''}",
            interval(record),
            _n(record),
        )
        for record in ordered
    ]


def _cell(record: Record) -> str:
    """Value and interval in one cell: percent with one decimal, pure numbers with three."""
    places = 1 if record.unit == "%" else 3
    text = f"{record.value:.{places}f}"
    if record.ci_low is None or record.ci_high is None:
        return text
    return f"{text} [{record.ci_low:.{places}f}, {record.ci_high:.{places}f}]"


def _n(record: Record) -> object:
    return record.details.get("images", record.n)


def _experiment(record: Record) -> Any:  # noqa: ANN401 # an Experiment, or a stand-in for none
    from medssl_models.errors import UnknownExperimentError

    try:
        return find_experiment(record.experiment)
    except UnknownExperimentError:
        return _NOT_INSTALLED


@dataclass(frozen=True)
class _NotInstalled:
    """What is known of an experiment whose package is not here."""

    per_dataset: frozenset[str] = frozenset()
    sorted_by: tuple[str, ...] = ()

    def label(self, _: Mapping[str, Any]) -> str:
        return ""


_NOT_INSTALLED = _NotInstalled()


def _model_label(record: Record) -> str:
    return record.provenance.model + (" (control)" if record.details.get("control") else "")


def _data_label(record: Record) -> str:
    origin = record.provenance
    chosen = "".join(f",{name}={value}" for name, value in origin.selection.items())
    synthetic = " (phantom)" if record.details.get("synthetic") else ""
    return f"{origin.dataset}{chosen}{synthetic}"


def _setting_label(record: Record) -> str:
    return _experiment(record).label(record.settings) or record.experiment


def _labels(
    records: Sequence[Record],
    identity: Callable[[Record], Hashable],
    short: Callable[[Record], str],
    facts: Callable[[Record], Mapping[str, Any]],
) -> dict[Hashable, str]:
    """Give each identity its short label, longer by facts where two would share one."""
    examples = {identity(record): record for record in records}
    alike: dict[str, dict[Hashable, Record]] = defaultdict(dict)
    for key, record in examples.items():
        alike[short(record)][key] = record
    found: dict[Hashable, str] = {}
    for label, members in alike.items():
        found |= dict.fromkeys(members, label) if len(members) == 1 else _apart(
            label, {key: facts(record) for key, record in members.items()}
        )  # fmt: skip
    return {key: found[key] for key in examples}


def _apart(label: str, members: Mapping[Hashable, Mapping[str, Any]]) -> dict[Hashable, str]:
    """Add to a label the fewest leading facts that tell its members apart."""
    names = list(dict.fromkeys(name for facts in members.values() for name in facts))
    differing = [
        name
        for name in names
        if len({canonical_json(facts.get(name)) for facts in members.values()}) > 1
    ]
    chosen: list[str] = []
    for name in differing:
        chosen.append(name)
        labels = {
            key: f"{label} ({', '.join(_fact(one, facts.get(one)) for one in chosen)})"
            for key, facts in members.items()
        }
        if len(set(labels.values())) == len(members):
            return labels
    # Only digests that agree in their first digits are left: number them.
    return {key: f"{labels[key]} #{place}" for place, key in enumerate(members, start=1)}


def _fact(name: str, value: object) -> str:
    if name in _FINGERPRINTS:
        return f"{name} {str(value)[:_SHOWN]}"
    text = value if isinstance(value, str) else canonical_json(value)
    return f"{name} {text}"


def _setting_place(record: Record) -> tuple[float, ...]:
    values = (record.settings.get(name) for name in _experiment(record).sorted_by)
    return tuple(float(value) for value in values if isinstance(value, int | float))


def _places(items: Iterable[Hashable]) -> dict[Hashable, int]:
    return {item: place for place, item in enumerate(dict.fromkeys(items))}
