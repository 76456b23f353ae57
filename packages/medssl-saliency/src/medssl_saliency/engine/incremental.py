"""Exact inference on an image with small changes: only what the change can reach is recomputed.

The clean image runs once and every feature map is kept. For a batch of changed windows each node
then recomputes one rectangle, taken from the clean map and pasted over with what the node before
has changed. Nothing here knows about saliency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl_saliency.engine.geometry import Span
from medssl_saliency.engine.graph import Kind
from medssl_saliency.engine.planning import plan
from medssl_saliency.engine.tracing import trace
from medssl_saliency.engine.winograd import Winograd, is_worth_it, padded
from medssl_saliency.errors import UnsupportedNetworkError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from medssl_saliency.engine.graph import Node, Pair
    from medssl_saliency.engine.planning import Tile, TilePlan

__all__ = ["IncrementalNetwork"]

TOLERANCE = 1e-3
"""A graph that differs by more than this from the network itself is not used."""


class IncrementalNetwork:
    """A frozen network that knows its answer to one image and updates it for changed windows.

    Args:
        network: In eval mode; `(N, 3, H, W)` to `(N, D)`. It is read, never changed.
        image: `(3, H, W)` float32, the clean input.
        precision: `torch.float32` or `torch.bfloat16`.

    Attributes:
        graph: The network, traced.
        clean: `(D,)` float32, the features of the clean image.

    Raises:
        UnsupportedNetworkError: The network does something that cannot be updated locally.

    Example:
        >>> import numpy as np
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> image, occluder = torch.ones(3, 16, 16), torch.zeros(3, 16, 16)
        >>> incremental = IncrementalNetwork(network.eval().requires_grad_(False), image)
        >>> plan = incremental.plan(np.array([[0, 0], [4, 4]]), (5, 5), memory=2**30)
        >>> sum(len(incremental.run(tile, occluder, (5, 5))) for tile in plan.tiles)
        2
    """

    def __init__(
        self, network: nn.Module, image: Tensor, *, precision: torch.dtype = torch.float32
    ) -> None:
        traced = trace(network, (image.shape[1], image.shape[2]), channels=image.shape[0])
        self.graph = traced.to(device=image.device, dtype=precision)
        self.precision = precision
        self.last_reader = [max(readers, default=-1) for readers in self.graph.consumers()]
        self._bordered: dict[tuple[int, Span, Span, float], Tensor] = {}
        self.sums: dict[int, Tensor] = {}
        self.quick = {
            index: Winograd(node.weight)
            for index, node in enumerate(self.graph.nodes)
            if is_worth_it(node)
        }
        with torch.inference_mode():
            self.maps = self._run_clean(image[None])
            self.total = self.maps[self.graph.nodes[-1].inputs[0]].float().sum(dim=(2, 3))
            self.clean = self.maps[-1].float().flatten()
            self._compare(network, image)

    def plan(
        self,
        positions: NDArray[np.int64],
        window: Pair,
        *,
        memory: int,
        side: Pair | None = None,
    ) -> TilePlan:
        """Cut windows into tiles; see `medssl_saliency.engine.planning.plan`.

        Args:
            positions: `(n, 2)` int64, top rows and left columns.
            window: Height and width of a window.
            memory: Bytes that may be used, clean feature maps and transformed weights included.
            side: Height and width of a tile in positions; None chooses.
        """
        clean_maps = (*self.maps, *self.sums.values())
        transformed = (quick.weight for quick in self.quick.values())
        kept = sum(held.numel() * held.element_size() for held in (*clean_maps, *transformed))
        itemsize = self.precision.itemsize
        return plan(
            self.graph, positions, window, memory=memory - kept, itemsize=itemsize, side=side
        )

    @torch.inference_mode()
    def run(self, tile: Tile, occluder: Tensor, window: Pair) -> Tensor:
        """Compute the features of the image with each window of a tile replaced.

        Args:
            tile: The windows.
            occluder: `(3, H, W)` float32, what is seen in place of the image.
            window: Height and width of a window.

        Returns:
            `(n, D)` float32.
        """
        update = _Update(self, tile)
        update.occlude(occluder, window)
        for index in range(1, len(self.graph.nodes) - 1):
            update.advance(index)
        return update.mean()

    def bordered(self, source: int, node: Node) -> tuple[Tensor, Span, Span]:
        """Return a clean map with the padding that `node` reads, and the cells that it covers."""
        _, height, width = self.graph.nodes[source].shape
        rows = node.rows.needed(Span(0, node.shape[1])).hull(Span(0, height))
        columns = node.columns.needed(Span(0, node.shape[2])).hull(Span(0, width))
        key = (source, rows, columns, node.fill)
        if key not in self._bordered:
            sides = (-columns.start, columns.stop - width, -rows.start, rows.stop - height)
            clean = self.maps[source]
            if any(sides):
                clean = _channels_last(functional.pad(clean, sides, value=node.fill))
            self._bordered[key] = clean
        return self._bordered[key], rows, columns

    def _run_clean(self, image: Tensor) -> list[Tensor]:
        """Run all nodes on a `(1, 3, H, W)` image and keep every result."""
        results = [_channels_last(image.to(self.precision))]
        for index, node in enumerate(self.graph.nodes[1:], start=1):
            inputs = [results[source] for source in node.inputs]
            if index in self.quick:
                self.sums[index] = _slide(node, inputs[0], bordered=False)
                results.append(self.sums[index].relu() if node.rectified else self.sums[index])
            else:
                results.append(_apply(node, inputs))
        return results

    def _compare(self, network: nn.Module, image: Tensor) -> None:
        if self.precision is not torch.float32:
            return
        expected = network(image[None])[0]
        error = (self.clean - expected).norm() / expected.norm().clamp_min(1e-30)
        if not error <= TOLERANCE:
            message = f"its traced graph deviates from the network itself by {float(error):.1e}"
            raise UnsupportedNetworkError(message)


@dataclass(frozen=True, eq=False)
class _Patch:
    """A rectangle of a feature map, for each window of a batch.

    Args:
        data: `(n, C, h, w)`, channels last.
        rows: Where it lies.
        columns: Where it lies.
    """

    data: Tensor
    rows: Span
    columns: Span

    @property
    def area(self) -> int:
        """Number of cells."""
        return self.rows.length * self.columns.length

    def covers(self, rows: Span, columns: Span) -> bool:
        """Tell whether a rectangle lies in it."""
        return self.rows.covers(rows) and self.columns.covers(columns)

    def cut(self, rows: Span, columns: Span) -> Tensor:
        """Return a part of it."""
        return self.data[:, :, rows.inside(self.rows), columns.inside(self.columns)]


class _Update:
    """The rectangles of one tile while they travel through the network.

    A map that no window of the tile has changed has no entry.
    """

    def __init__(self, network: IncrementalNetwork, tile: Tile) -> None:
        self.network, self.tile = network, tile
        self.nodes = network.graph.nodes
        self.number = len(tile.positions)
        self.patches: dict[int, _Patch] = {}

    def occlude(self, occluder: Tensor, window: Pair) -> None:
        """Start with the image, its windows replaced."""
        rows, columns = self.tile.rows[0], self.tile.columns[0]
        clean = _part(self.network.maps[0], rows, columns)
        data = _channels_last(clean.expand(self.number, -1, -1, -1))
        occluder = occluder.to(data.dtype)
        for image, (top, left) in zip(data, self.tile.positions.tolist(), strict=True):
            high, wide = slice(top, top + window[0]), slice(left, left + window[1])
            there = image[:, high.start - rows.start :, wide.start - columns.start :]
            there[:, : window[0], : window[1]] = occluder[:, high, wide]
        self.patches[0] = _Patch(data, rows, columns)

    def advance(self, index: int) -> None:
        """Run one node, and forget what no later node reads."""
        node, where = self.nodes[index], (self.tile.rows[index], self.tile.columns[index])
        if all(where) and any(source in self.patches for source in node.inputs):
            self.patches[index] = _Patch(RUNNERS[node.kind](self, index, *where), *where)
        for source in node.inputs:
            if self.network.last_reader[source] == index:
                self.patches.pop(source, None)

    def mean(self) -> Tensor:
        """Average the last map: the clean sum, less the rectangle as it was, plus as it is."""
        source = self.nodes[-1].inputs[0]
        if source not in self.patches:
            return self.network.clean.expand(self.number, -1).clone()
        patch, clean = self.patches[source], self.network.maps[source]
        cells = clean.shape[2] * clean.shape[3]
        total = patch.data.sum(dim=(2, 3), dtype=torch.float32)
        if patch.area < cells:
            was = _part(clean, patch.rows, patch.columns).sum(dim=(2, 3), dtype=torch.float32)
            total += self.network.total - was
        return total / cells

    # ---------------------------------------------------------------- one method for a kind of node

    def windowed(self, index: int, rows: Span, columns: Span) -> Tensor:
        """Recompute a rectangle of a convolution or a pooling, or look beyond a border."""
        node = self.nodes[index]
        source = node.inputs[0]
        patch = self.patches[source]
        if index in self.network.quick:
            return self._by_difference(index, rows, columns)
        whole = patch.area == _cells(self.nodes[source])
        if whole and rows.length * columns.length == _cells(node):
            return _apply(node, [patch.data])
        needed = node.rows.needed(rows), node.columns.needed(columns)
        return _apply(node, [self.gather(index, source, *needed)], bordered=True)

    def _by_difference(self, index: int, rows: Span, columns: Span) -> Tensor:
        """Convolve what has changed, and add it to the clean sums: a convolution is linear."""
        node, source = self.nodes[index], self.nodes[index].inputs[0]
        patch, clean = self.patches[source], self.network.maps[source]
        top, left = rows.start - 1, columns.start - 1
        high, wide = padded(rows.length), padded(columns.length)
        changed = clean.new_zeros((self.number, high, wide, clean.shape[1]))
        both = (
            patch.rows.within(Span(top, rows.stop + 1)),
            patch.columns.within(Span(left, columns.stop + 1)),
        )
        difference = _Patch(
            changed.permute(0, 3, 1, 2), Span(top, top + high), Span(left, left + wide)
        )
        torch.sub(patch.cut(*both), _part(clean, *both), out=difference.cut(*both))
        made = self.network.quick[index](changed)[:, : rows.length, : columns.length]
        result = made.permute(0, 3, 1, 2).add_(_part(self.network.sums[index], rows, columns))
        return result.relu_() if node.rectified else result

    def pointwise(self, index: int, rows: Span, columns: Span) -> Tensor:
        """Recompute a rectangle of a node that reads only the cell itself."""
        node = self.nodes[index]
        parts = [self.gather(index, source, rows, columns) for source in node.inputs]
        return _apply(node, parts, bordered=True)

    def add(self, index: int, rows: Span, columns: Span) -> Tensor:
        """Add the smaller rectangle to the larger one, in place where nobody else reads that."""
        node = self.nodes[index]
        large, small = sorted(node.inputs, key=lambda source: -self._area(source))
        data = self.gather(index, large, rows, columns)
        if not self._is_free(large, index, data):
            data = _channels_last(data)
        self._add_to(_Patch(data, rows, columns), small)
        return data.relu_() if node.rectified else data

    def gather(self, index: int, source: int, rows: Span, columns: Span) -> Tensor:
        """Gather cells of a node's input, padding included, for every window: `(n, C, h, w)`."""
        patch = self.patches.get(source)
        if patch is not None and patch.covers(rows, columns):
            return patch.cut(rows, columns)
        clean, all_rows, all_columns = self.network.bordered(source, self.nodes[index])
        part = clean[:, :, rows.inside(all_rows), columns.inside(all_columns)]
        if patch is None:
            return part.expand(self.number, -1, -1, -1)
        target = _Patch(_empty(part, self.number), rows, columns)
        for strip in _around(patch, target):
            target.cut(*strip).copy_(part[:, :, strip[0].inside(rows), strip[1].inside(columns)])
        both = patch.rows.within(rows), patch.columns.within(columns)
        target.cut(*both).copy_(patch.cut(*both))
        return target.data

    def _add_to(self, target: _Patch, source: int) -> None:
        """Add a map to `target`: its changed rectangle, and the clean map around that."""
        clean, patch = self.network.maps[source], self.patches.get(source)
        if patch is None:
            target.data.add_(_part(clean, target.rows, target.columns))
            return
        both = patch.rows.within(target.rows), patch.columns.within(target.columns)
        target.cut(*both).add_(patch.cut(*both))
        for strip in _around(patch, target):
            target.cut(*strip).add_(_part(clean, *strip))

    def _area(self, source: int) -> int:
        return self.patches[source].area if source in self.patches else 0

    def _is_free(self, source: int, reader: int, data: Tensor) -> bool:
        """Tell whether a tensor may be overwritten: a whole result that only `reader` reads."""
        patch = self.patches.get(source)
        if patch is None or data.data_ptr() != patch.data.data_ptr():
            return False
        # A padding node may hand on the very tensor that it read.
        sharers = sum(p.data.data_ptr() == data.data_ptr() for p in self.patches.values())
        fresh = self.nodes[source].kind in {Kind.CONVOLUTION, Kind.ADD} and sharers == 1
        return fresh and self.network.last_reader[source] == reader


RUNNERS: dict[Kind, Callable[[_Update, int, Span, Span], Tensor]] = {
    Kind.CONVOLUTION: _Update.windowed,
    Kind.MAX_POOL: _Update.windowed,
    Kind.AVERAGE_POOL: _Update.windowed,
    Kind.PAD: _Update.windowed,
    Kind.AFFINE: _Update.pointwise,
    Kind.RELU: _Update.pointwise,
    Kind.CONCATENATE: _Update.pointwise,
    Kind.ADD: _Update.add,
}


# -------------------------------------------------------------------------------- nodes on tensors


def _apply(node: Node, inputs: list[Tensor], *, bordered: bool = False) -> Tensor:
    """Run one node on tensors; `bordered` says that they hold the padding already."""
    x = inputs[0]
    match node.kind:
        case Kind.CONVOLUTION | Kind.MAX_POOL | Kind.AVERAGE_POOL:
            result = _slide(node, x, bordered=bordered)
        case Kind.AFFINE:
            result = torch.addcmul(node.bias, x, node.weight)
        case Kind.RELU:
            result = x.relu()
        case Kind.PAD:
            result = x if bordered else _pad(node, x)
        case Kind.ADD:
            result = x + inputs[1]
        case Kind.CONCATENATE:
            result = torch.cat(inputs, dim=1)
        case _:
            result = x.mean(dim=(2, 3), keepdim=True, dtype=torch.float32)
    return result.relu_() if node.rectified else result


def _slide(node: Node, x: Tensor, *, bordered: bool) -> Tensor:
    rows, columns = node.rows, node.columns
    kernel, stride = (rows.kernel, columns.kernel), (rows.stride, columns.stride)
    padding = (0, 0) if bordered else (rows.padding, columns.padding)
    dilation = (rows.dilation, columns.dilation)
    if node.kind is Kind.CONVOLUTION:
        return functional.conv2d(x, node.weight, node.bias, stride, padding, dilation, node.groups)
    if node.kind is Kind.MAX_POOL:
        return functional.max_pool2d(x, kernel, stride, padding, dilation)
    return functional.avg_pool2d(x, kernel, stride, padding)


def _pad(node: Node, x: Tensor) -> Tensor:
    left, top = node.columns.padding, node.rows.padding
    right, bottom = node.shape[2] - x.shape[3] - left, node.shape[1] - x.shape[2] - top
    return functional.pad(x, (left, right, top, bottom), value=node.fill)


def _around(patch: _Patch, target: _Patch) -> list[tuple[Span, Span]]:
    """List the rectangles of `target` that `patch` leaves free: above, below, left and right."""
    rows = patch.rows.within(target.rows)
    columns = patch.columns.within(target.columns)
    strips = [
        (Span(target.rows.start, rows.start), target.columns),
        (Span(rows.stop, target.rows.stop), target.columns),
        (rows, Span(target.columns.start, columns.start)),
        (rows, Span(columns.stop, target.columns.stop)),
    ]
    return [strip for strip in strips if all(strip)]


def _part(tensor: Tensor, rows: Span, columns: Span) -> Tensor:
    return tensor[:, :, rows.start : rows.stop, columns.start : columns.stop]


def _cells(node: Node) -> int:
    return node.shape[1] * node.shape[2]


def _empty(part: Tensor, number: int) -> Tensor:
    _, channels, height, width = part.shape
    return part.new_empty((number, height, width, channels)).permute(0, 3, 1, 2)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.channels_last)
