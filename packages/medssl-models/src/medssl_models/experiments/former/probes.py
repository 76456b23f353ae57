"""The way in which packages offered experiments in version 0.1, kept for one minor version.

An entry point of the group `medssl.probes` gives a `ProbePlugin`; it becomes an `Experiment` whose
metrics are not declared, so that none of its values is better than another.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medssl_models.experiments.experiment import Experiment
from medssl_models.experiments.settings import ProtocolName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pydantic import BaseModel

    from medssl_models.backbone import Backbone
    from medssl_models.experiments.context import RunContext
    from medssl_models.experiments.record import Record
    from medssl_models.features.extraction import ExtractionSettings
    from medssl_models.features.store import FeatureStore
    from medssl_models.preprocessing import Preprocessing

__all__ = ["GROUP", "ProbePlugin", "ProtocolName", "Work", "as_experiment"]

GROUP = "medssl.probes"
LOG = logging.getLogger("medssl")


@dataclass(frozen=True)
class Work:
    """What a probe may use, and what is known already.

    Args:
        extraction: Device, precision, batch size and so on.
        results: The file that the records will be appended to, by the caller.
        store: Where features are kept; None computes them anew.
        known: Records by key.
    """

    extraction: ExtractionSettings
    results: Path
    store: FeatureStore | None = None
    known: Mapping[str, Record] = field(default_factory=dict)


@dataclass(frozen=True)
class ProbePlugin:
    """An experiment as version 0.1 knew it; declare an `Experiment` instead.

    Args:
        preset: Makes the settings from the name of a protocol and the fields to change.
        run: Measures one backbone on one data set.
        check: Raises where a data set cannot carry the experiment.
        preprocessing: The preprocessing under which `run` asks for features.
        passes: How many images run through the network beyond the features.
        trains: Whether a classifier is fitted.
        reasons: Field to why the protocols differ.
    """

    preset: Callable[[ProtocolName, Mapping[str, object]], BaseModel]
    run: Callable[[Backbone, Any, Any, Work], list[Record]]
    check: Callable[[Any, Any], None] | None = None
    preprocessing: Callable[[Backbone, Any, Any], Preprocessing] | None = None
    passes: Callable[[Any, Any], int] | None = None
    trains: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict)


def as_experiment(name: str, plugin: object) -> Experiment:
    """Make an experiment of a probe, and say that its package should declare it."""
    if not isinstance(plugin, ProbePlugin):
        message = "it is no ProbePlugin"
        raise TypeError(message)
    LOG.warning(
        "experiment %s comes through the entry-point group medssl.probes, which the next "
        "minor version drops: its package should declare an Experiment in medssl.experiments",
        name,
    )

    def run(backbone: Any, data: Any, settings: Any, context: RunContext) -> list[Record]:  # noqa: ANN401 # a probe's own
        work = Work(context.extracting, context.results_file, context.store, context.known)
        return plugin.run(backbone, data, settings, work)

    settings: Any = type(plugin.preset("corrected", {}))
    return Experiment(
        name=name,
        title=name,
        summary=f"The probe {name} of another package.",
        settings=settings,
        metrics=(),
        run=run,
        check=plugin.check,
        preprocessing=plugin.preprocessing,
        passes=plugin.passes,
        trains=plugin.trains,
        preset=plugin.preset,
        reasons=plugin.reasons,
    )
