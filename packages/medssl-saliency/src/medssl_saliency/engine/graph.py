"""A network as a list of steps on feature maps, and how to simplify such a list.

The list is what incremental inference executes; `recording.py` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medssl_saliency.geometry import Reach

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Kind", "Step", "Tape", "simplify"]

Pair = tuple[int, int]
NOTHING = torch.empty(0)
IN_PLACE = Reach()


class Kind(StrEnum):
    """What a step does."""

    INPUT = "input"
    CONVOLUTION = "convolution"
    AFFINE = "affine"
    RELU = "relu"
    MAX_POOL = "max-pool"
    AVERAGE_POOL = "average-pool"
    PAD = "pad"
    ADD = "add"
    CONCATENATE = "concatenate"
    MEAN = "mean"


@dataclass(frozen=True, eq=False)
class Step:
    """One operation on feature maps.

    Attributes:
        kind: What it does.
        inputs: Indices of the steps that it reads.
        shape: `(C, H, W)` of its result; `(C, 1, 1)` of a mean.
        rows: How it reads along the height.
        columns: How it reads along the width.
        weight: `(out, in, k, k)` of a convolution, `(C, 1, 1)` factors of an affine step, or empty.
        bias: `(out,)` of a convolution, `(C, 1, 1)` offsets of an affine step, or empty.
        groups: Groups of a convolution.
        fill: What lies beyond the map.
        rectified: Whether a ReLU follows within the step.
    """

    kind: Kind
    inputs: tuple[int, ...]
    shape: tuple[int, int, int]
    rows: Reach = IN_PLACE
    columns: Reach = IN_PLACE
    weight: Tensor = NOTHING
    bias: Tensor = NOTHING
    groups: int = 1
    fill: float = 0.0
    rectified: bool = False

    @property
    def work(self) -> float:
        """Multiplications for one cell of the result; one a channel where there are no weights."""
        if self.kind is Kind.CONVOLUTION:
            return float(self.weight.numel())
        return float(self.shape[0] * self.rows.kernel * self.columns.kernel)


@dataclass(frozen=True, eq=False)
class Tape:
    """The steps of a network, in the order in which they run; the last gives the features."""

    steps: tuple[Step, ...]

    def consumers(self) -> list[list[int]]:
        """List for each step the steps that read it."""
        readers: list[list[int]] = [[] for _ in self.steps]
        for index, step in enumerate(self.steps):
            for source in step.inputs:
                readers[source].append(index)
        return readers

    def to(self, *, device: torch.device, dtype: torch.dtype) -> Tape:
        """Copy the tape with its weights on a device and in a precision."""

        def moved(tensor: Tensor) -> Tensor:
            memory = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
            return tensor.to(device=device, dtype=dtype, memory_format=memory)

        steps = (replace(s, weight=moved(s.weight), bias=moved(s.bias)) for s in self.steps)
        return Tape(tuple(steps))


def simplify(steps: Sequence[Step], last: int) -> Tape:
    """Drop what the result does not need, fold BatchNorm into convolutions, fuse ReLUs.

    Args:
        steps: As recorded.
        last: Index of the step that gives the features.
    """
    return _fuse(_fold(_reachable(steps, last)))


def _reachable(steps: Sequence[Step], last: int) -> Tape:
    """Keep the steps on which the last one depends, renumbered."""
    wanted = {last}
    for index in range(last, -1, -1):
        if index in wanted:
            wanted.update(steps[index].inputs)
    kept = sorted(wanted)
    return _renumber([(index, steps[index]) for index in kept], {i: i for i in kept})


def _renumber(kept: Sequence[tuple[int, Step]], replaced: dict[int, int]) -> Tape:
    """Number steps anew; `replaced` maps every old index to the old index that stands for it."""
    places = {old: new for new, (old, _) in enumerate(kept)}
    steps = (
        replace(step, inputs=tuple(places[replaced[source]] for source in step.inputs))
        for _, step in kept
    )
    return Tape(tuple(steps))


def _absorb(tape: Tape, merge: Callable[[Step, Step], Step | None]) -> Tape:
    """Merge each step into the one before it where `merge` can and nobody else reads that one."""
    readers = tape.consumers()
    kept: dict[int, Step] = {}
    replaced: dict[int, int] = {}
    for index, step in enumerate(tape.steps):
        replaced[index] = index
        if len(step.inputs) == 1 and len(readers[step.inputs[0]]) == 1:
            source = replaced[step.inputs[0]]
            merged = merge(kept[source], step)
            if merged is not None:
                kept[source] = merged
                replaced[index] = source
                continue
        kept[index] = step
    return _renumber(list(kept.items()), replaced)


def _fold(tape: Tape) -> Tape:
    """Fold each affine step into the convolution before it."""

    def merge(first: Step, second: Step) -> Step | None:
        if first.kind is not Kind.CONVOLUTION or second.kind is not Kind.AFFINE:
            return None
        factor = second.weight.flatten()
        weight = first.weight.double() * factor[:, None, None, None]
        bias = second.bias.flatten() + first.bias.double() * factor
        return replace(first, weight=weight, bias=bias)

    return _absorb(tape, merge)


def _fuse(tape: Tape) -> Tape:
    """Fuse each ReLU into the step before it."""
    fusible = {Kind.CONVOLUTION, Kind.AFFINE, Kind.ADD}

    def merge(first: Step, second: Step) -> Step | None:
        if second.kind is not Kind.RELU or first.kind not in fusible or first.rectified:
            return None
        return replace(first, rectified=True)

    return _absorb(tape, merge)
