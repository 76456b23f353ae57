"""What an experiment may use, what is known already, and every model over every data set.

Names and sizes are checked before the first image is opened; records are written as soon as they
are there, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from medssl_data import ImageDataset
    from medssl_models import Backbone, ExtractionSettings, FeatureStore, Provenance, Record
    from medssl_models.console import Progress
    from medssl_models.features.runtime import FeatureNetwork

    from medssl_invariance.experiments.settings import Comparison

__all__ = [
    "Means",
    "Measure",
    "known_records",
    "marks",
    "open_datasets",
    "prepare_network",
    "provenance_of",
    "run_all",
    "with_controls",
]

Measure = Callable[["Backbone", "ImageDataset", "Means"], "Iterable[Record]"]
"""`measure(backbone, data, means)`: the records of one pair; those that are known as they are."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Means:
    """What an experiment may use, and what is known already.

    Attributes:
        extraction: Device, precision, batch size and so on; None takes the defaults.
        store: Where clean features are kept; None computes them anew.
        unfinished: Folder that keeps what a cut-off run has measured; None keeps nothing. Where
            the extraction is forced, what lies there is measured anew.
        save_seconds: How often it is kept at least.
        progress: Shows how far it is.
        known: Records by key; an experiment that has its records here is not run again.
    """

    extraction: ExtractionSettings | None = None
    store: FeatureStore | None = None
    unfinished: Path | None = None
    save_seconds: float = 20.0
    progress: Progress | None = None
    known: Mapping[str, Record] = field(default_factory=dict)


def run_all(
    models: Sequence[str],
    datasets: Sequence[ImageDataset],
    measure: Measure,
    *,
    means: Means,
    networks: Literal["published", "corrected"],
    results: Path | None,
) -> list[Record]:
    """Measure every model on every data set.

    Args:
        models: Names, in the order in which they are run.
        datasets: Data sets, opened.
        measure: Gives the records of one pair.
        means: What it may use, and what is known.
        networks: `published` pads strided layers as the study's networks did.
        results: Where new records are appended; None keeps none.

    Raises:
        medssl_models.UnknownModelError: A name that no model bears, before anything is computed.
        medssl_models.MissingWeightsError: Weights that must be brought, likewise.
    """
    from medssl_models import append_records, create_model
    from medssl_models.experiments.models import check_models

    check_models(models)
    records: list[Record] = []
    for name in models:
        backbone = create_model(name, protocol=networks)
        for data in datasets:
            for record in measure(backbone, data, means):
                if results is not None and record.key not in means.known:
                    append_records(results, [record])
                records.append(record)
    return records


def with_controls(names: Sequence[str]) -> list[str]:
    """Add, for each model, the untrained control of its architecture where there is one.

    A network that was never trained ignores much of what a picture shows; what a trained one
    ignores means nothing without that number beside it.
    """
    from medssl_models.experiments.models import control_of

    controls = [control for name in names if (control := control_of(name))]
    return list(dict.fromkeys([*names, *controls]))


def open_datasets(
    names: Sequence[str],
    *,
    root: Path,
    labels: Literal["study", "corrected"],
    pairing: Literal["study", "patient"] = "patient",
) -> list[ImageDataset]:
    """Open data sets by name, in the order of their files; no image is decoded.

    Args:
        names: As for `medssl_data.load_dataset`.
        root: Folder of the data sets.
        labels: Whose label policy.
        pairing: Where the study paired views by the order of rows, the rows stay in the order of
            their owner's table; the study's own split has shuffled them.
    """
    from medssl_data import load_dataset

    protocol: Literal["published", "corrected"] = "published" if labels == "study" else "corrected"
    opened = []
    for name in names:
        data = load_dataset(name, root=root, protocol=protocol)
        by_order = data.card is not None and data.card.study_pairs == "alternate-rows"
        if pairing == "study" and by_order:
            data = load_dataset(name, root=root, protocol=protocol, split="official")
        opened.append(data)
    return opened


def known_records(path: Path, warn: Say) -> Mapping[str, Record]:
    """Read a results file by key, the newest of equal records; a missing file has none.

    Args:
        path: A file of `append_records`.
        warn: Takes a note for each line that is no record.
    """
    from medssl_models import read_records

    if not path.exists():
        return {}
    file = read_records(path)
    for note in file.notes:
        warn(note)
    return {record.key: record for record in file.records}


def provenance_of(
    backbone: Backbone,
    data: ImageDataset,
    settings: Comparison,
    *,
    preprocessing: str,
    means: Means,
) -> Provenance:
    """Describe where numbers will come from, before the first image is opened."""
    from medssl_models import ExtractionSettings as Extraction
    from medssl_models import Provenance as Origin
    from medssl_models.experiments.record import package_versions

    extraction = means.extraction or Extraction()
    return Origin(
        model=backbone.name,
        weights=backbone.fingerprint,
        preprocessing=preprocessing,
        layer=extraction.layer,
        padding=backbone.card.padding,
        dataset=data.name,
        images=data.fingerprint,
        manifest=data.manifest.fingerprint,
        label_policy=data.manifest.label_policy,
        split="all",
        protocol=settings.protocol,
        seed=settings.seed,
        device=extraction.device,
        precision=extraction.precision,
        versions=package_versions("scikit-learn"),
    )


def prepare_network(
    backbone: Backbone, settings: Comparison, means: Means, *, crop: int
) -> FeatureNetwork:
    """Make the fastest copy of a backbone that computes as the settings say.

    Args:
        backbone: It is not changed.
        settings: What BatchNorm normalises with.
        means: Layer, device and precision.
        crop: Side of the images.
    """
    from medssl_models import ExtractionSettings as Extraction
    from medssl_models.features.runtime import (
        FeatureNetwork as Network,
    )
    from medssl_models.features.runtime import resolve_device

    extraction = means.extraction or Extraction()
    return Network.prepare(
        backbone,
        layer=extraction.layer,
        device=resolve_device(extraction.device),
        precision=extraction.precision,
        batchnorm=settings.batchnorm,
        crop=crop,
    )


def marks(backbone: Backbone, data: ImageDataset, *more: str) -> tuple[str, ...]:
    """Give the notes of a record: that the model is a control, what the data set says, and more."""
    control = (f"control: {backbone.name} is untrained",) if backbone.card.control else ()
    return (*control, *data.notes, *more)
