"""One large extraction in several places: each computes a stretch of the rows, then all are one.

The stretches are ordinary feature files of their own keys. They are read as one table, through
HDF5's virtual data sets, when the whole takes its place in the store. Where every stretch begins
at a multiple of the batch size, the same batches are cut as in one piece, and the bits are equal.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import h5py
import numpy as np

from medssl_models.errors import StoreError
from medssl_models.features.extraction import Extraction, ExtractionSettings, FeatureTable
from medssl_models.features.feature_file import FeatureFile, RowState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from medssl_models.backbone import Backbone
    from medssl_models.features.extraction import ImageSource
    from medssl_models.features.store import FeatureStore, Request
    from medssl_models.preprocessing import Preprocessing

__all__ = ["cut_rows", "feature_request", "merge_shards"]

CHUNK_ROWS = 4096


def feature_request(
    backbone: Backbone,
    source: ImageSource,
    *,
    preprocessing: Preprocessing | None = None,
    settings: ExtractionSettings | None = None,
) -> Request:
    """Say what `extract` would ask a store for; no image is opened.

    Args:
        backbone: As for `extract`.
        source: As for `extract`.
        preprocessing: As for `extract`.
        settings: As for `extract`.
    """
    return Extraction.plan(
        backbone, source, preprocessing, settings or ExtractionSettings()
    ).request


def cut_rows(rows: int, *, most: int, batch_size: int) -> list[tuple[int, int]]:
    """Cut rows into stretches (first, last + 1) of whole batches.

    Args:
        rows: N.
        most: Rows of a stretch; at least one batch is taken.
        batch_size: Of the extraction.

    Example:
        >>> cut_rows(100, most=50, batch_size=16)
        [(0, 48), (48, 96), (96, 100)]
    """
    size = max(most // batch_size, 1) * batch_size
    return list(pairwise([*range(0, rows, size), rows]))


def merge_shards(
    backbone: Backbone,
    source: ImageSource,
    keys: Sequence[str],
    *,
    preprocessing: Preprocessing | None = None,
    settings: ExtractionSettings,
    store: FeatureStore,
) -> FeatureTable:
    """Make one table of those that were extracted from consecutive stretches of a source.

    Args:
        backbone: As for `extract`.
        source: All images.
        keys: Of the stretches' tables in the same store, in the order of their rows. They are
            removed when the whole is there.
        preprocessing: As for `extract`.
        settings: As for `extract`; `batch_size` is needed.
        store: Where everything lies.

    Raises:
        StoreError: A stretch is missing or broken, or there is no room.
    """
    job = Extraction.plan(backbone, source, preprocessing, settings)
    request = job.request
    with store.lock(request.key):
        if store.load_fresh(request) is None:
            paths = [_checked(store, key) for key in keys]
            with _as_one(store.root / f"{request.key}.shards.h5", paths, request) as whole:
                _copy(whole, store, job, precision_error=_error_of(paths[0]))
            store.finish(request.key)
        stored = store.load(request.key)
    if stored is None:
        message = f"{store.path(request.key)}: something else changed it; run the same again"
        raise StoreError(message)
    for key in keys:
        store.path(key).unlink(missing_ok=True)
    return job.table(stored)


def _checked(store: FeatureStore, key: str) -> Path:
    if store.load(key) is None:
        message = f"{store.path(key)}: a part of the features is missing; run the same again"
        raise StoreError(message)
    return store.path(key)


def _error_of(path: Path) -> float:
    """Read the error of bf16, which is measured on the first images of the first stretch."""
    with FeatureFile(path) as file:
        return file.precision_error


@contextmanager
def _as_one(path: Path, parts: Sequence[Path], request: Request) -> Iterator[h5py.File]:
    """Read files below each other as one, without copying them."""
    features = h5py.VirtualLayout((request.rows, request.dimension), "<f4")
    states = h5py.VirtualLayout((request.rows,), "u1")
    first = 0
    for part in parts:
        with FeatureFile(part) as file:
            rows, width = file.layout.rows, file.layout.dimension
        last = first + rows
        features[first:last] = h5py.VirtualSource(part.name, "features", (rows, width))
        states[first:last] = h5py.VirtualSource(part.name, "states", (rows,))
        first = last
    if first != request.rows:
        message = f"the parts hold {first} rows of {request.rows}; run the same again"
        raise StoreError(message)
    try:
        with h5py.File(path, "w", libver=("v110", "v110")) as file:
            file.create_virtual_dataset("features", features)
            file.create_virtual_dataset("states", states)
        with h5py.File(path, "r", locking=False) as file:
            yield file
    finally:
        path.unlink(missing_ok=True)


def _copy(
    whole: h5py.File, store: FeatureStore, job: Extraction, *, precision_error: float
) -> None:
    size = job.settings.batch_size or 1
    editing = store.edit(
        job.request, batch_size=lambda: size, provenance=job.provenance, anew=job.settings.force
    )
    with editing as (file, rows):
        for start in range(0, len(rows), CHUNK_ROWS):
            some = rows[start : start + CHUNK_ROWS]
            stretch = slice(int(some[0]), int(some[-1]) + 1)
            place = some - some[0]
            readable = np.asarray(whole["states"][stretch])[place] == RowState.DONE
            file.write(some, np.asarray(whole["features"][stretch])[place], readable)
        file.precision_error = precision_error
