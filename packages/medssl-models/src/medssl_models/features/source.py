"""Where images come from, and reading them ahead of the network with bounded memory.

Anything with a length, items and a fingerprint is a source; nothing has to be inherited.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from medssl_models.errors import SettingsError, UnreadableSourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    from medssl_models.preprocessing import Preprocessing

__all__ = ["Batch", "ImageSource", "Reader", "row_name"]

UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
"""What decoders raise for a damaged file; anything else is a defect of the source's code."""


class ImageSource(Protocol):
    """A sequence of images with an identity.

    More attributes are used where a source has them: `stamps`, one text a row that changes
    with the file (rows with another stamp are computed again); `names`, one text a row for
    messages; `thread_safe = True`, which lets several threads call `source[i]` at a time; and
    `derive(i, recipe, make)`, which gives `make(image)` and may keep it: equal texts `recipe` mean
    that `make` does the same.

    Example:
        >>> class Folder:
        ...     def __init__(self, paths):
        ...         self.paths = paths
        ...         self.fingerprint = "|".join(map(str, paths))
        ...     def __len__(self):
        ...         return len(self.paths)
        ...     def __getitem__(self, i):
        ...         return Image.open(self.paths[i]).convert("RGB"), 0
    """

    @property
    def fingerprint(self) -> str:
        """Identity of the images in order; labels and splits are not part of it."""
        ...

    def __len__(self) -> int:
        """Return the number of images, N."""
        ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        """Return an RGB image and its label."""
        ...


@dataclass(frozen=True)
class Batch:
    """Images that run through the network together.

    Args:
        rows: `(K,)` int64, ascending; K is less than the batch size in the last batch.
        images: `(B, 3, H, W)` float32, normalised; B is always the batch size, so that a row's
            features do not depend on how many rows there are. Unused places are zero.
        readable: `(K,)` bool.
        failures: Why, by row.
    """

    rows: npt.NDArray[np.int64]
    images: Tensor
    readable: npt.NDArray[np.bool_]
    failures: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reader:
    """Reads and preprocesses images in threads, a few batches ahead of who uses them.

    Threads, not processes, because Pillow decodes and resizes without holding the interpreter
    lock, and because any class will do: nothing is pickled.

    Args:
        source: Where images come from.
        preprocessing: From an image to the network's input.
        batch_size: B.
        workers: Threads; 0 reads in the caller's thread.
        skip_unreadable: Whether an unreadable image is passed over.
    """

    source: ImageSource
    preprocessing: Preprocessing
    batch_size: int
    workers: int
    skip_unreadable: bool = False

    def batches(self, rows: npt.NDArray[np.int64]) -> Iterator[Batch]:
        """Yield some rows in batches, in order.

        Args:
            rows: `(K,)` int64 ascending.

        Raises:
            UnreadableSourceError: An image cannot be read and is not to be skipped.
            SettingsError: The source does not give pairs of image and label.
            InputRangeError: Pixels lie outside the preprocessing's range.
        """
        with self._read_ahead(rows) as results:
            for start in range(0, len(rows), self.batch_size):
                yield self._collect(rows[start : start + self.batch_size], results)

    @contextmanager
    def _read_ahead(self, rows: npt.NDArray[np.int64]) -> Iterator[Iterator[Tensor | str]]:
        gate = _gate(self.source)
        if not self.workers:
            yield (self._read(int(row), gate) for row in rows)
            return
        with _single_threaded_pool(self.workers) as pool:
            window = 2 * self.batch_size + self.workers
            yield _in_order(pool, lambda row: self._read(row, gate), rows, window)

    def _collect(self, rows: npt.NDArray[np.int64], results: Iterator[Tensor | str]) -> Batch:
        crop = self.preprocessing.crop
        images = torch.zeros((self.batch_size, 3, crop, crop))
        failures = {}
        for place, row in enumerate(rows.tolist()):
            result = next(results)
            if isinstance(result, str):
                failures[row] = result
            else:
                images[place] = result
        readable = np.array([row not in failures for row in rows.tolist()])
        return Batch(rows, images, readable, failures)

    def _read(self, row: int, gate: AbstractContextManager[object]) -> Tensor | str:
        """Return the network's input, or why the image cannot be read."""
        derive = getattr(self.source, "derive", None)
        try:
            with gate:
                if derive is None:
                    image = _image_of(self.source[row], row)
                else:
                    image = derive(row, self.preprocessing.geometry, self.preprocessing.fit)
            image.load()  # Pillow reads lazily: a damaged file shows here
        except Exception as error:
            if not _is_unreadable(error):
                error.add_note(row_name(self.source, row))
                raise
            return self._refuse(row, error)
        try:
            return self.preprocessing(image) if derive is None else self.preprocessing.finish(image)
        except ValueError as error:
            error.add_note(row_name(self.source, row))
            raise

    def _refuse(self, row: int, error: Exception) -> str:
        reason = f"{row_name(self.source, row)}: {error}"
        if self.skip_unreadable:
            return reason
        message = f"{reason}; repair or remove it, or set skip_unreadable to leave it out"
        raise UnreadableSourceError(message) from error


def row_name(source: ImageSource, row: int) -> str:
    """Name a row for people: by the source's `names` if it has them."""
    names = getattr(source, "names", None)
    return f"image {row}" if names is None else f"image {row} ({names[row]})"


def _gate(source: ImageSource) -> AbstractContextManager[object]:
    """Let one thread at a time into a source: two that share an open file would mix its bytes."""
    return nullcontext() if getattr(source, "thread_safe", False) else threading.Lock()


def _image_of(item: object, row: int) -> Image.Image:
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], Image.Image):
        return item[0]
    message = f"source[{row}] gave {type(item).__name__}: a pair of a PIL image and a label is due"
    raise SettingsError(message)


def _is_unreadable(error: Exception) -> bool:
    if isinstance(error, SettingsError):
        return False
    return isinstance(error, UNREADABLE) or getattr(error, "exit_code", None) == 3


@contextmanager
def _single_threaded_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Start threads whose torch operations use one thread each; the caller keeps its own number.

    Without this, every reading thread would start as many compute threads as there are cores.
    """
    count = torch.get_num_threads()
    everyone_is_here = threading.Barrier(workers)

    def prepare() -> None:
        torch.set_num_threads(1)
        everyone_is_here.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="medssl-reader")
    try:
        for ready in [pool.submit(prepare) for _ in range(workers)]:
            ready.result()
        torch.set_num_threads(count)
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor,
    read: Callable[[int], Tensor | str],
    rows: npt.NDArray[np.int64],
    window: int,
) -> Iterator[Tensor | str]:
    waiting: deque[Future[Tensor | str]] = deque()
    for row in rows.tolist():
        waiting.append(pool.submit(read, row))
        if len(waiting) >= window:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
