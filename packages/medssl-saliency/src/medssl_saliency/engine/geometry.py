"""Which cells of a feature map a change can reach, along one axis; no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Reach", "Span"]


class Span(NamedTuple):
    """The cells `start, ..., stop - 1`; empty when `stop <= start`."""

    start: int
    stop: int

    def __bool__(self) -> bool:
        return self.stop > self.start

    @property
    def length(self) -> int:
        """The number of cells."""
        return max(self.stop - self.start, 0)

    def covers(self, other: Span) -> bool:
        """Tell whether all cells of `other` are here too."""
        return self.start <= other.start and other.stop <= self.stop

    def hull(self, other: Span) -> Span:
        """Return the smallest span that covers both."""
        if not self or not other:
            return self or other
        return Span(min(self.start, other.start), max(self.stop, other.stop))

    def within(self, other: Span) -> Span:
        """Return the cells that both have."""
        return Span(max(self.start, other.start), min(self.stop, other.stop))

    def inside(self, outer: Span) -> slice:
        """Index this span's cells in an array that begins at `outer.start`."""
        return slice(self.start - outer.start, self.stop - outer.start)


@dataclass(frozen=True)
class Reach:
    """The receptive field of an operation along one axis.

    Output `o` reads the inputs `o * stride - padding + d * dilation`.

    Args:
        kernel: Number of taps `d`.
        stride: Step of the input for a step of the output.
        padding: Cells added before the first input cell.
        dilation: Distance of neighbouring taps.
    """

    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    @property
    def extent(self) -> int:
        """Distance from the first to the last tap, plus one."""
        return (self.kernel - 1) * self.dilation + 1

    def affected(self, changed: Span, size: int) -> Span:
        """Return the outputs, out of `size`, that read at least one changed input."""
        if not changed:
            return Span(0, 0)
        first = -(-(changed.start + self.padding - self.extent + 1) // self.stride)
        last = (changed.stop - 1 + self.padding) // self.stride
        return Span(first, last + 1).within(Span(0, size))

    def needed(self, wanted: Span) -> Span:
        """Return the inputs that `wanted` outputs read, those in the padding included."""
        start = wanted.start * self.stride - self.padding
        return Span(start, start + (wanted.length - 1) * self.stride + self.extent)
