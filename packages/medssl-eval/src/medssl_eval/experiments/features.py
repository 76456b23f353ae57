"""What an experiment on frozen features starts from: features, labels, patients, provenance.

Joins a backbone with a data set under an experiment's settings. Extraction and its store are
medssl-models' business, images and labels medssl-data's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from medssl_eval.errors import FeatureError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from medssl_data import ImageDataset
    from medssl_models import (
        Backbone,
        ExtractionSettings,
        FeatureStore,
        Preprocessing,
        Provenance,
        Record,
    )
    from medssl_models.console import Progress
    from numpy.typing import NDArray

__all__ = [
    "SHORT_SIDE",
    "SQUASH",
    "FeatureSet",
    "Means",
    "Preparation",
    "collect",
    "marks",
    "patients_of",
    "prepare",
    "provenance_of",
]

SHORT_SIDE: Mapping[str, object] = MappingProxyType(
    {"resize": 224, "crop": 224, "interpolation": "bicubic"}
)
"""The study's geometry everywhere but in few-shot on small sets: aspect kept."""
SQUASH: Mapping[str, object] = MappingProxyType(
    {"resize": (257, 257), "crop": 224, "interpolation": "bilinear"}
)
"""The study's geometry in few-shot on sets that it held in memory: 257 = floor(1.15 x 224)."""


class Preparation(Protocol):
    """The settings that decide how an image reaches the network; each experiment has them."""

    @property
    def protocol(self) -> Literal["published", "corrected"]:
        """The preset that the values started from."""

    @property
    def seed(self) -> int:
        """Seed of everything random."""

    @property
    def geometry(self) -> Literal["experiment", "model"]:
        """Whose resizing and crop."""

    @property
    def normalisation(self) -> Literal["study", "model"]:
        """Whose mean and deviation."""


@dataclass(frozen=True)
class Means:
    """What an experiment may use, and what is known already.

    Attributes:
        extraction: Device, precision, batch size and so on; None takes the defaults.
        store: Where features are kept; None computes them anew.
        progress: Shows how far the extraction is.
        known: Records by key; an experiment that has its record here is not run again.
        predictions: Folder that keeps the predictions of single images; None keeps none.
    """

    extraction: ExtractionSettings | None = None
    store: FeatureStore | None = None
    progress: Progress | None = None
    known: Mapping[str, Record] = field(default_factory=dict)
    predictions: Path | None = None


@dataclass(frozen=True)
class FeatureSet:
    """Features of the readable images of a data set, checked.

    Attributes:
        features: (N, D) float32, finite.
        rows: (N,) int64, their row numbers in the data set.
        labels: (N,) int64 in 0..C-1.
        groups: N patient names, "" where unknown.
        splits: N split names, "" where there is none.
        unreadable: Names of the images that were skipped.
        computed: How many images were extracted now, not read from the store.
        provenance: Where the features came from, for records.
    """

    features: NDArray[np.float32]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    groups: tuple[str, ...]
    splits: tuple[str, ...]
    unreadable: tuple[str, ...]
    computed: int
    provenance: Provenance


def prepare(
    backbone: Backbone, settings: Preparation, *, geometry: Mapping[str, object] = SHORT_SIDE
) -> Preprocessing:
    """Decide how an image reaches the network.

    Args:
        backbone: Knows its own preprocessing, and what the study fed it.
        settings: Say whose geometry and whose normalisation to take.
        geometry: The experiment's geometry: `SQUASH`, or `SHORT_SIDE`.
    """
    base = backbone.preprocessing_for(
        "published" if settings.normalisation == "study" else "corrected"
    )
    if settings.geometry == "model":
        own = backbone.preprocessing
        geometry = {"resize": own.resize, "crop": own.crop, "interpolation": own.interpolation}
    prepared: Preprocessing = base.replace(**geometry)
    return prepared


def provenance_of(
    backbone: Backbone,
    data: ImageDataset,
    settings: Preparation,
    *,
    preprocessing: Preprocessing,
    extraction: ExtractionSettings | None = None,
    split: str = "all",
) -> Provenance:
    """Describe where the numbers of an experiment will come from, before it is run.

    Args:
        backbone: The network.
        data: The images.
        settings: Protocol and seed.
        preprocessing: As `prepare` decided.
        extraction: Layer, device and precision; None takes the defaults.
        split: Which rows take part.
    """
    from medssl_models import ExtractionSettings as Extraction
    from medssl_models import Provenance as Origin
    from medssl_models.experiments.record import package_versions

    extraction = extraction or Extraction()
    return Origin(
        model=backbone.name,
        weights=backbone.fingerprint,
        preprocessing=preprocessing.fingerprint,
        layer=extraction.layer,
        padding=backbone.card.padding,
        dataset=data.name,
        images=data.fingerprint,
        manifest=data.manifest.fingerprint,
        label_policy=data.manifest.label_policy,
        split=split,
        protocol=settings.protocol,
        seed=settings.seed,
        device=extraction.device,
        precision=extraction.precision,
        versions=package_versions(),
    )


def collect(
    backbone: Backbone,
    data: ImageDataset,
    *,
    preprocessing: Preprocessing,
    provenance: Provenance,
    means: Means,
) -> FeatureSet:
    """Extract the features of a data set, or read them from the store.

    Args:
        backbone: The network.
        data: The images.
        preprocessing: As `prepare` decided.
        provenance: As `provenance_of` described; the device that was used is filled in.
        means: Settings of the extraction, store and progress.

    Raises:
        FeatureError: A feature is NaN or infinite; the message names the image.
        medssl_data.UnreadableImageError: An image cannot be read and is not to be skipped.
    """
    from medssl_models import ExtractionSettings as Extraction
    from medssl_models import extract

    table = extract(
        backbone,
        data,
        preprocessing=preprocessing,
        settings=means.extraction or Extraction(),
        store=means.store,
        progress=means.progress,
    )
    rows = np.flatnonzero(table.readable)
    features = table.features if len(rows) == len(data) else table.features[rows]
    _check_finite(features, [data.ids[row] for row in rows], backbone.name)
    device = table.provenance.get("device", provenance.device)
    return FeatureSet(
        features=features,
        rows=rows,
        labels=data.labels[rows],
        groups=tuple(data.groups[row] for row in rows),
        splits=tuple(data.splits[row] for row in rows),
        unreadable=tuple(data.ids[row] for row in np.flatnonzero(~table.readable)),
        computed=table.computed,
        provenance=provenance.model_copy(update={"device": device}),
    )


def patients_of(groups: Sequence[str], *, separate: bool) -> list[str] | None:
    """Name the patient of each image where patients must be kept together.

    Args:
        groups: N patient names, "" where unknown.
        separate: Whether the settings keep them together.

    Returns:
        N names, an unknown patient being one of its own; None where there is nothing to keep.
    """
    if not separate or not any(groups):
        return None
    return [group or f"\0{row}" for row, group in enumerate(groups)]


def marks(backbone: Backbone, data: ImageDataset, *, skipped: int = 0) -> tuple[str, ...]:
    """Give the notes that a record of this model and data set must carry.

    Args:
        backbone: A control says so, and so does one that was trained on this data set.
        data: Its notes, such as that it is a phantom.
        skipped: How many unreadable images were left out.
    """
    control = (f"control: {backbone.name} is untrained",) if backbone.card.control else ()
    plural = "image was" if skipped == 1 else "images were"
    fewer = (f"{skipped} unreadable {plural} skipped",) if skipped else ()
    return (*control, *_trained_on(backbone, data), *fewer, *data.notes)


def _trained_on(backbone: Backbone, data: ImageDataset) -> tuple[str, ...]:
    """Tell where a network may have seen the images before (I-9)."""
    names = {data.name} | ({data.card.name} if data.card else set())
    if data.manifest.synthetic or not names & set(backbone.card.pretraining):
        return ()
    return (
        f"pretraining: {backbone.name} was trained on images of {data.name}; those that it has "
        "seen are no independent test",
    )


def _check_finite(features: NDArray[np.float32], names: list[str], model: str) -> None:
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if not len(broken):
        return
    message = (
        f"{model} gives NaN or infinite features for {len(broken)} of {len(features)} images, "
        f"the first is {names[broken[0]]!r}: check the image and the weights, then repeat with "
        "--force, or leave the image out"
    )
    raise FeatureError(message)
