"""Which windows are occluded together, and which rectangle of each feature map they can change.

Neighbouring windows form a tile; all windows of a tile recompute the same rectangles, so that a
rectangle is a slice of the clean map and the border needs no special case. Large tiles make large
batches but rectangles that are larger than each window needs; the planner weighs that in FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from medssl_saliency.engine.geometry import Span
from medssl_saliency.engine.graph import Kind
from medssl_saliency.engine.winograd import is_worth_it, scratch
from medssl_saliency.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from medssl_saliency.engine.graph import Graph, Pair

__all__ = ["Tile", "TilePlan", "plan", "rectangles"]

SIDES = (1, 2, 4, 8, 16, 32, 64)
"""Sides of a tile that are tried, in positions."""
DENSE_SHARE = 0.85
"""From this share of its area on, a map is recomputed whole: cutting and pasting costs more."""
NODE_OVERHEAD = 2e6
"""Multiplications in the time of starting one node, measured on two cores."""
WEIGHT_OVERHEAD = 60.0
"""Multiplications in the time of packing one weight for a convolution, likewise."""
HARMLESS_BATCH = 24
"""Larger batches fall out of the caches: twice as large took a fifth longer for each window."""
CROWDING = 0.2


@dataclass(frozen=True, eq=False)
class Tile:
    """Windows that are occluded in one batch.

    Args:
        positions: `(n, 2)` int64, the windows' top rows and left columns.
        rows: For each node the rows that any of the windows can change.
        columns: For each node the columns.
        work: Multiplications of the tile.
    """

    positions: NDArray[np.int64]
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    work: float


@dataclass(frozen=True, eq=False)
class TilePlan:
    """How a set of windows is worked through.

    Args:
        tiles: All windows, each in one tile.
        side: Height and width of a tile in positions.
        dense_work: Multiplications of one full inference.
        work: Multiplications for a window, on average.
        peak: Bytes that the largest tile holds at once.
    """

    tiles: tuple[Tile, ...]
    side: Pair
    dense_work: float
    work: float
    peak: int

    @property
    def gain(self) -> float:
        """Multiplications of full inference for each one that a window takes."""
        return self.dense_work / self.work


def rectangles(graph: Graph, changed: Span, *, axis: int) -> tuple[Span, ...]:
    """List for each node the cells along one axis that a change of the input can reach.

    Args:
        graph: The network, traced.
        changed: Changed rows or columns of the input.
        axis: 0 for rows, 1 for columns.
    """
    spans: list[Span] = []
    for node in graph.nodes:
        if node.kind is Kind.INPUT:
            spans.append(changed)
        elif node.kind is Kind.MEAN:
            spans.append(Span(0, 1))
        else:
            reach = node.columns if axis else node.rows
            size = node.shape[1 + axis]
            span = Span(0, 0)
            for source in node.inputs:
                span = span.hull(reach.affected(spans[source], size))
            spans.append(span)
    return tuple(spans)


def plan(
    graph: Graph,
    positions: NDArray[np.int64],
    window: Pair,
    *,
    memory: int,
    itemsize: int = 4,
    side: Pair | None = None,
) -> TilePlan:
    """Choose the tiles that take the least time by their FLOPs, within a bound of memory.

    Args:
        graph: The network, traced for the size of the image.
        positions: `(n, 2)` int64, top rows and left columns of the windows.
        window: Height and width of a window.
        memory: Bytes that the feature maps of a tile may take.
        itemsize: Bytes of a number: 4 for fp32, 2 for bf16.
        side: Height and width of a tile in positions; None chooses.

    Raises:
        SettingsError: Not even one window fits into the memory.
    """
    sides = [side] if side else [(a, b) for a in SIDES for b in SIDES if a <= b <= 2 * a]
    best: _Tiling | None = None
    for one in reversed(sides):  # small tiles last: they take long to plan and are seldom best
        tiling = _Tiling(graph, positions, window, one)
        if best is not None and tiling.overhead >= best.time:
            continue
        if side is None and tiling.peak * itemsize > memory:
            continue
        if best is None or tiling.time <= best.time:
            best = tiling
    if best is None:
        need = _Tiling(graph, positions, window, (1, 1)).peak * itemsize
        left = max(0, memory) / 2**20
        message = (
            f"one window needs {need / 2**20:.0f} MiB, and beside the network's feature maps and "
            f"weights {left:.0f} MiB are left; give more memory"
        )
        raise SettingsError(message)
    return TilePlan(
        tiles=tuple(best.tiles()),
        side=best.side,
        dense_work=_dense_work(graph),
        work=best.work / len(positions),
        peak=best.peak * itemsize,
    )


class _Tiling:
    """One way to cut a set of windows into tiles, and what it costs."""

    def __init__(
        self, graph: Graph, positions: NDArray[np.int64], window: Pair, side: Pair
    ) -> None:
        self.graph, self.positions, self.window, self.side = graph, positions, window, side
        self.cells = positions // np.array(side)
        counts = np.zeros(self.cells.max(axis=0) + 1, dtype=np.int64)
        np.add.at(counts, (self.cells[:, 0], self.cells[:, 1]), 1)
        self.counts = counts

    @cached_property
    def spans(self) -> tuple[list[tuple[Span, ...]], ...]:
        """Rectangles of the rows and of the columns of tiles."""
        return tuple(
            self._along(axis, self.window[axis], self.counts.shape[axis]) for axis in range(2)
        )

    def _along(self, axis: int, window: int, number: int) -> list[tuple[Span, ...]]:
        """Rectangles of each row or column of tiles; a tile without windows has empty ones."""
        found = []
        for cell in range(number):
            corners = self.positions[self.cells[:, axis] == cell, axis]
            bounds = (int(corners.min()), int(corners.max()) + window) if len(corners) else (0, 0)
            found.append(rectangles(self.graph, Span(*bounds), axis=axis))
        return found

    def _lengths(self, axis: int) -> NDArray[np.int64]:
        return np.array([[span.length for span in spans] for spans in self.spans[axis]])

    @cached_property
    def work(self) -> float:
        """Multiplications of all tiles."""
        rows, columns = self._lengths(0), self._lengths(1)
        areas = np.einsum("ij,is,js->s", self.counts, rows, columns)
        works = np.array([node.work for node in self.graph.nodes])
        return float(works @ areas)

    @cached_property
    def overhead(self) -> float:
        """Multiplications in the time that the tiles cost whatever their size."""
        weights = sum(node.weight.numel() for node in self.graph.nodes)
        each = len(self.graph.nodes) * NODE_OVERHEAD + weights * WEIGHT_OVERHEAD
        return float(np.count_nonzero(self.counts) * each)

    @cached_property
    def time(self) -> float:
        """Multiplications in the time that the tiles take."""
        crowding = 1.0 + CROWDING * max(np.log2(self.counts.max() / HARMLESS_BATCH), 0.0)
        return float(self.work * crowding + self.overhead)

    @cached_property
    def peak(self) -> int:
        """Numbers that the fullest tile holds at once, with what a node needs to be computed."""
        fullest = int(self.counts.max())
        longest = [self._lengths(axis).max(axis=0) for axis in range(2)]
        sizes = [
            node.shape[0] * int(longest[0][i] + 2) * int(longest[1][i] + 2)
            for i, node in enumerate(self.graph.nodes)
        ]
        beside = [
            scratch(node, int(longest[0][i]), int(longest[1][i]), fullest)
            if is_worth_it(node)
            else fullest * sum(sizes[source] for source in node.inputs)
            for i, node in enumerate(self.graph.nodes)
        ]
        return max(
            fullest * sum(sizes[i] for i in alive) + beside[now]
            for now, alive in enumerate(_alive(self.graph))
        )

    def tiles(self) -> Iterator[Tile]:
        """Make the tiles that hold windows, row by row."""
        order = np.lexsort((self.cells[:, 1], self.cells[:, 0]))
        cells, starts = np.unique(self.cells[order], axis=0, return_index=True)
        for cell, members in zip(cells, np.split(order, starts[1:]), strict=True):
            row, column = self.spans[0][cell[0]], self.spans[1][cell[1]]
            rows, columns = _whole_where_large(self.graph, row, column)
            work = sum(
                node.work * height.length * width.length
                for node, height, width in zip(self.graph.nodes, rows, columns, strict=True)
            )
            yield Tile(self.positions[members], rows, columns, work * len(members))


def _whole_where_large(
    graph: Graph, rows: Sequence[Span], columns: Sequence[Span]
) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """Extend rectangles that cover almost all of their map to the map."""
    extended = []
    for node, row, column in zip(graph.nodes, rows, columns, strict=True):
        _, height, width = node.shape
        large = row.length * column.length >= DENSE_SHARE * height * width
        kept = node.kind is Kind.INPUT or not large
        extended.append((row, column) if kept else (Span(0, height), Span(0, width)))
    return tuple(row for row, _ in extended), tuple(column for _, column in extended)


def _alive(graph: Graph) -> list[set[int]]:
    """List for each node the results that are still held when it has run."""
    last = [max(readers, default=index) for index, readers in enumerate(graph.consumers())]
    return [
        {index for index in range(now + 1) if last[index] >= now} for now in range(len(graph.nodes))
    ]


def _dense_work(graph: Graph) -> float:
    return sum(node.work * node.shape[1] * node.shape[2] for node in graph.nodes)
