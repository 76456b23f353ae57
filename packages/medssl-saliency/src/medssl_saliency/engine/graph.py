"""The computation graph of a network: nodes on feature maps, and how to simplify it.

The graph is what incremental inference executes; `tracing.py` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medssl_saliency.engine.geometry import Reach

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Graph", "Kind", "Node", "Pair", "simplify"]

Pair = tuple[int, int]
NOTHING = torch.empty(0)
IN_PLACE = Reach()


class Kind(StrEnum):
    """The operation of a node."""

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
class Node:
    """One operation on feature maps.

    Args:
        kind: Its operation.
        inputs: Indices of the nodes that it reads.
        shape: `(C, H, W)` of its result; `(C, 1, 1)` of a mean.
        rows: How it reads along the height.
        columns: How it reads along the width.
        weight: `(out, in, k, k)` of a convolution, `(C, 1, 1)` factors of an affine node, or empty.
        bias: `(out,)` of a convolution, `(C, 1, 1)` offsets of an affine node, or empty.
        groups: Groups of a convolution.
        fill: What lies beyond the map.
        rectified: Whether a ReLU follows within the node.
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
class Graph:
    """The nodes of a network, in the order in which they run.

    Args:
        nodes: The last one makes the features.
    """

    nodes: tuple[Node, ...]

    def consumers(self) -> list[list[int]]:
        """List for each node the nodes that read it."""
        readers: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for source in node.inputs:
                readers[source].append(index)
        return readers

    def to(self, *, device: torch.device, dtype: torch.dtype) -> Graph:
        """Copy the graph with its weights on a device and in a precision."""

        def moved(tensor: Tensor) -> Tensor:
            memory = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
            return tensor.to(device=device, dtype=dtype, memory_format=memory)

        nodes = (replace(n, weight=moved(n.weight), bias=moved(n.bias)) for n in self.nodes)
        return Graph(tuple(nodes))


def simplify(nodes: Sequence[Node], last: int) -> Graph:
    """Drop what the result does not need, fold BatchNorm into convolutions, fuse ReLUs.

    Args:
        nodes: As traced.
        last: Index of the node that makes the features.
    """
    return _fuse(_fold(_reachable(nodes, last)))


def _reachable(nodes: Sequence[Node], last: int) -> Graph:
    """Keep the nodes on which the last one depends, renumbered."""
    wanted = {last}
    for index in range(last, -1, -1):
        if index in wanted:
            wanted.update(nodes[index].inputs)
    kept = sorted(wanted)
    return _renumber([(index, nodes[index]) for index in kept], {i: i for i in kept})


def _renumber(kept: Sequence[tuple[int, Node]], replaced: dict[int, int]) -> Graph:
    """Number nodes anew; `replaced` maps every old index to the old index that stands for it."""
    places = {old: new for new, (old, _) in enumerate(kept)}
    nodes = (
        replace(node, inputs=tuple(places[replaced[source]] for source in node.inputs))
        for _, node in kept
    )
    return Graph(tuple(nodes))


def _absorb(graph: Graph, merge: Callable[[Node, Node], Node | None]) -> Graph:
    """Merge each node into the one before it where `merge` can and nobody else reads that one."""
    readers = graph.consumers()
    kept: dict[int, Node] = {}
    replaced: dict[int, int] = {}
    for index, node in enumerate(graph.nodes):
        replaced[index] = index
        if len(node.inputs) == 1 and len(readers[node.inputs[0]]) == 1:
            source = replaced[node.inputs[0]]
            merged = merge(kept[source], node)
            if merged is not None:
                kept[source] = merged
                replaced[index] = source
                continue
        kept[index] = node
    return _renumber(list(kept.items()), replaced)


def _fold(graph: Graph) -> Graph:
    """Fold each affine node into the convolution before it."""

    def merge(first: Node, second: Node) -> Node | None:
        if first.kind is not Kind.CONVOLUTION or second.kind is not Kind.AFFINE:
            return None
        factor = second.weight.flatten()
        weight = first.weight.double() * factor[:, None, None, None]
        bias = second.bias.flatten() + first.bias.double() * factor
        return replace(first, weight=weight, bias=bias)

    return _absorb(graph, merge)


def _fuse(graph: Graph) -> Graph:
    """Fuse each ReLU into the node before it."""
    fusible = {Kind.CONVOLUTION, Kind.AFFINE, Kind.ADD}

    def merge(first: Node, second: Node) -> Node | None:
        if second.kind is not Kind.RELU or first.kind not in fusible or first.rectified:
            return None
        return replace(first, rectified=True)

    return _absorb(graph, merge)
