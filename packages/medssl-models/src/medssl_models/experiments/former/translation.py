"""Records of version 0.1 in the words of today: renamed experiments, metrics and settings.

What was called otherwise stands with the experiment that it belongs to, in `Experiment.formerly`;
here is only how it is applied. Importing this module imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medssl_models.plain_json import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from medssl_models.experiments.experiment import Experiment

__all__ = ["Formerly", "translate"]


@dataclass(frozen=True)
class Formerly:
    """What records of version 0.1 called otherwise.

    Args:
        experiment: Its name then; empty where it is the same.
        metrics: Old name of a metric to the new one.
        fields: Old name of a setting to the new one.
        values: Setting, by its new name, to old value to new value.
        added: Settings that records did not hold then, although both protocols had a value.
        applies: Tells, of a record as JSON, whether it is this experiment's, where two shared a
            name.
        adapt: Changes what the other fields cannot say, in place.
    """

    experiment: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    applies: Callable[[Mapping[str, Any]], bool] = lambda _: True
    adapt: Callable[[dict[str, Any]], None] = lambda _: None


def translate(line: bytes) -> str | None:
    """Translate a line of version 0.1.

    Args:
        line: JSON.

    Returns:
        JSON of today, or None where the line is no record of version 0.1. A record of an
        experiment that is not installed keeps its names.
    """
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or record.get("schema_version") != 1:
        return None
    settings, provenance = record.setdefault("settings", {}), record.get("provenance")
    if not isinstance(settings, dict) or not isinstance(provenance, dict):
        return None
    record["schema_version"] = 2
    experiment = _experiment_of(record)
    if experiment is not None:
        _apply(experiment, record, settings, str(provenance.get("protocol", "corrected")))
    for name in ("protocol", "seed"):  # the provenance tells them
        settings.pop(name, None)
    return json.dumps(record)


def _experiment_of(record: Mapping[str, Any]) -> Experiment | None:
    from medssl_models.experiments.registry import installed_experiments

    for experiment in installed_experiments():
        name = experiment.formerly.experiment or experiment.name
        if record.get("experiment") == name and experiment.formerly.applies(record):
            return experiment
    return None


def _apply(
    experiment: Experiment, record: dict[str, Any], settings: dict[str, Any], protocol: str
) -> None:
    from medssl_models.experiments.settings import published_value

    old = experiment.formerly
    record["experiment"] = experiment.name
    record["metric"] = old.metrics.get(record.get("metric", ""), record.get("metric"))
    for before, now in old.fields.items():
        if before in settings:
            settings[now] = settings.pop(before)
    for name, values in old.values.items():
        value = settings.get(name)
        if isinstance(value, str | int | float | bool) and value in values:
            settings[name] = values[value]
    for name in old.added:
        field_ = experiment.settings.model_fields[name]
        value = published_value(field_) if protocol == "published" else field_.default
        settings.setdefault(name, plain(value))
    old.adapt(record)
