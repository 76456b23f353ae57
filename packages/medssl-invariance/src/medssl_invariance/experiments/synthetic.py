"""Features of images against those of their transformed versions.

The clean side is in `reference`. Here views are made, run through the network in batches, compared
as they come, and averaged: whatever k is, no more than a block of images and a batch of views is
held at a time.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from medssl_invariance.experiments.checkpoint import Unfinished
from medssl_invariance.experiments.clean_features import collect_in_batches
from medssl_invariance.experiments.measurements import Outcome, make_records
from medssl_invariance.experiments.reference_set import (
    CleanFeatures,
    Reference,
    baselines,
    plan_images,
)
from medssl_invariance.experiments.runs import Means, prepare_network, provenance_of
from medssl_invariance.experiments.settings import SyntheticSettings, identity
from medssl_invariance.similarity import METRICS
from medssl_invariance.transforms.batches import Batch, Block, ViewMaker, frame_side

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Preprocessing, Record
    from medssl_models.console import Advance
    from medssl_models.experiments.settings import ProtocolName
    from medssl_models.features.runtime import FeatureNetwork
    from numpy.typing import NDArray

    from medssl_invariance.similarity import Mean
    from medssl_invariance.transforms.families import Family

__all__ = ["clean_preprocessing", "feasible", "synthetic"]

LOG = logging.getLogger("medssl.invariance")
STUDY_GEOMETRY = {"resize": 256, "crop": 224, "interpolation": "bilinear"}
DEFAULT_BATCH = {"cpu": 32}
ROWS_TO_COMPARE = 512
"""Whitening a few rows costs as much as whitening hundreds: the factor is read once for all."""


def synthetic(
    backbone: Backbone,
    data: ImageDataset,
    families: Sequence[Family],
    *,
    settings: SyntheticSettings | None = None,
    means: Means | None = None,
) -> Iterator[Record]:
    """Measure how stable features are under families of transforms.

    Args:
        backbone: The network.
        data: The images.
        families: Out of `families.find_families`.
        settings: None takes the corrected preset.
        means: Extraction, store, and what is known already.

    Yields:
        Five records for each family, one a metric: the cosine of whitened deviations, the raw
        cosine, the Mahalanobis distance, and how often the clean image is the nearest to its
        transformed version, in both spaces. `details` holds the curve over the members, each
        image's value, the baselines, and what the whitening rests on.

    Raises:
        GridError: A family has no such k; said before any image is opened.
        TooFewImagesError: Fewer images than a comparison needs, likewise.
        FeatureError: Constant or non-finite features.
        CovarianceError: A covariance that cannot be factored, where the settings say stop.
    """
    settings, means = settings or SyntheticSettings(), means or Means()
    feasible(data, families, settings)
    session = _Session(backbone, data, settings, means)
    for family in families:
        measurement = _Measurement(session, family)
        yield from measurement.records()
        measurement.forget()  # whoever took the records has kept them by now


def feasible(data: ImageDataset, families: Sequence[Family], settings: SyntheticSettings) -> None:
    """Say before any image is opened whether it can be done; raises as `synthetic` does."""
    for family in families:
        family.members(settings.ranges, settings.members)
    plan_images(len(data), settings)


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
    source: ProtocolName = "published" if settings.normalisation == "study" else "corrected"
    prepared = backbone.preprocessing_for(source)
    if settings.geometry == "experiment":
        prepared = prepared.replace(**STUDY_GEOMETRY)
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
    means: Means

    def __post_init__(self) -> None:
        self.plan = plan_images(len(self.data), self.settings)
        self._references: dict[str, tuple[Reference, dict[str, dict[str, Mean]]]] = {}

    def reference(
        self, preprocessing: Preprocessing
    ) -> tuple[Reference, dict[str, dict[str, Mean]]]:
        """Give the clean side, and the baselines, for a preprocessing; computed once."""
        key = preprocessing.fingerprint
        if key not in self._references:
            clean, spread = self._clean(preprocessing)
            reference = Reference.build(clean, self.plan, self.settings, spread=spread)
            if not self._references:  # another frame changes nothing of it
                for note in reference.whitening.report.notes:
                    LOG.warning("%s on %s: %s", self.backbone.name, self.data.name, note)
            found = baselines(reference, self.data, self.settings)
            self._references[key] = reference, found
        return self._references[key]

    def _clean(
        self, preprocessing: Preprocessing
    ) -> tuple[CleanFeatures, NDArray[np.float32] | None]:
        """Give clean features, and others for the covariance where BatchNorm tells them apart."""
        rows = self.plan.needed
        if self.settings.batchnorm == "training":
            return collect_in_batches(self.network, self.data, preprocessing, self.plan, rows)
        return CleanFeatures.collect(
            self.backbone, self.data, preprocessing, rows, self.means
        ), None

    @cached_property
    def network(self) -> FeatureNetwork:
        """The fastest copy of the backbone."""
        crop = clean_preprocessing(self.backbone, self.settings).crop
        return prepare_network(self.backbone, self.settings, self.means, crop=crop)

    @property
    def batch_size(self) -> int:
        """Views that run through the network together, and images in a block."""
        asked = self.means.extraction.batch_size if self.means.extraction else None
        return asked or DEFAULT_BATCH.get(self.network.device.type, 128)

    @property
    def workers(self) -> int:
        """Threads that decode and transform pictures."""
        asked = self.means.extraction.workers if self.means.extraction else None
        return 2 if asked is None else asked


class _Measurement:
    """One family on one model and data set."""

    def __init__(self, session: _Session, family: Family) -> None:
        self.session = session
        self.family = family
        settings = session.settings
        self.members = family.members(settings.ranges, settings.members)
        grid = family.grid(settings.ranges)
        frame = grid.frame if settings.border == "inscribed" else 1.0
        self.preprocessing = clean_preprocessing(session.backbone, settings, frame=frame)
        self.provenance = provenance_of(
            session.backbone,
            session.data,
            settings,
            preprocessing=self.preprocessing.fingerprint,
            means=session.means,
        )
        self.unfinished: Unfinished | None = None
        self.identity = identity(settings, transform=family.name, members=len(self.members))

    def records(self) -> list[Record]:
        from medssl_models.experiments.record import record_key

        known = self.session.means.known
        keys = [record_key("invariance", m, self.identity, self.provenance) for m in METRICS]
        if all(key in known for key in keys):
            return [known[key] for key in keys]
        reference, found = self.session.reference(self.preprocessing)
        values, grey = self._values(reference, keys[0])
        outcome = Outcome(
            axis=self.family.axis,
            places=np.array([member.at for member in self.members], dtype=np.float64),
            identities=np.array([member.identity for member in self.members]),
            values=values,
            reference=reference,
            baselines=found,
            notes=self._notes(reference, grey),
        )
        return make_records(
            self.session.backbone,
            self.session.data,
            self.session.settings,
            outcome,
            provenance=self.provenance.model_copy(update={"device": reference.clean.device}),
            identity=self.identity,
        )

    def forget(self) -> None:
        """Remove what was kept for the case that the run is cut off."""
        if self.unfinished is not None:
            self.unfinished.remove()

    def _notes(self, reference: Reference, grey: float) -> tuple[str, ...]:
        notes = list(reference.whitening.report.notes)
        if self.family.colour and grey > 0:
            share = "all" if grey == 1 else f"{grey:.0%} of the"
            notes.append(f"{share} pictures are grey: {self.family.name} does nothing to them")
        missing = len(np.unique(self.session.plan.compared)) - len(np.unique(reference.compared))
        if reference.clean.unreadable:
            notes.append(
                f"{len(reference.clean.unreadable)} unreadable images were skipped, {missing} of "
                "them among the compared"
            )
        return tuple(notes)

    def _values(self, reference: Reference, key: str) -> tuple[NDArray[np.float64], float]:
        """Measure all images under all members: `(5, n, k)`, and the share of grey pictures."""
        rows, means = reference.compared, self.session.means
        self.unfinished = unfinished = Unfinished.open(
            means.unfinished,
            key,
            (len(METRICS), len(rows), len(self.members)),
            seconds=means.save_seconds,
            anew=means.extraction is not None and means.extraction.force,
        )
        title = f"{self.session.backbone.name} on {self.session.data.name}: {self.family.name}"
        total = len(rows) * len(self.members)
        with means.progress(title, total) if means.progress else _silent() as advance:
            advance(int(unfinished.done.sum()))
            size = self.session.batch_size
            for start in range(0, len(rows), size):
                block = slice(start, min(start + size, len(rows)))
                if not unfinished.done[block].all():
                    self._measure_block(reference, block, unfinished, advance)
        return unfinished.values, float(unfinished.grey.mean())

    def _measure_block(
        self, reference: Reference, place: slice, unfinished: Unfinished, advance: Advance
    ) -> None:
        block = Block(self.session.data, reference.compared[place])
        todo = np.flatnonzero(~unfinished.done[place].all(axis=0))
        if self.session.settings.batchnorm == "training":
            todo = np.arange(len(self.members))  # with fewer of them the batch is another
        waiting: list[tuple[Batch, NDArray[np.float32]]] = []
        for batch in self._maker.batches(block, todo):
            waiting.append((batch, self.session.network(batch.pixels).numpy()))
            unfinished.grey[place] = block.grey
            if sum(len(features) for _, features in waiting) >= ROWS_TO_COMPARE:
                advance(_settle(reference, block.rows, waiting, unfinished, place.start))
        advance(_settle(reference, block.rows, waiting, unfinished, place.start))

    @property
    def _maker(self) -> ViewMaker:
        session = self.session
        together = session.settings.batchnorm == "training"
        size = len(self.members) if together else session.batch_size
        return ViewMaker(self.family, session.settings, self.preprocessing, size, session.workers)


def _settle(
    reference: Reference,
    rows: NDArray[np.int64],
    waiting: list[tuple[Batch, NDArray[np.float32]]],
    unfinished: Unfinished,
    start: int,
) -> int:
    """Compare the features that wait, and keep what came out; give how many there were."""
    if not waiting:
        return 0
    features = np.concatenate([computed for _, computed in waiting])
    images = np.concatenate([batch.images for batch, _ in waiting])
    members = np.concatenate([batch.members for batch, _ in waiting])
    waiting.clear()
    measured = reference.measure(rows[images], features, rows[images])
    unfinished.keep(measured, start + images, members)
    return len(features)


@contextmanager
def _silent() -> Iterator[Advance]:
    """Stand in for the progress bar."""

    def ignore(n: int = 1, **more: object) -> None:
        del n, more

    yield ignore
