"""FeatureStore: feature files by content key; locked, resumed, set aside when broken.

The layout of a file is in `feature_file.py`; what is computed is decided in `extraction.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock, Timeout

from medssl_models.errors import StoreError
from medssl_models.features.feature_file import BrokenFileError, FeatureFile, Layout, RowState
from medssl_models.files import clear_drafts, home, replacing
from medssl_models.plain_json import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy.typing as npt

__all__ = ["FeatureStore", "Request", "StoredFeatures", "feature_key"]

LOG = logging.getLogger("medssl.models.store")


def feature_key(identity: Mapping[str, object]) -> str:
    """Compute the content key of a feature table: SHA-256 of its identity, 64 hex digits."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


@dataclass(frozen=True)
class Request:
    """What features are wanted.

    Args:
        key: See `feature_key`.
        rows: N.
        dimension: D.
        stamps: `(N, 16)` uint8 of `digest_stamps`.
        skip_unreadable: Whether rows that are marked unreadable may stay so.
    """

    key: str
    rows: int
    dimension: int
    stamps: npt.NDArray[np.uint8]
    skip_unreadable: bool = False


@dataclass(frozen=True)
class StoredFeatures:
    """A complete table that was read and checked.

    Args:
        features: `(N, D)` float32, mapped from the file; NaN in unreadable rows.
        readable: `(N,)` bool.
        provenance: Where they come from.
    """

    features: npt.NDArray[np.float32]
    readable: npt.NDArray[np.bool_]
    provenance: Mapping[str, str]


class FeatureStore:
    """A folder of feature files.

    Args:
        root: The folder, created when something is written; `home() / "features"` if left out.

    Example:
        >>> store = FeatureStore(Path("features"))
        >>> store.path("ab12").name
        'ab12.h5'
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = home() / "features" if root is None else Path(root)

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.root)!r})"

    def path(self, key: str) -> Path:
        """Return where the complete features of a key lie."""
        return self.root / f"{key}.h5"

    def partial_path(self, key: str) -> Path:
        """Return where features lie while they are computed."""
        return self.root / f"{key}.partial.h5"

    def load(self, key: str) -> StoredFeatures | None:
        """Read complete features and verify every checksum.

        Args:
            key: See `feature_key`.

        Returns:
            The features, or None where there are none that can be trusted.
        """
        try:
            with FeatureFile(self.path(key)) as file:
                return _checked(file, key)
        except (FileNotFoundError, NotADirectoryError, BrokenFileError):
            return None

    def load_fresh(self, request: Request) -> StoredFeatures | None:
        """Read features as `load` does, but None where any row would have to be computed."""
        try:
            with FeatureFile(self.path(request.key)) as file:
                _check_shape(file, request)
                stale = file.stale_rows(request.stamps, skip_unreadable=request.skip_unreadable)
                return None if len(stale) else _checked(file, request.key)
        except (FileNotFoundError, NotADirectoryError, BrokenFileError):
            return None

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Be the only one, on this machine, who computes a key; others wait here.

        The lock falls with its process, however that ends.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / f"{key}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            LOG.info("another process computes the same features; waiting for it")
            lock.acquire()
        try:
            clear_drafts(self.root)
            yield
        finally:
            lock.release()

    @contextmanager
    def edit(
        self,
        request: Request,
        *,
        batch_size: Callable[[], int],
        provenance: Mapping[str, str],
        anew: bool,
    ) -> Iterator[tuple[FeatureFile, npt.NDArray[np.int64]]]:
        """Open the file in which a key's features are computed; hold its `lock`.

        Args:
            request: What is wanted.
            batch_size: Returns the images a batch where a file is made; one that is resumed keeps
                its own.
            provenance: Kept in the file.
            anew: Compute all rows, whatever is there.

        Yields:
            The file and the rows to compute, `(K,)` ascending.

        Raises:
            StoreError: There is no room.
        """
        # Both are looked at in any case: what is broken must not be overwritten.
        has_complete = self._is_sound(self.path(request.key), request)
        has_partial = self._is_sound(self.partial_path(request.key), request)
        if has_partial and not anew:
            work = self._resumed(request)
        elif has_complete and not anew:
            work = self._refreshed(request)
        else:
            layout = Layout(request.key, request.rows, request.dimension, batch_size())
            self._make(layout, request, provenance)
            work = self._resumed(request)
        with work as (file, rows):
            yield file, rows

    def finish(self, key: str) -> None:
        """Let computed features take their place.

        Raises:
            StoreError: Rows are missing.
        """
        partial = self.partial_path(key)
        with FeatureFile(partial, writable=True) as file:
            if (file.states == RowState.PENDING).any():
                message = f"{partial}: rows are missing; run the same again"
                raise StoreError(message)
            file.synchronise()
        partial.replace(self.path(key))
        _synchronise_folder(self.root)

    def _make(self, layout: Layout, request: Request, provenance: Mapping[str, str]) -> None:
        with replacing(self.partial_path(layout.key)) as path:
            FeatureFile.create(path, layout, stamps=request.stamps, provenance=provenance)

    @contextmanager
    def _resumed(self, request: Request) -> Iterator[tuple[FeatureFile, npt.NDArray[np.int64]]]:
        """Go on with a partial file, batch by batch as it was begun."""
        with FeatureFile(self.partial_path(request.key), writable=True) as file:
            stale = file.stale_rows(request.stamps, skip_unreadable=request.skip_unreadable)
            for unsound in file.unsound_rows():  # after a crash of the whole machine
                stale = np.union1d(stale, unsound)
            file.forget(stale, request.stamps)
            yield file, file.pending_batches()

    @contextmanager
    def _refreshed(self, request: Request) -> Iterator[tuple[FeatureFile, npt.NDArray[np.int64]]]:
        """Work on a copy of the complete file, in which only the changed rows are pending."""
        partial = self.partial_path(request.key)
        with replacing(partial) as path:
            _copy(self.path(request.key), path)
            with FeatureFile(path, writable=True) as file:
                stale = file.stale_rows(request.stamps, skip_unreadable=request.skip_unreadable)
                file.forget(stale, request.stamps)
                file.synchronise()
        with FeatureFile(partial, writable=True) as file:
            yield file, stale

    def _is_sound(self, path: Path, request: Request) -> bool:
        """Tell whether a file can be worked on; one that cannot is set aside."""
        if not path.exists():
            return False
        try:
            with FeatureFile(path) as file:
                _check_identity(file, request.key)
                _check_shape(file, request)
                if path == self.path(request.key):
                    _checked(file, request.key)
        except BrokenFileError as error:
            _set_aside(path, error)
            return False
        return True


def _checked(file: FeatureFile, key: str) -> StoredFeatures:
    _check_identity(file, key)
    if (file.states == RowState.PENDING).any():
        message = "rows are missing"
        raise BrokenFileError(message)
    if any(len(rows) for rows in file.unsound_rows()):
        message = "features do not fit their checksums"
        raise BrokenFileError(message)
    return StoredFeatures(
        file.features(),
        file.states == RowState.DONE,
        {**file.provenance, "precision_error": f"{file.precision_error:.3g}"},
    )


def _check_identity(file: FeatureFile, key: str) -> None:
    if file.layout.key != key:
        message = f"it holds the features of another key, {file.layout.key}"
        raise BrokenFileError(message)


def _check_shape(file: FeatureFile, request: Request) -> None:
    if (file.layout.rows, file.layout.dimension) != (request.rows, request.dimension):
        message = (
            f"it holds {file.layout.rows} x {file.layout.dimension} features, "
            f"{request.rows} x {request.dimension} are asked for"
        )
        raise BrokenFileError(message)


def _set_aside(path: Path, error: BrokenFileError) -> None:
    number = 1
    while (aside := path.with_name(f"{path.stem}.set-aside-{number}.h5")).exists():
        number += 1
    path.rename(aside)
    LOG.warning("%s is broken (%s); set aside as %s, computing anew", path, error, aside.name)


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        message = f"{target.parent}: no room for a copy of the features ({error.strerror})"
        raise StoreError(message) from error


def _synchronise_folder(folder: Path) -> None:
    with contextlib.suppress(OSError, AttributeError):  # Windows cannot open folders
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
