"""What a run has measured so far, in a file, so that a run that is cut off goes on from there."""

from __future__ import annotations

import contextlib
import logging
import time
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.files import clear_drafts, open_plain, replacing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["SECONDS", "Checkpoint"]

LOG = logging.getLogger("medssl.invariance")
SECONDS = 20.0
"""How often a checkpoint is written at least."""


@dataclass
class Checkpoint:
    """Values of images under members, and which of them are there.

    Args:
        values: `(metrics, n, k)` float64; NaN where not measured, or undefined.
        done: `(n, k)` bool.
        grey: `(n,)` bool, whether a picture is grey.
        path: The file; None keeps nothing.
    """

    values: NDArray[np.float64]
    done: NDArray[np.bool_]
    grey: NDArray[np.bool_]
    path: Path | None
    _saved: float = field(default_factory=time.monotonic)

    @classmethod
    def open(
        cls, folder: Path | None, key: str, shape: tuple[int, int, int], *, anew: bool = False
    ) -> Checkpoint:
        """Go on with what a folder holds under a key, or begin.

        Args:
            folder: Where checkpoints lie; None keeps nothing.
            key: Of the run: settings, weights, images.
            shape: Metrics, images, members.
            anew: Begin, whatever is there.
        """
        path = None if folder is None else folder / f"{key}.npz"
        fresh = cls(
            np.full(shape, np.nan),
            np.zeros(shape[1:], dtype=np.bool_),
            np.zeros(shape[1], dtype=np.bool_),
            path,
        )
        if anew or path is None or not path.exists():
            return fresh
        return fresh._read(path) or fresh

    def keep(
        self,
        measured: NDArray[np.float64],
        images: NDArray[np.int64],
        members: NDArray[np.int64],
    ) -> None:
        """Take in values `(metrics, N)` of N pairs of image and member; write now and then."""
        self.values[:, images, members] = measured
        self.done[images, members] = True
        if self.path is not None and time.monotonic() - self._saved >= SECONDS:
            self._write(self.path)

    def remove(self) -> None:
        """Forget the file: the result is a record now, or about to be one."""
        if self.path is not None:
            with contextlib.suppress(OSError):  # a folder that is not there or cannot be written to
                self.path.unlink(missing_ok=True)
                clear_drafts(self.path.parent)  # of a run that was killed while it wrote

    def _read(self, path: Path) -> Checkpoint | None:
        """Read the file; None where it is broken or of another shape."""
        try:
            with open_plain(path) as stream, np.load(stream, allow_pickle=False) as file:
                values, done, grey = (file[name] for name in ("values", "done", "grey"))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            LOG.warning("%s cannot be read (%s); it is measured anew", path, error)
            return None
        shapes = (values.shape, done.shape, grey.shape)
        if shapes != (self.values.shape, self.done.shape, self.grey.shape):
            LOG.warning("%s is of another run; it is measured anew", path)
            return None
        LOG.info("going on with %d of %d views that were measured before", done.sum(), done.size)
        return Checkpoint(values, done, grey, path)

    def _write(self, path: Path) -> None:
        try:
            with replacing(path) as draft, draft.open("wb") as file:
                np.savez(file, values=self.values, done=self.done, grey=self.grey)
        except OSError as error:
            LOG.warning("%s: %s; a run that is cut off starts anew", path, error.strerror)
            self.path = None
        self._saved = time.monotonic()
