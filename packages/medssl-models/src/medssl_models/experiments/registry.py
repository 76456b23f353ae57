"""All experiments that are installed, by name, and the metrics that they declare.

An experiment is an entry point of the group `medssl.experiments`. One that cannot be loaded says so
when it is asked for, and harms no other. Importing this module imports no torch.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from medssl_models.errors import UnknownExperimentError, did_you_mean
from medssl_models.experiments.experiment import GROUP, Experiment
from medssl_models.experiments.former.probes import GROUP as OLD_GROUP
from medssl_models.experiments.former.probes import as_experiment
from medssl_models.experiments.metric import Metric
from medssl_models.plugins import foreign_code

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from importlib.metadata import EntryPoint

    from medssl_models.experiments.record import Record

__all__ = [
    "declared",
    "declared_metric",
    "experiment_names",
    "experiments_of_others",
    "find_experiment",
    "installed_experiments",
    "metric_of",
]

_DECLARED: dict[str, Experiment] = {}


def experiment_names() -> list[str]:
    """Name all experiments in the order of lists; one that is broken is named too."""
    usable = [experiment.name for experiment in installed_experiments()]
    return [*usable, *sorted(set(_entries()).difference(usable))]


def installed_experiments() -> list[Experiment]:
    """List the experiments that can be loaded, in the order in which lists show them."""
    return _usable({**_entries(), **_DECLARED})


def experiments_of_others() -> list[Experiment]:
    """List the experiments of packages that are not ours, for who lends them a command."""
    return _usable(
        name
        for name, entries in _entries().items()
        if not any(str(entry.dist and entry.dist.name).startswith("medssl-") for entry in entries)
    )


def _usable(names: Iterable[str]) -> list[Experiment]:
    """Load what can be loaded, and nothing else, in the order of lists."""
    found = []
    for name in names:
        with contextlib.suppress(UnknownExperimentError):
            found.append(find_experiment(name))
    return sorted(found, key=lambda experiment: (experiment.place, experiment.name))


def find_experiment(name: str) -> Experiment:
    """Find an experiment by name.

    Raises:
        UnknownExperimentError: No installed package brings it, several do, or it cannot be loaded.
    """
    if name in _DECLARED:
        return _DECLARED[name]
    entries = _entries().get(name)
    if entries is None:
        names = sorted({*_entries(), *_DECLARED})
        hint = did_you_mean(name, names, close_only=True)
        message = (
            f"unknown experiment {name!r}{hint} (installed are {', '.join(names) or 'none'}; more "
            "come with other packages)"
        )
        raise UnknownExperimentError(message)
    return _load(name, entries)


def declared_metric(experiment: str, metric: str, unit: str = "") -> Metric:
    """Return the declaration of a metric of a record that is being made.

    Args:
        experiment: Its name.
        metric: The metric's name.
        unit: What the unit is where the package that brings the experiment declares no metrics.

    Raises:
        ValueError: No installed package declares the experiment, or it declares no such metric.
    """
    found = find_experiment(experiment)
    known = found.metric(metric)
    if known is not None:
        return known
    if not found.metrics:  # of a package that still speaks of probes
        return Metric(metric, metric, "neither", unit)
    names = [one.name for one in found.metrics]
    message = f"{experiment} declares no metric {metric!r}{did_you_mean(metric, names)}"
    raise ValueError(message)


def metric_of(record: Record) -> Metric:
    """Return what a record's metric means; without direction where no installed package tells."""
    try:
        known = find_experiment(record.experiment).metric(record.metric)
    except UnknownExperimentError:
        known = None
    return known or Metric(record.metric, record.metric.replace("_", " "), "neither", record.unit)


@contextlib.contextmanager
def declared(*experiments: Experiment) -> Iterator[None]:
    """Declare experiments for a while, without an entry point, as tests and notebooks do.

    Example:
        >>> from medssl_models.testing.experiments import COUNT_IMAGES
        >>> with declared(COUNT_IMAGES):
        ...     find_experiment("count-images").title
        'number of images'
    """
    before = dict(_DECLARED)
    _DECLARED.update({experiment.name: experiment for experiment in experiments})
    try:
        yield
    finally:
        _DECLARED.clear()
        _DECLARED.update(before)


def _entries() -> Mapping[str, tuple[EntryPoint, ...]]:
    return _entries_on(tuple(sys.path))


@functools.lru_cache(maxsize=4)
def _entries_on(_path: tuple[str, ...]) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Entry points by name; reading them takes longer than a record, and paths seldom change."""
    found: dict[str, dict[str, EntryPoint]] = {}
    for group in (GROUP, OLD_GROUP):
        for entry in entry_points(group=group):
            found.setdefault(entry.name, {}).setdefault(entry.value, entry)
    return {name: tuple(entries.values()) for name, entries in found.items()}


@functools.lru_cache(maxsize=64)
def _load(name: str, entries: tuple[EntryPoint, ...]) -> Experiment:
    if len(entries) > 1:
        brought = ", ".join(entry.value for entry in entries)
        message = f"experiment {name!r} is brought by several packages: {brought}"
        raise UnknownExperimentError(message)
    (entry,) = entries
    try:
        with foreign_code():
            found = entry.load()
            if entry.group == OLD_GROUP:
                found = as_experiment(name, found)
    except Exception as error:  # another package's code may raise anything
        message = f"experiment {name!r} is broken: {type(error).__name__}: {error}"
        raise UnknownExperimentError(message) from error
    if not isinstance(found, Experiment) or found.name != name:
        message = f"experiment {name!r} is broken: {entry.value} is no Experiment of this name"
        raise UnknownExperimentError(message)
    return found
