"""The same work on many pictures in threads: in order, bounded, with progress, and quietly."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Progress", "alone", "each", "quietly", "watched"]

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Makes a display from a description and a number of steps; `Console.progress` is one."""

Result = TypeVar("Result")

_BLOCK = 1024
"""Pictures that wait in the queue at most: 223,414 at once would hold all results alive."""


def watched(
    progress: Progress | None, description: str, total: int
) -> AbstractContextManager[Callable[[int], None]]:
    """Return the display, or one that shows nothing."""
    return progress(description, total) if progress else nullcontext(_ignore)


def each(
    work: Callable[[int], Result], count: int, description: str, progress: Progress | None = None
) -> Iterator[Result]:
    """Call `work` with 0, 1, ... in threads and yield the results in this order.

    Decoders release the interpreter's lock, so threads are as fast as processes and need no copies.

    Args:
        work: What is done with a position; its exceptions come out of here.
        count: Number of positions.
        description: For the display.
        progress: Makes the display.
    """
    with watched(progress, description, count) as advance, ThreadPoolExecutor() as pool:
        for start in range(0, count, _BLOCK):
            for result in pool.map(work, range(start, min(start + _BLOCK, count))):
                yield result
                advance(1)


def _ignore(n: int) -> None:
    del n


_DECODERS = r"(PIL|pydicom)(\.|$)"
_GATE = threading.Condition()
_QUIET: list[warnings.catch_warnings[None]] = []
"""What brings the filters of warnings back, once for each thread that decodes."""


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the warnings of decoders while any thread is in such a block.

    `warnings.catch_warnings` alone belongs to the whole process: of two threads that enter and
    leave it in turns, the later one would bring back the filters of the first, and for good.
    """
    with _GATE:
        if not _QUIET:
            filters = warnings.catch_warnings()
            filters.__enter__()
            warnings.filterwarnings("ignore", module=_DECODERS)
        else:
            filters = _QUIET[0]
        _QUIET.append(filters)
    try:
        yield
    finally:
        with _GATE:
            filters = _QUIET.pop()
            if not _QUIET:
                filters.__exit__(None, None, None)
                _GATE.notify_all()


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no thread is in a block of `quietly`, and keep all others out of one.

    For what a decoder takes from a global of its library: the thread inside may be quiet itself.
    """
    with _GATE:
        _GATE.wait_for(lambda: not _QUIET)
        yield
