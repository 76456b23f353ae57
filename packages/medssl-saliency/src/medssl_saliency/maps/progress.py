"""How far a map is: counted, kept from time to time, and told how long the rest will take."""

from __future__ import annotations

import time
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING

import numpy as np

from medssl_saliency.maps.storage import write_partial

if TYPE_CHECKING:
    from pathlib import Path

    from medssl_models.console import Advance
    from medssl_models.experiments.context import RunContext
    from numpy.typing import NDArray

__all__ = ["WORTH_TELLING", "Watch", "duration"]

KEEP_EVERY = 10.0
"""Seconds between two copies of an unfinished map."""
TIMED_BATCHES = 5
"""Batches, from all over the picture, from which the time is told."""
WORTH_TELLING = 20.0
"""Seconds: a shorter wait is not announced."""


class Watch:
    """Follows a map while it is computed; a `medssl_saliency.engine.sampling.Report`.

    Args:
        label: What is computed.
        partial: Where an unfinished map is kept; None keeps none.
        key: Of the map.
        context: Where progress and notes go.
        bars: Closes the progress.
    """

    def __init__(
        self, label: str, partial: Path | None, *, key: str, context: RunContext, bars: ExitStack
    ) -> None:
        self.label, self.partial, self.key = label, partial, key
        self.context, self.bars = context, bars
        self.kept = time.perf_counter()
        self.reports: list[tuple[float, float]] = []
        self.number = self.counted = 0
        self.advance: Advance = _count
        self.scores: NDArray[np.float32] | None = None

    def __call__(self, scores: NDArray[np.float32], number: int, share: float) -> None:
        """Follow one batch."""
        now = time.perf_counter()
        self.scores = scores
        if number > self.number:
            self.count_to(number)
        done = int(np.isfinite(scores).sum())
        self.advance(done - self.counted)
        self.counted = done
        if len(self.reports) < TIMED_BATCHES:
            self.reports.append((now, share))
            self._tell_time()
        if now - self.kept > KEEP_EVERY:
            self._keep()

    def count_to(self, number: int) -> None:
        """Count up to a number from now on; of an approximate map it is known bit by bit."""
        self.bars.close()
        more = f", {self.number:,} windows were too few" if self.number else ""
        progress = self.context.progress
        shown = (
            nullcontext(_count)
            if progress is None
            else progress(self.label + more, number - self.counted)
        )
        self.advance = self.bars.enter_context(shown)
        self.number, self.reports = number, []

    def stop(self, interrupt: KeyboardInterrupt) -> None:
        """Keep what there is, and have the interruption say so."""
        if self.scores is None or self.partial is None:
            return
        self._keep()
        interrupt.add_note(
            f"{self.counted:,} of {self.number:,} windows of {self.label} are kept in "
            f"{self.partial.parent}; the same command goes on from there"
        )

    def _keep(self) -> None:
        if self.scores is not None and self.partial is not None:
            write_partial(self.partial, self.scores, key=self.key)
        self.kept = time.perf_counter()

    def _tell_time(self) -> None:
        """Tell the rest from the timed batches, without the first, in which all is set up."""
        if len(self.reports) < TIMED_BATCHES:
            return
        (start, before), (end, after) = self.reports[0], self.reports[-1]
        rest = (end - start) / max(after - before, 1e-9) * (1 - after)
        if rest > WORTH_TELLING:
            kept = "" if self.partial is None else "; an interruption keeps what is done"
            self.context.say(f"{self.label}: {self.number:,} windows, about {duration(rest)}{kept}")


def duration(seconds: float) -> str:
    """Write a time in words.

    Example:
        >>> duration(95)
        '2 min'
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _count(n: int = 1, *, note: str = "") -> None:
    """Satisfy `Advance` where nothing is shown."""
