"""Experiments of other packages: what an entry point of the group `medssl.probes` gives.

A plug-in is a record with callables, so that packages can offer experiments to whoever plans them
without knowing each other. Importing this module imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medssl_models.experiments.settings import ProtocolName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pydantic import BaseModel

    from medssl_models.backbone import Backbone
    from medssl_models.experiments.record import Record
    from medssl_models.features.extraction import ExtractionSettings
    from medssl_models.features.store import FeatureStore
    from medssl_models.preprocessing import Preprocessing

__all__ = ["GROUP", "ProbePlugin", "ProtocolName", "Work"]

GROUP = "medssl.probes"


@dataclass(frozen=True)
class Work:
    """What an experiment may use, and what is known already.

    Attributes:
        extraction: Device, precision, batch size and so on.
        results: The file that the records will be appended to, by the caller. What else an
            experiment keeps lies beside it.
        store: Where features are kept; None computes them anew.
        known: Records by key; an experiment that has its records here need not run again.
    """

    extraction: ExtractionSettings
    results: Path
    store: FeatureStore | None = None
    known: Mapping[str, Record] = field(default_factory=dict)


@dataclass(frozen=True)
class ProbePlugin:
    """An experiment on one model and one data set; its entry point bears its name.

    Args:
        preset: Gives the settings, a pydantic model with a field `protocol`, from the name of a
            protocol and the fields to change; raises `ValueError` where a value is not allowed.
        run: Gives the records for a backbone, a data set (a `medssl_data.ImageDataset`, or
            whatever the caller has), settings and work. It appends nothing.
        check: Raises, with the exit code and the sentence for the user, where a data set cannot
            carry the experiment; called before any image is opened.
        preprocessing: Gives the preprocessing under which `run` will ask for features, so that
            they can be extracted ahead; None where the network itself is run.
        passes: Tells how many images will run through the network beyond the features, for an
            estimate of time; a training step counts three times. None where nobody knows.
        trains: Whether a classifier is fitted: the study labelled some data sets otherwise then.
        reasons: Field to why the protocols differ, where the field's own description is not enough.

    Example:
        The package's metadata:

            [project.entry-points."medssl.probes"]
            our-experiment = "our_package:PROBE"
    """

    preset: Callable[[ProtocolName, Mapping[str, object]], BaseModel]
    run: Callable[[Backbone, Any, Any, Work], list[Record]]
    check: Callable[[Any, Any], None] | None = None
    preprocessing: Callable[[Backbone, Any, Any], Preprocessing] | None = None
    passes: Callable[[Any, Any], int] | None = None
    trains: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict)
