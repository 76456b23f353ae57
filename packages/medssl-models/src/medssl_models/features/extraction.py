"""From images to features `(N, D)` float32: the fastest way that gives the same numbers every time.

What is computed is kept in a `FeatureStore`; what is kept is not computed again.
"""

from __future__ import annotations

import logging
import math
import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from medssl_models.errors import (
    FeatureError,
    SettingsError,
    StoreError,
    UnreadableSourceError,
)
from medssl_models.features.feature_file import digest_stamps
from medssl_models.features.runtime import (
    DeviceName,
    FeatureNetwork,
    PrecisionName,
    multiplies_in_bf16,
    probe_batch_size,
    relative_error,
    resolve_device,
)
from medssl_models.features.source import Batch, ImageSource, Reader, row_name
from medssl_models.features.store import FeatureStore, Request, StoredFeatures, feature_key
from medssl_models.files import is_writable
from medssl_models.networks.trunks import resolve_layers
from medssl_models.plain_json import canonical_json
from medssl_models.preprocessing import resampling
from medssl_models.versions import package_versions

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from medssl_models.backbone import Backbone
    from medssl_models.console import Progress
    from medssl_models.preprocessing import Preprocessing

__all__ = ["Extraction", "ExtractionSettings", "FeatureTable", "ImageSource", "extract"]

LOG = logging.getLogger("medssl.models.extraction")
MAX_DEFAULT_WORKERS = 4
SMALL_SIDE = 64
SAMPLE = 8
"""Images on which the error of bf16 is measured."""
LISTED = 20
"""Unreadable images that a warning names."""


class ExtractionSettings(BaseModel):
    """How features are computed; only `layer` and `precision` change what they are.

    Args:
        layer: Which layer gives them; maps are averaged over their positions.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: `fp32`, or `bf16`, whose error against fp32 is measured and kept.
        batch_size: Images at a time; None measures what is fastest.
        workers: Threads that read images ahead; 0 reads in line, None chooses.
        skip_unreadable: Leave unreadable images out, instead of stopping.
        force: Compute all rows anew.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str = "pooled"
    device: DeviceName = "auto"
    precision: PrecisionName = "fp32"
    batch_size: int | None = Field(default=None, ge=1)
    workers: int | None = Field(default=None, ge=0)
    skip_unreadable: bool = False
    force: bool = False


@dataclass(frozen=True)
class FeatureTable:
    """Features of all images of a source, in its order.

    Args:
        features: `(N, D)` float32; finite in readable rows, NaN in the others.
        readable: `(N,)` bool.
        key: Content key of the table.
        provenance: Where the features come from.
        computed: How many rows were computed by this call; the others were there already.
    """

    features: npt.NDArray[np.float32]
    readable: npt.NDArray[np.bool_]
    key: str
    provenance: Mapping[str, str] = field(default_factory=dict)
    computed: int = 0

    def __repr__(self) -> str:
        rows, width = self.features.shape
        return f"FeatureTable({rows} x {width}, {int(self.readable.sum())} readable)"


def extract(
    backbone: Backbone,
    source: ImageSource,
    *,
    preprocessing: Preprocessing | None = None,
    settings: ExtractionSettings | None = None,
    store: FeatureStore | None = None,
    progress: Progress | None = None,
) -> FeatureTable:
    """Compute the features of all images, or read them where they were computed before.

    The backbone is not changed: a copy of it runs, folded and channels last. Memory does not grow
    with the number of images where a store is given. A run that is cut off goes on where it was
    with the next call, and gives the same bits as a run in one piece.

    Args:
        backbone: The network.
        source: The images.
        preprocessing: From image to input; the backbone's own if left out.
        settings: How to compute.
        store: Where features are kept; nothing is kept without it.
        progress: Shows how far it is, such as `Console.progress`.

    Returns:
        The features, and how many of them were computed now.

    Raises:
        UnreadableSourceError: An image cannot be read, or all cannot, or there are none.
        InputRangeError: An image leaves the declared range of values.
        FeatureError: Features are not finite.
        SettingsError: The device is not here, or the source has no fingerprint.
        LayerError: The backbone has no such layer.
        StoreError: The store's disk is full.

    Example:
        >>> from medssl_models.testing import tiny_backbone
        >>> from medssl_models.testing.sources import NoiseSource
        >>> table = extract(tiny_backbone(), NoiseSource(rows=3), store=FeatureStore(folder))
        >>> table.features.shape, table.computed
        ((3, 16), 3)
        >>> extract(tiny_backbone(), NoiseSource(rows=3), store=FeatureStore(folder)).computed
        0
    """
    job = Extraction.plan(backbone, source, preprocessing, settings or ExtractionSettings())
    stored = None if store is None or job.settings.force else store.load_fresh(job.request)
    if stored is not None:
        return job.table(stored)
    device = resolve_device(job.settings.device)
    if job.settings.precision == "bf16" and not multiplies_in_bf16(device):
        LOG.warning("this CPU emulates bf16: precision fp32 is exact and several times faster")
    if store is None:
        return job.run_in_memory(progress)
    if not is_writable(store.root):
        LOG.warning("%s cannot be written to; the features are computed but not kept", store.root)
        return job.run_in_memory(progress)
    return job.run_in_store(store, progress)


class _Sink(Protocol):
    """Where features go; a `FeatureFile` is one."""

    precision_error: float

    def write(
        self,
        rows: npt.NDArray[np.int64],
        features: npt.NDArray[np.float32],
        readable: npt.NDArray[np.bool_],
    ) -> None: ...


@dataclass
class _Memory:
    """A sink without a file."""

    features: npt.NDArray[np.float32]
    readable: npt.NDArray[np.bool_]
    precision_error: float = math.nan

    def write(
        self,
        rows: npt.NDArray[np.int64],
        features: npt.NDArray[np.float32],
        readable: npt.NDArray[np.bool_],
    ) -> None:
        self.features[rows] = np.where(readable[:, None], features, np.float32(np.nan))
        self.readable[rows] = readable


@dataclass(frozen=True)
class Extraction:
    """One extraction: everything that is known before the first image is read.

    Args:
        backbone: The network.
        source: The images.
        preprocessing: From image to input.
        settings: How to compute; `layer` is the layer's own name, no alias.
        request: What a store is asked for.
        provenance: What the features depend on, and where they are computed, as texts.
    """

    backbone: Backbone
    source: ImageSource
    preprocessing: Preprocessing
    settings: ExtractionSettings
    request: Request
    provenance: Mapping[str, str]

    @classmethod
    def plan(
        cls,
        backbone: Backbone,
        source: ImageSource,
        preprocessing: Preprocessing | None,
        settings: ExtractionSettings,
    ) -> Extraction:
        """Say what will be computed; no image is opened.

        Raises:
            UnreadableSourceError: There are no images.
            SettingsError: The source has no fingerprint, or not one stamp for each image.
            LayerError: The backbone has no such layer.
        """
        preprocessing = preprocessing or backbone.preprocessing
        rows = len(source)
        if rows == 0:
            message = "source: it has no images; check the folder and the filters"
            raise UnreadableSourceError(message)
        layer = resolve_layers(backbone.trunk, (settings.layer,))[settings.layer]  # type: ignore[arg-type] # nn.Module hides the protocol
        settings = settings.model_copy(update={"layer": layer})  # an alias shares the key
        identity = _identity(backbone, source, preprocessing, settings)
        request = Request(
            key=feature_key({**identity, **resampling()}),
            rows=rows,
            dimension=_dimension(backbone, settings.layer),
            stamps=digest_stamps(_stamps(source, rows), rows),
            skip_unreadable=settings.skip_unreadable,
        )
        texts = {name: str(value) for name, value in identity.items()}
        more = {"model": backbone.name, "device": str(resolve_device(settings.device))}
        provenance = texts | more | {"versions": canonical_json(package_versions())}
        return cls(backbone, source, preprocessing, settings, request, provenance)

    def run_in_memory(self, progress: Progress | None) -> FeatureTable:
        """Compute every row and keep nothing."""
        rows, dimension = self.request.rows, self.request.dimension
        memory = _Memory(np.empty((rows, dimension), np.float32), np.zeros(rows, np.bool_))
        network = self._network()
        every_row = np.arange(rows)
        failures = self._compute(
            network, memory, every_row, batch_size=self._batch_size(network), progress=progress
        )
        provenance = {**self.provenance, "precision_error": f"{memory.precision_error:.3g}"}
        stored = StoredFeatures(memory.features, memory.readable, provenance)
        return self.table(stored, computed=rows, failures=failures)

    def run_in_store(self, store: FeatureStore, progress: Progress | None) -> FeatureTable:
        """Compute what a store lacks, and keep it there."""
        key = self.request.key
        with store.lock(key):
            stored = None if self.settings.force else store.load_fresh(self.request)
            if stored is not None:  # another process was quicker
                return self.table(stored)
            computed, failures = self._fill(store, progress)
            store.finish(key)
            finished = store.load(key)
        if finished is None:
            message = f"{store.path(key)}: something else changed it; run the same again"
            raise StoreError(message)
        return self.table(finished, computed=computed, failures=failures)

    def _fill(self, store: FeatureStore, progress: Progress | None) -> tuple[int, dict[int, str]]:
        network = self._network()
        editing = store.edit(
            self.request,
            batch_size=lambda: self._batch_size(network),
            provenance=self.provenance,
            anew=self.settings.force,
        )
        with editing as (file, rows):
            size = file.layout.batch_size
            try:
                failures = self._compute(network, file, rows, batch_size=size, progress=progress)
            except KeyboardInterrupt as stop:
                done = int(np.count_nonzero(file.states))
                stop.add_note(
                    f"{done} of {self.request.rows} rows of features are kept in {store.root}, "
                    "the same command goes on from there"
                )
                raise
        return len(rows), failures

    def _network(self) -> FeatureNetwork:
        return FeatureNetwork.prepare(
            self.backbone,
            layer=self.settings.layer,
            device=resolve_device(self.settings.device),
            crop=self.preprocessing.crop,
        )

    def _batch_size(self, network: FeatureNetwork) -> int:
        if self.settings.batch_size is not None:
            return min(self.settings.batch_size, self.request.rows)
        runs = network.in_precision(self.settings.precision)
        return probe_batch_size(runs, self.preprocessing.crop, rows=self.request.rows)

    def _compute(
        self,
        exact: FeatureNetwork,
        sink: _Sink,
        rows: npt.NDArray[np.int64],
        *,
        batch_size: int,
        progress: Progress | None,
    ) -> dict[int, str]:
        """Compute rows into a sink; return why some cannot be read."""
        network = exact.in_precision(self.settings.precision)
        reader = Reader(
            self.source,
            self.preprocessing,
            batch_size,
            _workers(self.settings.workers),
            self.settings.skip_unreadable,
        )
        failures: dict[int, str] = {}
        title = f"{self.backbone.name}: features"
        with progress(title, len(rows)) if progress else nullcontext(_advance_nothing) as advance:
            for batch in reader.batches(rows):
                features = network(batch.images)[: len(batch.rows)].numpy()
                self._refuse_non_finite(batch, features)
                if self.settings.precision != "fp32" and math.isnan(sink.precision_error):
                    sink.precision_error = _precision_error(batch, features, exact)
                sink.write(batch.rows, features, batch.readable)
                failures |= batch.failures
                advance(len(batch.rows))
        return failures

    def _refuse_non_finite(self, batch: Batch, features: npt.NDArray[np.float32]) -> None:
        finite = np.isfinite(features).all(axis=1) | ~batch.readable
        if finite.all():
            return
        row = int(batch.rows[np.argmin(finite)])
        message = (
            f"{row_name(self.source, row)}: its features are not finite; check the image and the "
            f"weights of {self.backbone.name}, or try another precision than "
            f"{self.settings.precision}"
        )
        raise FeatureError(message)

    def table(
        self,
        stored: StoredFeatures,
        *,
        computed: int = 0,
        failures: Mapping[int, str] | None = None,
    ) -> FeatureTable:
        """Make a table of stored features, and name the images that could not be read.

        Raises:
            UnreadableSourceError: None could be read.
        """
        self._report_unreadable(np.flatnonzero(~stored.readable), failures or {})
        return FeatureTable(
            stored.features, stored.readable, self.request.key, stored.provenance, computed
        )

    def _report_unreadable(self, rows: npt.NDArray[np.int64], failures: Mapping[int, str]) -> None:
        if not len(rows):
            return
        reasons = [failures.get(row, row_name(self.source, row)) for row in rows[:LISTED].tolist()]
        more = f"; and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
        listed = "; ".join(reasons) + more
        if len(rows) == self.request.rows:
            message = f"source: none of its {len(rows)} images can be read: {listed}"
            raise UnreadableSourceError(message)
        LOG.warning(
            "%d of %d images cannot be read and are left out: %s",
            len(rows),
            self.request.rows,
            listed,
        )


def _identity(
    backbone: Backbone,
    source: ImageSource,
    preprocessing: Preprocessing,
    settings: ExtractionSettings,
) -> dict[str, object]:
    """List what a feature depends on; device, batch size and labels are not in it."""
    fingerprint = getattr(source, "fingerprint", None)
    if not isinstance(fingerprint, str) or not fingerprint:
        message = (
            f"source: {type(source).__name__} has no fingerprint; give it an attribute "
            "`fingerprint`, a text that differs where the images or their order differ"
        )
        raise SettingsError(message)
    return {
        "weights": backbone.fingerprint,
        "layer": settings.layer,
        "padding": backbone.card.padding,
        "preprocessing": preprocessing.fingerprint,
        "images": fingerprint,
        "rows": len(source),
        "precision": settings.precision,
    }


def _dimension(backbone: Backbone, layer: str) -> int:
    """Return D; of an inner layer, the channels of its maps or tokens for a small image."""
    if layer == "pooled":
        return backbone.feature_dim
    middle = sum(backbone.preprocessing.normalised_range) / 2
    side = getattr(backbone.trunk, "fixed_side", None) or SMALL_SIDE
    with torch.inference_mode():
        image = torch.full((1, 3, side, side), middle, device=next(backbone.parameters()).device)
        output = backbone.forward_layers(image, (layer,))[layer]
    return int(output.shape[-1] if output.ndim == 3 else output.shape[1])


def _stamps(source: ImageSource, rows: int) -> list[str] | None:
    stamps = getattr(source, "stamps", None)
    if stamps is None:
        return None
    if len(stamps) != rows:
        message = f"source: it has {len(stamps)} stamps for {rows} images; give one an image"
        raise SettingsError(message)
    return list(stamps)


def _workers(asked: int | None) -> int:
    return min(MAX_DEFAULT_WORKERS, os.cpu_count() or 1) if asked is None else asked


def _advance_nothing(n: int = 1, *, note: str = "") -> None:
    """Stand in for the progress bar."""


def _precision_error(
    batch: Batch, features: npt.NDArray[np.float32], exact: FeatureNetwork
) -> float:
    """Measure the relative L2 error of the first readable rows of a batch against fp32."""
    places = np.flatnonzero(batch.readable)[:SAMPLE]
    if not len(places):
        return math.nan
    reference = exact(batch.images[torch.from_numpy(places)])
    return relative_error(torch.from_numpy(features[places]), reference)
