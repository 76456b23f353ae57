"""Which records may stand in one cell of a table, and the words that tell cells apart.

A record's identity falls into four parts: the model, the data, the setting and the metric. Two
records belong to one cell only where all four are equal; labels are made short and grow until no
two different things share one. Importing this module imports no torch.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from medssl_models.errors import UnknownExperimentError
from medssl_models.experiments.registry import find_experiment, metric_of
from medssl_models.plain_json import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from medssl_models.experiments.experiment import Experiment
    from medssl_models.experiments.record import Record

__all__ = [
    "Labels",
    "apart_within",
    "asked_of",
    "best_first",
    "csv_text",
    "data_facts",
    "data_label",
    "data_of",
    "interval",
    "interval_meanings",
    "labels_apart",
    "model_facts",
    "model_label",
    "model_of",
    "newest",
    "question_label",
    "question_of",
    "run_tables",
    "setting_facts",
    "setting_label",
    "setting_of",
]

_COMPUTED = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""

_MODEL = ("model", "weights", "preprocessing", "padding", "layer", "precision")
_DATA = ("dataset", "selection", "label_policy", "split", "manifest", "images")
_SETTING = ("experiment", "protocol", "seed")
_model_values, _data_values = attrgetter(*_MODEL), attrgetter(*_DATA)
_FINGERPRINTS = frozenset({"weights", "preprocessing", "manifest", "images"})
_SHOWN = 8  # digits of a fingerprint


Key = tuple[Any, ...]
"""What is equal only where the things are: cheap to make, for there may be many records."""


def model_of(record: Record) -> Key:
    """Return the identity of a record's model: equal only where weights and input are."""
    return _model_values(record.provenance)


def data_of(record: Record) -> Key:
    """Return the identity of a record's images, labels and split."""
    dataset, selection, *rest = _data_values(record.provenance)
    return (dataset, tuple(sorted(selection.items())), *rest)


def setting_of(record: Record, settings: str | None = None) -> Key:
    """Return the identity of what was done: experiment, protocol, seed and settings.

    Args:
        record: The record.
        settings: Its settings as canonical JSON, where the caller has it.
    """
    text = canonical_json(record.settings) if settings is None else settings
    return (record.experiment, record.provenance.protocol, record.provenance.seed, text)


def question_of(record: Record) -> Key:
    """Return what is asked whatever the data set: the setting, without what follows from data."""
    follows = _experiment(record.experiment).per_dataset
    kept = {name: value for name, value in record.settings.items() if name not in follows}
    return (record.metric, *setting_of(record, canonical_json(kept)))


def question_label(record: Record) -> str:
    """Name experiment, setting and metric of a question in a line."""
    known = _experiment(record.experiment)
    kept = {name: v for name, v in record.settings.items() if name not in known.per_dataset}
    label = known.label(kept)
    named = label if label.startswith(record.experiment) else f"{record.experiment}, {label}"
    return f"{named.rstrip(', ')}, {record.metric}"


def model_facts(model: Key) -> dict[str, Any]:
    """Name what is in the identity of a model, the most telling first."""
    facts = dict(zip(_MODEL, model, strict=True))
    # A preprocessing's fingerprint is its fields, which say more than a digest would.
    text = str(facts["preprocessing"])
    fields = json.loads(text) if text.startswith("{") else {}
    return facts | {f"input {name}": value for name, value in fields.items()} | {
        "preprocessing": "" if fields else text
    }  # fmt: skip


def data_facts(data: Key) -> dict[str, Any]:
    """Name what is in the identity of data, the most telling first."""
    facts = dict(zip(_DATA, data, strict=True))
    return facts | {"selection": dict(facts["selection"])}


def setting_facts(setting: Key) -> dict[str, Any]:
    """Name what is in the identity of a setting."""
    *own, settings = setting
    return {**dict(zip(_SETTING, own, strict=True)), **json.loads(settings)}


def labels_apart(
    short: Mapping[Key, str], facts: Callable[[Key], Mapping[str, Any]]
) -> dict[Key, str]:
    """Lengthen labels until no two different things share one.

    Args:
        short: Identity to a short label.
        facts: Names what is in an identity, the most telling first.

    Returns:
        Identity to label; a label that was unique is as it was.

    Example:
        >>> labels_apart({("a", 1): "x", ("a", 2): "x"}, lambda key: {"seed": key[1]})
        {('a', 1): 'x (seed 1)', ('a', 2): 'x (seed 2)'}
    """
    alike: dict[str, list[Key]] = defaultdict(list)
    for key, label in short.items():
        alike[label].append(key)
    found: dict[Key, str] = {}
    for label, keys in alike.items():
        if len(keys) == 1:
            found[keys[0]] = label
        else:
            found |= _apart(label, {key: facts(key) for key in keys})
    taken = set(found.values())
    if len(taken) < len(found):  # a lengthened label may be what another was called from the start
        found = {key: f"{label} #{n}" for n, (key, label) in enumerate(found.items(), start=1)}
    return {key: found[key] for key in short}


def newest(records: Iterable[Record]) -> list[Record]:
    """Keep the newest of records with equal keys, in the order in which keys first came."""
    return list({record.key: record for record in records}.values())


@dataclass(frozen=True)
class Labels:
    """Short labels that tell the cells of a table, report or export apart.

    Two settings of one experiment never share a label; nor do, under one setting, two sets of
    data or two models.

    Args:
        models: Setting and model to label.
        names: The same without the mark of a control, for programs.
        datasets: Setting and data to label.
        settings: Setting to label.
    """

    models: Mapping[tuple[Key, Key], str]
    names: Mapping[tuple[Key, Key], str]
    datasets: Mapping[tuple[Key, Key], str]
    settings: Mapping[Key, str]

    @classmethod
    def of(cls, records: Iterable[Record]) -> Labels:
        """Label records that will stand in one table, report or export."""
        models: dict[tuple[Key, Key], str] = {}
        names: dict[tuple[Key, Key], str] = {}
        datasets: dict[tuple[Key, Key], str] = {}
        settings: dict[Key, str] = {}
        for record in records:
            setting, model = setting_of(record), model_of(record)
            settings[setting] = setting_label(record)
            # The longer of two words for one thing has the mark that the other record lacks.
            data = (setting, data_of(record))
            datasets[data] = max(datasets.get(data, ""), data_label(record), key=len)
            models[setting, model] = max(
                models.get((setting, model), ""), model_label(record), key=len
            )
            names[setting, model] = record.provenance.model
        return cls(
            apart_within(models, model_facts),
            apart_within(names, model_facts),
            apart_within(datasets, data_facts),
            {key[1]: label for key, label in apart_within(
                {((setting[0],), setting): label for setting, label in settings.items()},
                setting_facts,
            ).items()},
        )  # fmt: skip

    def model(self, record: Record) -> str:
        """Name the model; an untrained control says so."""
        return self.models[setting_of(record), model_of(record)]

    def name(self, record: Record) -> str:
        """Name the model without a mark, for programs."""
        return self.names[setting_of(record), model_of(record)]

    def dataset(self, record: Record) -> str:
        """Name the data; a phantom says so."""
        return self.datasets[setting_of(record), data_of(record)]

    def setting(self, record: Record) -> str:
        """Say in a few words what was done."""
        return self.settings[setting_of(record)]


def apart_within(
    short: Mapping[tuple[Key, Key], str], facts: Callable[[Key], Mapping[str, Any]]
) -> dict[tuple[Key, Key], str]:
    """As `labels_apart`, but only things of one group have to be told apart.

    Args:
        short: Group and identity to a short label.
        facts: Names what is in an identity.
    """
    groups: dict[Key, dict[Key, str]] = defaultdict(dict)
    for (group, key), label in short.items():
        groups[group][key] = label
    apart = {group: labels_apart(members, facts) for group, members in groups.items()}
    return {(group, key): apart[group][key] for group, key in short}


def model_label(record: Record) -> str:
    """Name a record's model; other models of the same table may need more words."""
    return record.provenance.model + (" (control)" if record.details.get("control") else "")


def data_label(record: Record) -> str:
    """Name a record's data; others of the same table may need more words."""
    origin = record.provenance
    chosen = "".join(f",{name}={value}" for name, value in origin.selection.items())
    synthetic = " (phantom)" if record.details.get("synthetic") else ""
    return f"{origin.dataset or '(none)'}{chosen}{synthetic}"


def setting_label(record: Record) -> str:
    """Word a record's settings; others of the same table may need more words."""
    return _experiment(record.experiment).label(record.settings) or record.experiment


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


def asked_of(record: Record) -> tuple[int, int | None]:
    """Return on how many images a value rests, and on how many patients where they are known.

    Example:
        >>> from medssl_models.experiments.record import Provenance, Record
        >>> details = {"images": 44, "patients": 39}
        >>> facts = {"experiment": "count-images", "metric": "images", "value": 44}
        >>> from medssl_models.experiments.registry import declared
        >>> from medssl_models.testing.experiments import COUNT_IMAGES
        >>> with declared(COUNT_IMAGES):
        ...     asked_of(Record(**facts, details=details, provenance=Provenance(model="m")))
        (44, 39)
    """
    images, patients = (record.details.get(name) for name in ("images", "patients"))
    return (
        images if isinstance(images, int) else record.n,
        patients if isinstance(patients, int) and patients > 0 else None,
    )


def interval_meanings(records: Iterable[Record]) -> list[str]:
    """Say what the intervals of some records cover, and what they are conditional on.

    Args:
        records: Any; those that do not say it are left out.

    Returns:
        A line for each experiment and meaning.
    """
    found: dict[tuple[str, str], None] = {}
    for record in records:
        meaning = record.details.get("interval")
        if isinstance(meaning, str) and record.ci_low is not None:
            found[record.experiment, meaning] = None
    return [f"95 % intervals of {name}: {meaning}" for name, meaning in found]


def _run_table(records: Sequence[Record]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    labels, ordered = Labels.of(records), best_first(records)
    runs: dict[tuple[Key, ...], dict[str, Record]] = {}
    for record in ordered:
        run = (data_of(record), setting_of(record), model_of(record))
        runs.setdefault(run, {})[record.metric] = record
    metrics = {record.metric: metric_of(record) for record in records}
    counts = _Counts(records)
    if len(metrics) == 1:
        return _value_table(labels, ordered)
    rows: list[tuple[object, ...]] = []
    for found in runs.values():
        first = next(iter(found.values()))
        values = (_cell(found[name]) if name in found else None for name in metrics)
        named = labels.dataset(first), labels.setting(first), labels.model(first)
        rows.append((*named, *values, *counts.values(first)))
    headings = (metric.heading for metric in metrics.values())
    return ("data set", "setting", "model", *headings, *counts.columns), rows


def _value_table(
    labels: Labels, ordered: Sequence[Record]
) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    counts = _Counts(ordered)
    columns = ("data set", "setting", "model", "metric", "value", "95 % interval", *counts.columns)
    return columns, [
        (
            labels.dataset(record),
            labels.setting(record),
            labels.model(record),
            metric_of(record).title,
            f"{metric_of(record).show(record.value)}{' ' + record.unit if record.unit else ''}",
            interval(record),
            *counts.values(record),
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


class _Counts:
    """The columns that say on how many images, and patients where any are known, a value rests."""

    def __init__(self, records: Iterable[Record]) -> None:
        with_patients = any(asked_of(record)[1] for record in records)
        self.columns = ("images", "patients") if with_patients else ("images",)

    def values(self, record: Record) -> tuple[int | None, ...]:
        return asked_of(record)[: len(self.columns)]


@dataclass(frozen=True)
class _NotInstalled:
    """What is known of an experiment whose package is not here."""

    per_dataset: frozenset[str] = frozenset()
    sorted_by: tuple[str, ...] = ()

    def label(self, _: Mapping[str, Any]) -> str:
        return ""


_NOT_INSTALLED = _NotInstalled()


def _experiment(name: str) -> Experiment | _NotInstalled:
    try:
        return find_experiment(name)
    except UnknownExperimentError:
        return _NOT_INSTALLED


def _apart(label: str, members: Mapping[Key, Mapping[str, Any]]) -> dict[Key, str]:
    """Add to a label the fewest leading facts that tell its members apart."""
    names = list(dict.fromkeys(name for facts in members.values() for name in facts))
    differing = [
        name
        for name in names
        if len({canonical_json(facts.get(name)) for facts in members.values()}) > 1
    ]
    chosen: list[str] = []
    labels = dict.fromkeys(members, label)
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
    if name in _FINGERPRINTS and value:
        return f"{name} {str(value)[:_SHOWN]}"
    text = value if isinstance(value, str) else canonical_json(value)
    return f"{name} {text or 'none'}"


def _setting_place(record: Record) -> tuple[float, ...]:
    values = (record.settings.get(name) for name in _experiment(record.experiment).sorted_by)
    return tuple(float(value) for value in values if isinstance(value, int | float))


def _places(items: Iterable[Hashable]) -> dict[Hashable, int]:
    return {item: place for place, item in enumerate(dict.fromkeys(items))}


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Write rows as CSV, floats with all their digits; no name becomes a formula of a spreadsheet.

    Args:
        rows: Text that begins like a formula gets an apostrophe, which spreadsheets do not show;
            None is an empty cell.

    Example:
        >>> print(csv_text([("model", "value"), ("=cmd()", -0.5)]), end="")
        model,value
        '=cmd(),-0.5

    References:
        OWASP, CSV injection.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([_csv_cell(value) for value in row] for row in rows)
    return buffer.getvalue()


def _csv_cell(value: object) -> object:
    if isinstance(value, float):
        return repr(float(value))  # numpy's own says more than the number
    return f"'{value}" if isinstance(value, str) and value.startswith(_COMPUTED) else value
