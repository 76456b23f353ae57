"""Features of images against those of their transformed versions.

The clean side is in `reference_set`. Here views are made, run through the network in batches,
compared as they come, and averaged: whatever k is, no more than a block of images and a batch of
views is held at a time.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.files import home

from medssl_invariance.experiments.checkpoint import Checkpoint
from medssl_invariance.experiments.clean_features import collect_features, prepare_network
from medssl_invariance.experiments.image_plan import plan_images
from medssl_invariance.experiments.measurement import FACTS, Measurement, make_records
from medssl_invariance.experiments.metrics import METRICS
from medssl_invariance.experiments.reference_set import ReferenceSet, baselines
from medssl_invariance.transforms.batches import Batch, Block, ViewMaker, frame_side

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Preprocessing, Record, Records, RunContext
    from medssl_models.console import Advance
    from medssl_models.experiments.intervals import Mean
    from medssl_models.experiments.settings import ProtocolName
    from medssl_models.features.runtime import FeatureNetwork
    from numpy.typing import NDArray

    from medssl_invariance.experiments.settings import SyntheticSettings
    from medssl_invariance.transforms.families import Family

__all__ = [
    "EXPERIMENT",
    "check_synthetic",
    "clean_preprocessing",
    "count_views",
    "run_synthetic",
    "synthetic",
]

LOG = logging.getLogger("medssl.invariance")
EXPERIMENT = "invariance"
PUBLISHED_GEOMETRY = {"resize": 256, "crop": 224, "interpolation": "bilinear"}
DEFAULT_BATCH = {"cpu": 32}
ROWS_TO_COMPARE = 512
"""Whitening a few rows costs as much as whitening hundreds: the factor is read once for all."""


def synthetic(
    backbone: Backbone,
    data: ImageDataset,
    *,
    protocol: ProtocolName = "corrected",
    settings: SyntheticSettings | None = None,
    context: RunContext | None = None,
    **changes: object,
) -> Records:
    """Measure how stable features are under families of transforms.

    Args:
        backbone: The network.
        data: The images.
        protocol: The preset that the settings start from.
        settings: Settings that are ready made, in place of a protocol.
        context: How it is run; None uses the feature store and shows progress.
        changes: Settings as keywords, such as `transforms=["rotation"]` or `images=20`.

    Returns:
        Five records for each family, one a metric: the cosine of whitened deviations, the raw
        cosine, the Mahalanobis distance, and how often the clean image is the nearest to its
        transformed version, in both spaces. `details` holds the curve over the members, each
        image's value, the baselines, and what the whitening rests on.

    Raises:
        medssl_models.errors.SettingsError: A value is not allowed.
        UnknownFamilyError: A family that does not exist, or not under this protocol.
        GridError: A family has no such k; said before any image is opened.
        TooFewImagesError: Fewer images than a comparison needs, likewise.
        FeatureError: Constant or non-finite features.
        CovarianceError: A covariance that cannot be factored, where the settings say stop.

    Example:
        >>> from medssl_data import load_dataset
        >>> from medssl_models import RunContext
        >>> from medssl_models.testing import tiny_backbone
        >>> data = load_dataset("phantom:chest-xray,count=12,size=80")
        >>> records = synthetic(
        ...     tiny_backbone(), data, transforms=["h_flip"], images=4, context=RunContext()
        ... )
        >>> [record.metric for record in records][:2]
        ['whitened_cosine', 'raw_cosine']
    """
    from medssl_models.experiments.runner import measure

    from medssl_invariance.experiments.declarations import SYNTHETIC

    return measure(
        SYNTHETIC,
        backbone,
        data,
        protocol=protocol,
        settings=settings,
        context=context,
        **changes,
    )


def run_synthetic(
    backbone: Backbone, data: ImageDataset, settings: SyntheticSettings, context: RunContext
) -> Iterator[Record]:
    """Yield the records of one family after the other; see `synthetic`."""
    check_synthetic(data, settings)
    session = _Session(backbone, data, settings, context)
    for family in settings.families:
        measured = _FamilyRun(session, family)
        yield from measured.records()
        measured.forget()  # whoever took the records has kept them by now


def check_synthetic(data: ImageDataset, settings: SyntheticSettings) -> None:
    """Tell before any image is opened whether the settings can be carried out.

    Raises:
        UnknownFamilyError: A family that does not exist, or not under this protocol.
        GridError: A family has no such k.
        TooFewImagesError: Fewer images than a comparison needs.
    """
    count_views(data, settings)
    plan_images(len(data), settings)


def count_views(_: ImageDataset, settings: SyntheticSettings) -> int:
    """Count the images that run through the network beyond the clean ones, at most."""
    versions = (len(f.members(settings.ranges, settings.members)) for f in settings.families)
    return settings.images * sum(versions)


def clean_preprocessing(
    backbone: Backbone, settings: SyntheticSettings, *, frame: float = 1.0
) -> Preprocessing:
    """Decide how a clean image reaches the network.

    Args:
        backbone: Knows its own preprocessing, and what the study fed it.
        settings: Whose geometry and normalisation.
        frame: How many times larger than the crop the resized image must be; where the resize
            falls short of it, it is raised, for clean and transformed images alike.
    """
    prepared = backbone.preprocessing_for(settings.fed_by)
    if settings.geometry == "experiment":
        prepared = prepared.replace(**PUBLISHED_GEOMETRY)
    else:
        own = backbone.preprocessing
        prepared = prepared.replace(
            resize=own.resize, crop=own.crop, interpolation=own.interpolation
        )
    least = frame_side(prepared.crop, frame)
    resize = prepared.resize
    larger = max(resize, least) if isinstance(resize, int) else tuple(max(s, least) for s in resize)
    return prepared.replace(resize=larger)


@dataclass
class _Session:
    """One model on one data set: what its families share."""

    backbone: Backbone
    data: ImageDataset
    settings: SyntheticSettings
    context: RunContext

    def __post_init__(self) -> None:
        self.plan = plan_images(len(self.data), self.settings)
        self.title = f"{self.backbone.name} on {self.data.name}"
        self._references: dict[str, tuple[ReferenceSet, dict[str, dict[str, Mean]]]] = {}

    def reference(
        self, preprocessing: Preprocessing
    ) -> tuple[ReferenceSet, dict[str, dict[str, Mean]]]:
        """Return the clean side, and the baselines, for a preprocessing; computed once."""
        key = preprocessing.fingerprint
        if key not in self._references:
            clean = collect_features(
                self.backbone, self.data, preprocessing, self.plan, self.settings, self.context
            )
            reference = ReferenceSet.build(clean, self.plan, self.settings)
            if not self._references:  # another frame changes nothing of it
                for note in reference.whitening.report.notes:
                    LOG.warning("%s: %s", self.title, note)
            self._references[key] = reference, baselines(reference, self.data, self.settings)
        return self._references[key]

    @cached_property
    def network(self) -> FeatureNetwork:
        """The fastest copy of the backbone."""
        crop = clean_preprocessing(self.backbone, self.settings).crop
        return prepare_network(self.backbone, self.settings, self.context, crop=crop)

    @property
    def batch_size(self) -> int:
        """Views that run through the network together, and images in a block."""
        asked = self.context.extracting.batch_size
        return asked or DEFAULT_BATCH.get(self.network.device.type, 128)

    @property
    def workers(self) -> int:
        """Threads that decode and transform pictures."""
        asked = self.context.extracting.workers
        return 2 if asked is None else asked

    def checkpoint(self, key: str, members: int, images: int) -> Checkpoint:
        """Open what a cut-off run has left; nothing is kept where features are not kept either."""
        context = self.context
        return Checkpoint.open(
            None if context.store is None else home() / "invariance",
            key,
            (len(METRICS), images, members),
            anew=context.force or context.extracting.force,
        )


class _FamilyRun:
    """One family on one model and data set."""

    def __init__(self, session: _Session, family: Family) -> None:
        self.session = session
        self.family = family
        settings = session.settings
        self.members = family.members(settings.ranges, settings.members)
        grid = family.grid(settings.ranges)
        frame = grid.frame if settings.border == "inscribed" else 1.0
        self.preprocessing = clean_preprocessing(session.backbone, settings, frame=frame)
        self.provenance = session.context.provenance(
            session.backbone,
            session.data,
            settings,
            preprocessing=self.preprocessing.fingerprint,
            **FACTS,
        )
        self.identity = session.context.settings_of(
            settings, transform=family.name, members=len(self.members)
        )
        del self.identity["transforms"]  # each has records of its own
        self.checkpoint: Checkpoint | None = None

    def records(self) -> list[Record]:
        from medssl_models.experiments.record import record_key

        names = [metric.name for metric in METRICS]
        known = self.session.context.recall(EXPERIMENT, names, self.identity, self.provenance)
        if known is not None:
            return known
        reference, found = self.session.reference(self.preprocessing)
        key = record_key(EXPERIMENT, names[0], self.identity, self.provenance)
        values, grey = self._values(reference, key)
        measurement = Measurement(
            axis=self.family.axis,
            places=np.array([member.at for member in self.members], dtype=np.float64),
            identities=np.array([member.identity for member in self.members]),
            values=values,
            reference=reference,
            baselines=found,
            notes=self._notes(reference, grey),
        )
        return make_records(
            EXPERIMENT,
            measurement,
            self.session.settings,
            provenance=self.provenance.model_copy(update={"device": reference.clean.device}),
            identity=self.identity,
        )

    def forget(self) -> None:
        """Remove what was kept for the case that the run is cut off."""
        if self.checkpoint is not None:
            self.checkpoint.remove()

    def _notes(self, reference: ReferenceSet, grey: float) -> tuple[str, ...]:
        notes = list(reference.whitening.report.notes)
        if self.family.colour and grey > 0:
            share = "all" if grey == 1 else f"{grey:.0%} of the"
            notes.append(f"{share} pictures are grey: {self.family.name} does nothing to them")
        missing = len(np.unique(self.session.plan.compared)) - len(np.unique(reference.compared))
        if missing:
            notes.append(f"{missing} of the images to compare could not be read")
        return tuple(notes)

    def _values(self, reference: ReferenceSet, key: str) -> tuple[NDArray[np.float64], float]:
        """Measure all images under all members: `(5, n, k)`, and the share of grey pictures."""
        session, rows = self.session, reference.compared
        self.checkpoint = kept = session.checkpoint(key, len(self.members), len(rows))
        progress = session.context.progress or _silent
        with progress(f"{session.title}: {self.family.name}", kept.done.size) as advance:
            advance(int(kept.done.sum()))
            size = session.batch_size
            for start in range(0, len(rows), size):
                block = slice(start, min(start + size, len(rows)))
                if not kept.done[block].all():
                    self._measure_block(reference, block, kept, advance)
        return kept.values, float(kept.grey.mean())

    def _measure_block(
        self, reference: ReferenceSet, place: slice, kept: Checkpoint, advance: Advance
    ) -> None:
        block = Block(self.session.data, reference.compared[place])
        todo = np.flatnonzero(~kept.done[place].all(axis=0))
        if self.session.settings.batchnorm == "training":
            todo = np.arange(len(self.members))  # with fewer of them the batch is another
        waiting: list[tuple[Batch, NDArray[np.float32]]] = []
        for batch in self._maker.batches(block, todo):
            waiting.append((batch, self.session.network(batch.pixels).numpy()))
            kept.grey[place] = block.grey
            if sum(len(features) for _, features in waiting) >= ROWS_TO_COMPARE:
                advance(_settle(reference, block.rows, waiting, kept, place.start))
        advance(_settle(reference, block.rows, waiting, kept, place.start))

    @property
    def _maker(self) -> ViewMaker:
        session = self.session
        together = session.settings.batchnorm == "training"
        size = len(self.members) if together else session.batch_size
        return ViewMaker(self.family, session.settings, self.preprocessing, size, session.workers)


def _settle(
    reference: ReferenceSet,
    rows: NDArray[np.int64],
    waiting: list[tuple[Batch, NDArray[np.float32]]],
    kept: Checkpoint,
    start: int,
) -> int:
    """Compare the features that wait, keep what came out, and count it."""
    if not waiting:
        return 0
    features = np.concatenate([computed for _, computed in waiting])
    images = np.concatenate([batch.images for batch, _ in waiting])
    members = np.concatenate([batch.members for batch, _ in waiting])
    waiting.clear()
    measured = reference.measure(rows[images], features, rows[images])
    kept.keep(measured, start + images, members)
    return len(features)


@contextmanager
def _silent(*_: object) -> Iterator[Advance]:
    """Stand in for the progress bar."""

    def ignore(n: int = 1, **more: object) -> None:
        del n, more

    yield ignore
