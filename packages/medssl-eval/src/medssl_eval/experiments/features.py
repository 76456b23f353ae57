"""What an experiment on frozen features starts from: features, labels, patients, provenance.

Joins a backbone with a data set under an experiment's settings. Extraction and its store are
medssl-models' business, images and labels medssl-data's.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from medssl_eval.errors import FeatureError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Preprocessing, Provenance, RunContext
    from numpy.typing import NDArray

__all__ = [
    "SHORT_SIDE",
    "SQUASH",
    "FeatureSet",
    "Preparation",
    "collect",
    "patients_of",
    "prepare",
    "prepare_for",
    "unit_names",
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
    def geometry(self) -> Literal["experiment", "model"]:
        """Whose resizing and crop."""

    @property
    def normalisation(self) -> Literal["published", "model"]:
        """Whose mean and deviation."""


@dataclass(frozen=True)
class FeatureSet:
    """Features of the readable images of a data set, checked.

    Args:
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
        "published" if settings.normalisation == "published" else "corrected"
    )
    if settings.geometry == "model":
        own = backbone.preprocessing
        geometry = {"resize": own.resize, "crop": own.crop, "interpolation": own.interpolation}
    prepared: Preprocessing = base.replace(**geometry)
    return prepared


def prepare_for(backbone: Backbone, _: ImageDataset, settings: Preparation) -> Preprocessing:
    """As `prepare`, for an experiment whose geometry is the same for every data set."""
    return prepare(backbone, settings)


def collect(
    backbone: Backbone,
    data: ImageDataset,
    *,
    preprocessing: Preprocessing,
    provenance: Provenance,
    context: RunContext,
) -> FeatureSet:
    """Extract the features of a data set, or read them from the store.

    Args:
        backbone: The network.
        data: The images.
        preprocessing: As `prepare` decided.
        provenance: As the context described; the device that was used is filled in.
        context: Settings of the extraction, store and progress.

    Raises:
        FeatureError: A feature is NaN or infinite; the message names the image.
        medssl_data.UnreadableImageError: An image cannot be read and is not to be skipped.
    """
    from medssl_models import extract

    table = extract(
        backbone,
        data,
        preprocessing=preprocessing,
        settings=context.extracting,
        store=context.store,
        progress=context.progress,
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


def unit_names(groups: Sequence[str], ids: Sequence[str]) -> list[str]:
    """Name the independent unit of each image as influences do, so that experiments share units.

    Args:
        groups: N patient names, "" where unknown.
        ids: N names of the images, which are units of their own where the patient is unknown.

    Example:
        >>> unit_names(["anna", ""], ["1.png", "2.png"])
        ['patient anna', 'image 2.png']
    """
    return [
        f"patient {group}" if group else f"image {ident}"
        for group, ident in zip(groups, ids, strict=True)
    ]


def _check_finite(features: NDArray[np.float32], names: list[str], model: str) -> None:
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if not len(broken):
        return
    message = (
        f"{model} gives NaN or infinite features for {len(broken)} of {len(features)} images, "
        f"the first is {names[broken[0]]!r}: check the image and the weights, then repeat with "
        "force, or leave the image out"
    )
    raise FeatureError(message)
