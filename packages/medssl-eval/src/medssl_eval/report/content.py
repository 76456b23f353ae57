"""What a report shows: results files, or the study's numbers, as slim entries in memory.

A results file may hold hundreds of thousands of records with long details. Of each record only
what a page can show is kept, and texts that repeat are kept once.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from medssl_models.errors import UnknownExperimentError
from medssl_models.experiments.cells import (
    apart_within,
    asked_of,
    data_facts,
    data_label,
    data_of,
    model_facts,
    model_of,
    setting_facts,
    setting_label,
    setting_of,
)
from medssl_models.experiments.registry import find_experiment, installed_experiments, metric_of
from medssl_models.experiments.released import released_numbers

from medssl_eval.errors import ResultsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from medssl_models import Record
    from medssl_models.experiments.cells import Key
    from medssl_models.experiments.released import ReleasedNumber

__all__ = ["Board", "Content", "Entry", "GrowthCurve", "published_content", "read_content"]

STUDY = "Anton et al. 2022"


class Entry(NamedTuple):
    """One number as a report shows it; a tuple, for there may be hundreds of thousands.

    Args:
        experiment: What was run, such as `few-shot`.
        setting: How, in a few words.
        metric: What the value means.
        unit: Of value and interval.
        sign: 1 where higher is better, -1 where lower is, 0 where neither.
        dataset: The data's label.
        model: The model's label.
        protocol: `published`, `corrected`, or the study itself.
        value: The number.
        low: Lower end of the 95 % interval.
        high: Its upper end.
        n: Repetitions or items behind the value.
        images: On how many images it rests; None where that is not known.
        patients: On how many patients, where they are known.
        learnt_from: How much was given to learn from, where the experiment counts that.
        line: The setting without what was given to learn from: entries of one line make a curve.
        control: An untrained control.
        synthetic: Of phantoms.
        notes: What a reader should know.
        context: Name and value of all that the number depends on, for the curious.
        pictures: Picture files that belong to it.
        curve: A CSV file with one row for each step of a training.
    """

    experiment: str
    setting: str
    metric: str
    unit: str
    sign: int
    dataset: str
    model: str
    protocol: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int = 1
    images: int | None = None
    patients: int | None = None
    learnt_from: float | None = None
    line: str = ""
    control: bool = False
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    context: tuple[tuple[str, str], ...] = ()
    pictures: tuple[Path, ...] = ()
    curve: Path | None = None

    @property
    def group(self) -> tuple[str, str, str, str, str]:
        """Entries that differ in model and data set only can stand in one table."""
        return self.experiment, self.setting, self.metric, self.unit, self.protocol

    @property
    def counted(self) -> str:
        """On how many images and patients it rests, in words; empty where that is not known."""
        if self.images is None:
            return ""
        return f"n = {self.images:,}" + (f", {self.patients:,} patients" if self.patients else "")


@dataclass(frozen=True)
class GrowthCurve:
    """Models on one data set, by how much was given to learn from.

    Args:
        title: Experiment, setting, metric, protocol and data set.
        counted: What is counted.
        lines: Model to its entries, in ascending order; the best at the end come first.
    """

    title: str
    counted: str
    lines: dict[str, tuple[Entry, ...]]


@dataclass(frozen=True)
class Board:
    """One experiment, setting, metric and protocol over models and data sets.

    Args:
        experiment: What was run.
        setting: How.
        metric: What the values mean.
        unit: Of the values.
        protocol: By which protocol.
        entries: At most one for each model and data set.
        alone: The report has one protocol only, which need not be repeated.
    """

    experiment: str
    setting: str
    metric: str
    unit: str
    protocol: str
    entries: tuple[Entry, ...]
    alone: bool = False

    @property
    def title(self) -> str:
        """Experiment, setting, metric and protocol in one line."""
        named = self.setting.startswith(self.experiment)
        protocol = "" if self.alone else self.protocol
        parts = ("" if named else self.experiment, self.setting, self.metric, protocol)
        return ", ".join(part for part in parts if part)

    @property
    def sign(self) -> int:
        """1 where higher is better, -1 where lower is, 0 where neither."""
        return self.entries[0].sign

    @property
    def is_transfer(self) -> bool:
        """Whether it says how well backbones serve a task; the others say what they are like."""
        try:
            return find_experiment(self.experiment).transfer
        except UnknownExperimentError:
            return False

    @cached_property
    def datasets(self) -> list[str]:
        """Names in the order in which they came."""
        return list(dict.fromkeys(entry.dataset for entry in self.entries))

    @cached_property
    def cells(self) -> dict[tuple[str, str], Entry]:
        """(model, data set) to entry."""
        return {(entry.model, entry.dataset): entry for entry in self.entries}

    @cached_property
    def models(self) -> list[str]:
        """Names, best mean over the data sets first; models with gaps come last."""
        found: dict[str, list[float]] = {}
        for entry in self.entries:
            found.setdefault(entry.model, []).append(entry.value)
        sign = -self.sign
        return sorted(found, key=lambda m: (-len(found[m]), sign * sum(found[m]) / len(found[m])))

    @cached_property
    def complete(self) -> tuple[list[str], list[str]]:
        """Models and data sets of a large part of the table without gaps."""
        models = list(self.models)
        while models:
            full = [d for d in self.datasets if all((m, d) in self.cells for m in models)]
            if len(full) >= 2 or len(models) == 1:
                return models, full
            models.pop()
        return [], []

    def counted(self, dataset: str) -> str:
        """On how many images and patients a column rests; empty where its cells differ."""
        found = {entry.counted for entry in self.entries if entry.dataset == dataset}
        return found.pop() if len(found) == 1 else ""

    def named(self, model: str) -> str:
        """Name a model; an untrained control says so."""
        control = any(entry.control for entry in self.entries if entry.model == model)
        return f"{model} (control)" if control else model

    def best(self, dataset: str) -> Entry | None:
        """Return the best entry of a data set; None where no value is better than another."""
        here = [entry for entry in self.entries if entry.dataset == dataset]
        return max(here, key=lambda entry: self.sign * entry.value) if self.sign else None


@dataclass(frozen=True)
class Content:
    """All entries of a report.

    Args:
        title: The page's heading.
        entries: In the order of the sources; of two with one identity the newest.
        warnings: What could not be read or must be known first.
        sources: Where the entries come from, for the reader.
        verdict: An answer in sentences, where somebody has one.
    """

    title: str
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    verdict: tuple[str, ...] = ()

    @cached_property
    def boards(self) -> list[Board]:
        """Tables of models and data sets, transfer experiments first."""
        groups: dict[tuple[str, str, str, str, str], dict[tuple[str, str], Entry]] = {}
        for entry in self.entries:
            groups.setdefault(entry.group, {})[entry.model, entry.dataset] = entry
        alone = len({entry.protocol for entry in self.entries}) == 1
        boards = [Board(*group, tuple(cells.values()), alone) for group, cells in groups.items()]
        place = {one.name: number for number, one in enumerate(installed_experiments())}
        return sorted(boards, key=lambda board: place.get(board.experiment, len(place)))

    @cached_property
    def growth(self) -> list[GrowthCurve]:
        """Curves over what was given to learn from, where a model has two points or more."""
        alone = len({entry.protocol for entry in self.entries}) == 1
        groups: dict[tuple[str, ...], dict[str, dict[float, Entry]]] = {}
        for entry in self.entries:
            if entry.learnt_from is not None:
                asked = (entry.experiment, entry.line, entry.metric, entry.protocol, entry.dataset)
                models = groups.setdefault(asked, {})
                models.setdefault(entry.model, {})[entry.learnt_from] = entry
        found = []
        for (experiment, line, metric, protocol, dataset), models in groups.items():
            lines = {
                name: tuple(points[count] for count in sorted(points))
                for name, points in models.items()
                if len(points) > 1
            }
            curve = find_experiment(experiment).curve
            if lines and curve is not None:
                best = sorted(lines, key=lambda name: -lines[name][-1].sign * lines[name][-1].value)
                named = [line] if line.startswith(experiment) else [experiment, line]
                rest = (metric, "" if alone else protocol, dataset)
                title = ", ".join(filter(None, (*named, *rest)))
                found.append(GrowthCurve(title, curve.title, {name: lines[name] for name in best}))
        return found


def read_content(paths: Sequence[Path], *, title: str = "medssl report") -> Content:
    """Read results files.

    Args:
        paths: Files that commands appended records to.
        title: The page's heading.

    Returns:
        Their entries; lines that are no records become warnings.

    Raises:
        ResultsError: A file is not there or holds no record.
    """
    from medssl_models.experiments.record import Record
    from medssl_models.experiments.record_store import iterate_records

    entries: dict[tuple[Key, Key, Key, str], Entry] = {}
    warnings: list[str] = []
    shared = _Shared()
    for path in paths:
        if not path.is_file():
            message = f"{path}: there is no such results file; experiments write one with --results"
            raise ResultsError(message)
        before, folder = len(entries), path.parent
        for item in iterate_records(path):
            if isinstance(item, Record):
                key = shared.identity(item)
                entries.pop(key, None)
                entries[key] = entry_of(item, folder, shared)
            else:
                warnings.append(item)
        if len(entries) == before:
            message = f"{path}: it holds no record that is not in another file already"
            raise ResultsError(message)
    sources = tuple(str(path) for path in paths)
    return Content(title, tuple(_told_apart(entries)), tuple(warnings), sources)


def _told_apart(entries: dict[tuple[Key, Key, Key, str], Entry]) -> Iterable[Entry]:
    """Lengthen labels where two different models, data or settings would share a cell."""
    models: dict[tuple[Key, Key], str] = {}
    data: dict[tuple[Key, Key], str] = {}
    settings: dict[tuple[Key, Key], str] = {}
    for (model, dataset, setting, _), entry in entries.items():
        models[setting, model] = entry.model
        data[setting, dataset] = entry.dataset
        # The protocol has a column of its own.
        settings[setting[:2], setting] = entry.setting
    models = apart_within(models, model_facts)
    data = apart_within(data, data_facts)
    lines = _lines(setting for _, setting in settings)
    settings = apart_within(settings, setting_facts)
    for (model, dataset, setting, _), entry in entries.items():
        yield entry._replace(
            model=models[setting, model],
            dataset=data[setting, dataset],
            setting=settings[setting[:2], setting],
            line=lines.get(setting, ""),
        )


def _lines(settings: Iterable[Key]) -> dict[Key, str]:
    """Name each setting without what was given to learn from, where its experiment counts that."""
    lines: dict[Key, Key] = {}
    labels: dict[tuple[Key, Key], str] = {}
    for setting in settings:
        experiment, protocol, seed, text = setting
        try:
            found = find_experiment(experiment)
        except UnknownExperimentError:
            continue
        if found.curve is not None:
            rest = json.loads(text)
            rest.pop(found.curve.setting, None)
            line = (experiment, protocol, seed, json.dumps(rest, sort_keys=True))
            lines[setting] = line
            labels[line[:2], line] = found.label(rest) or experiment
    apart = apart_within(labels, setting_facts)
    return {setting: sys.intern(apart[line[:2], line]) for setting, line in lines.items()}


class _Shared:
    """Texts that many records have in common: made once, kept once.

    Neighbours in a file mostly have the same settings and versions, and comparing two dictionaries
    is quicker than writing one down.
    """

    def __init__(self) -> None:
        self._settings: tuple[object, str] = ({}, "{}")
        self._versions: tuple[object, str] = ({}, "{}")
        self._contexts: dict[tuple[object, ...], tuple[tuple[str, str], ...]] = {}

    def settings(self, record: Record) -> str:
        """Write settings as JSON in the order of their names."""
        if record.settings != self._settings[0]:
            self._settings = record.settings, json.dumps(record.settings, sort_keys=True)
        return self._settings[1]

    def identity(self, record: Record) -> tuple[Key, Key, Key, str]:
        """Return what is equal where `record.key` is equal, at a fraction of its price."""
        setting = setting_of(record, self.settings(record))
        return model_of(record), data_of(record), setting, record.metric

    def context(self, record: Record) -> tuple[tuple[str, str], ...]:
        """List everything the number depends on, as short texts."""
        origin = record.provenance
        if origin.versions != self._versions[0]:
            self._versions = origin.versions, repr(origin.versions)
        key = (
            *map(str, _context_of(origin)),
            self._versions[1],
            self.settings(record),
            record.created[:10],
            record.details.get("interval"),
        )
        found = self._contexts.get(key)
        if found is None:
            found = self._contexts[key] = _context(record)
        return found


def entry_of(record: Record, folder: Path, shared: _Shared | None = None) -> Entry:
    """Make the entry of a record.

    Args:
        record: As an experiment wrote it.
        folder: Where its results file lies; pictures that it names are looked for there.
        shared: Texts of the records before.
    """
    details, provenance = record.details, record.provenance
    files = list(_files(details, folder))
    images, patients = asked_of(record)
    return Entry(
        experiment=sys.intern(record.experiment),
        setting=sys.intern(setting_label(record)),
        metric=sys.intern(record.metric),
        unit=sys.intern(record.unit),
        sign=metric_of(record).sign,
        dataset=sys.intern(data_label(record).removesuffix(" (phantom)")),
        model=sys.intern(provenance.model),
        protocol=sys.intern(provenance.protocol),
        value=record.value,
        low=record.ci_low,
        high=record.ci_high,
        n=record.n,
        images=images,
        patients=patients,
        learnt_from=_learnt_from(record),
        control=bool(details.get("control")),
        synthetic=bool(details.get("synthetic")),
        notes=tuple([sys.intern(note) for note in record.notes]),
        context=(shared or _Shared()).context(record),
        pictures=tuple([path for path in files if path.suffix.lower() == ".png"]),
        curve=next((path for path in files if path.suffix.lower() == ".csv"), None),
    )


def _learnt_from(record: Record) -> float | None:
    try:
        curve = find_experiment(record.experiment).curve
    except UnknownExperimentError:
        return None
    return None if curve is None else curve.count(record)


_SHOWN = MappingProxyType(
    {
        "selection": "selection",
        "layer": "layer",
        "weights": "weights",
        "padding": "padding",
        "preprocessing": "preprocessing",
        "images": "images",
        "label_policy": "labels",
        "split": "split",
        "seed": "seed",
        "precision": "precision",
        "device": "device",
    }
)
"""What a page shows of a number's origin, and under which name."""
_context_of = attrgetter(*_SHOWN)


def _context(record: Record) -> tuple[tuple[str, str], ...]:
    provenance = record.provenance
    values = zip(_SHOWN.values(), _context_of(provenance), strict=True)
    shown = {name: str(value) if value else "" for name, value in values}
    shown["versions"] = ", ".join(f"{name} {text}" for name, text in provenance.versions.items())
    shown["settings"] = ", ".join(f"{name} {value}" for name, value in record.settings.items())
    meaning = record.details.get("interval")
    shown["interval"] = meaning if isinstance(meaning, str) else ""
    shown["date"] = record.created[:10]
    return tuple((name, sys.intern(text)) for name, text in shown.items() if text)


def _files(details: object, folder: Path) -> Iterable[Path]:
    """Find the pictures and curves that a record's details name, at any depth."""
    if isinstance(details, str):
        if details[-4:].lower() in {".png", ".csv"} and len(details) < 1024:
            # A command writes its files where it was run, which need not be beside its records.
            for path in (folder / details, Path(details)):
                if path.is_file():
                    yield path
                    return
    elif isinstance(details, dict):
        for value in details.values():
            if isinstance(value, str | dict | list):
                yield from _files(value, folder)
    elif isinstance(details, list) and details and isinstance(details[0], str | dict):
        for value in details:
            yield from _files(value, folder)


def published_content() -> Content:
    """Return the study's released numbers as entries, with the flags of their cells."""
    warnings = (
        "These are the released numbers, defects included; a note beside a number names what is "
        "known to be wrong with it.",
        "Few-shot intervals are the study's own and cover the draw of episodes, not of images; "
        "those of attentive diffusion are what the released maps bound.",
    )
    entries = tuple(_released_entry(number) for number in released_numbers())
    return Content("The study's released numbers", entries, warnings, (f"{STUDY}, released data",))


def _released_entry(number: ReleasedNumber) -> Entry:
    return Entry(
        experiment=number.experiment,
        setting=number.setting or number.experiment,
        metric=number.metric,
        unit=number.unit,
        sign=_direction_of(number),
        dataset=number.dataset,
        model=number.model,
        protocol=STUDY,
        value=number.value,
        low=number.low,
        high=number.high,
        notes=tuple(filter(None, (number.contradiction, *number.flags, *number.doubts))),
        context=(("source", number.source),),
    )


def _direction_of(number: ReleasedNumber) -> int:
    """Tell which values are better, where an installed package repeats the experiment."""
    for experiment in installed_experiments():
        released = experiment.released
        if released is not None and number.experiment in released.experiments:
            metric = experiment.metric(released.metric(number))
            if metric is not None:
                return metric.sign
    return 0
