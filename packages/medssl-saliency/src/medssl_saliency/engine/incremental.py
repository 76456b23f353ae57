"""Exact inference on an image with small changes: only what the change can reach is recomputed.

The clean image runs once and every feature map is kept. For a batch of changed windows each step
then recomputes one rectangle, taken from the clean map and pasted over with what the step before
has changed. Nothing here knows about saliency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl_saliency.errors import UnsupportedNetworkError
from medssl_saliency.geometry import Span
from medssl_saliency.planning import plan
from medssl_saliency.recording import record
from medssl_saliency.tape import Kind
from medssl_saliency.winograd import Winograd, is_worth_it, padded

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from medssl_saliency.planning import Plan, Tile
    from medssl_saliency.tape import Pair, Step

__all__ = ["IncrementalNetwork"]

TOLERANCE = 1e-3
"""A recording that differs by more than this from the network itself is not used."""


class IncrementalNetwork:
    """A frozen network that knows its answer to one image and updates it for changed windows.

    Args:
        network: In eval mode; `(N, 3, H, W)` to `(N, D)`. It is read, never changed.
        image: `(3, H, W)` float32, the clean input.
        precision: `torch.float32` or `torch.bfloat16`.

    Attributes:
        tape: What the network does.
        clean: `(D,)` float32, the features of the clean image.

    Raises:
        UnsupportedNetworkError: The network does something that cannot be updated locally.

    Example:
        >>> incremental = IncrementalNetwork(backbone.trunk, image)
        >>> schedule = incremental.plan(positions, (10, 10), memory=2**30)
        >>> features = incremental.run(schedule.tiles[0], occluder, (10, 10))
    """

    def __init__(
        self, network: nn.Module, image: Tensor, *, precision: torch.dtype = torch.float32
    ) -> None:
        recorded = record(network, (image.shape[1], image.shape[2]), channels=image.shape[0])
        self.tape = recorded.to(device=image.device, dtype=precision)
        self.precision = precision
        self.last_reader = [max(readers, default=-1) for readers in self.tape.consumers()]
        self._bordered: dict[tuple[int, Span, Span, float], Tensor] = {}
        self.sums: dict[int, Tensor] = {}
        self.quick = {
            index: Winograd(step.weight)
            for index, step in enumerate(self.tape.steps)
            if is_worth_it(step)
        }
        with torch.inference_mode():
            self.maps = self._run_clean(image[None])
            self.total = self.maps[self.tape.steps[-1].inputs[0]].float().sum(dim=(2, 3))
            self.clean = self.maps[-1].float().flatten()
            self._compare(network, image)

    def plan(
        self,
        positions: NDArray[np.int64],
        window: Pair,
        *,
        memory: int,
        side: Pair | None = None,
    ) -> Plan:
        """Cut windows into tiles; see `medssl_saliency.planning.plan`.

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
            self.tape, positions, window, memory=memory - kept, itemsize=itemsize, side=side
        )

    @torch.inference_mode()
    def run(self, tile: Tile, occluder: Tensor, window: Pair) -> Tensor:
        """Give the features of the image with each window of a tile replaced.

        Args:
            tile: The windows.
            occluder: `(3, H, W)` float32, what is seen in place of the image.
            window: Height and width of a window.

        Returns:
            `(n, D)` float32.
        """
        update = _Update(self, tile)
        update.occlude(occluder, window)
        for index in range(1, len(self.tape.steps) - 1):
            update.advance(index)
        return update.mean()

    def bordered(self, source: int, step: Step) -> tuple[Tensor, Span, Span]:
        """Give a clean map with the padding that `step` reads, and the cells that it covers."""
        _, height, width = self.tape.steps[source].shape
        rows = step.rows.needed(Span(0, step.shape[1])).hull(Span(0, height))
        columns = step.columns.needed(Span(0, step.shape[2])).hull(Span(0, width))
        key = (source, rows, columns, step.fill)
        if key not in self._bordered:
            sides = (-columns.start, columns.stop - width, -rows.start, rows.stop - height)
            clean = self.maps[source]
            if any(sides):
                clean = _channels_last(functional.pad(clean, sides, value=step.fill))
            self._bordered[key] = clean
        return self._bordered[key], rows, columns

    def _run_clean(self, image: Tensor) -> list[Tensor]:
        """Run all steps on `(1, 3, H, W)` and keep every result."""
        results = [_channels_last(image.to(self.precision))]
        for index, step in enumerate(self.tape.steps[1:], start=1):
            inputs = [results[source] for source in step.inputs]
            if index in self.quick:
                self.sums[index] = _slide(step, inputs[0], bordered=False)
                results.append(self.sums[index].relu() if step.rectified else self.sums[index])
            else:
                results.append(_apply(step, inputs))
        return results

    def _compare(self, network: nn.Module, image: Tensor) -> None:
        if self.precision is not torch.float32:
            return
        expected = network(image[None])[0]
        error = (self.clean - expected).norm() / expected.norm().clamp_min(1e-30)
        if not error <= TOLERANCE:
            message = f"the recording of the network is off by {float(error):.1e}"
            raise UnsupportedNetworkError(message)


@dataclass(frozen=True, eq=False)
class _Patch:
    """A rectangle of a feature map, for each window of a batch.

    Attributes:
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
        """Give a part of it."""
        return self.data[:, :, rows.inside(self.rows), columns.inside(self.columns)]


class _Update:
    """The rectangles of one tile while they travel through the network.

    A map that no window of the tile has changed has no entry.
    """

    def __init__(self, network: IncrementalNetwork, tile: Tile) -> None:
        self.network, self.tile = network, tile
        self.steps = network.tape.steps
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
        """Do one step, and forget what no later step reads."""
        step, where = self.steps[index], (self.tile.rows[index], self.tile.columns[index])
        if all(where) and any(source in self.patches for source in step.inputs):
            self.patches[index] = _Patch(RUNNERS[step.kind](self, index, *where), *where)
        for source in step.inputs:
            if self.network.last_reader[source] == index:
                self.patches.pop(source, None)

    def mean(self) -> Tensor:
        """Average the last map: the clean sum, less the rectangle as it was, plus as it is."""
        source = self.steps[-1].inputs[0]
        if source not in self.patches:
            return self.network.clean.expand(self.number, -1).clone()
        patch, clean = self.patches[source], self.network.maps[source]
        cells = clean.shape[2] * clean.shape[3]
        total = patch.data.sum(dim=(2, 3), dtype=torch.float32)
        if patch.area < cells:
            was = _part(clean, patch.rows, patch.columns).sum(dim=(2, 3), dtype=torch.float32)
            total += self.network.total - was
        return total / cells

    # ---------------------------------------------------------------- one method for a kind of step

    def windowed(self, index: int, rows: Span, columns: Span) -> Tensor:
        """Recompute a rectangle of a convolution or a pooling, or look beyond a border."""
        step = self.steps[index]
        source = step.inputs[0]
        patch = self.patches[source]
        if index in self.network.quick:
            return self._by_difference(index, rows, columns)
        whole = patch.area == _cells(self.steps[source])
        if whole and rows.length * columns.length == _cells(step):
            return _apply(step, [patch.data])
        needed = step.rows.needed(rows), step.columns.needed(columns)
        return _apply(step, [self.gather(index, source, *needed)], bordered=True)

    def _by_difference(self, index: int, rows: Span, columns: Span) -> Tensor:
        """Convolve what has changed, and add it to the clean sums: a convolution is linear."""
        step, source = self.steps[index], self.steps[index].inputs[0]
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
        return result.relu_() if step.rectified else result

    def pointwise(self, index: int, rows: Span, columns: Span) -> Tensor:
        """Recompute a rectangle of a step that reads only the cell itself."""
        step = self.steps[index]
        parts = [self.gather(index, source, rows, columns) for source in step.inputs]
        return _apply(step, parts, bordered=True)

    def add(self, index: int, rows: Span, columns: Span) -> Tensor:
        """Add the smaller rectangle to the larger one, in place where nobody else reads that."""
        step = self.steps[index]
        large, small = sorted(step.inputs, key=lambda source: -self._area(source))
        data = self.gather(index, large, rows, columns)
        if not self._is_free(large, index, data):
            data = _channels_last(data)
        self._add_to(_Patch(data, rows, columns), small)
        return data.relu_() if step.rectified else data

    def gather(self, index: int, source: int, rows: Span, columns: Span) -> Tensor:
        """Give cells of a step's input, padding included, for every window: `(n, C, h, w)`."""
        patch = self.patches.get(source)
        if patch is not None and patch.covers(rows, columns):
            return patch.cut(rows, columns)
        clean, all_rows, all_columns = self.network.bordered(source, self.steps[index])
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
        # A padding step may hand on the very tensor that it read.
        sharers = sum(p.data.data_ptr() == data.data_ptr() for p in self.patches.values())
        fresh = self.steps[source].kind in {Kind.CONVOLUTION, Kind.ADD} and sharers == 1
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


# -------------------------------------------------------------------------------- steps on tensors


def _apply(step: Step, inputs: list[Tensor], *, bordered: bool = False) -> Tensor:
    """Do one step on tensors; `bordered` says that they hold the padding already."""
    x = inputs[0]
    match step.kind:
        case Kind.CONVOLUTION | Kind.MAX_POOL | Kind.AVERAGE_POOL:
            result = _slide(step, x, bordered=bordered)
        case Kind.AFFINE:
            result = torch.addcmul(step.bias, x, step.weight)
        case Kind.RELU:
            result = x.relu()
        case Kind.PAD:
            result = x if bordered else _pad(step, x)
        case Kind.ADD:
            result = x + inputs[1]
        case Kind.CONCATENATE:
            result = torch.cat(inputs, dim=1)
        case _:
            result = x.mean(dim=(2, 3), keepdim=True, dtype=torch.float32)
    return result.relu_() if step.rectified else result


def _slide(step: Step, x: Tensor, *, bordered: bool) -> Tensor:
    rows, columns = step.rows, step.columns
    kernel, stride = (rows.kernel, columns.kernel), (rows.stride, columns.stride)
    padding = (0, 0) if bordered else (rows.padding, columns.padding)
    dilation = (rows.dilation, columns.dilation)
    if step.kind is Kind.CONVOLUTION:
        return functional.conv2d(x, step.weight, step.bias, stride, padding, dilation, step.groups)
    if step.kind is Kind.MAX_POOL:
        return functional.max_pool2d(x, kernel, stride, padding, dilation)
    return functional.avg_pool2d(x, kernel, stride, padding)


def _pad(step: Step, x: Tensor) -> Tensor:
    left, top = step.columns.padding, step.rows.padding
    right, bottom = step.shape[2] - x.shape[3] - left, step.shape[1] - x.shape[2] - top
    return functional.pad(x, (left, right, top, bottom), value=step.fill)


def _around(patch: _Patch, target: _Patch) -> list[tuple[Span, Span]]:
    """Give the rectangles of `target` that `patch` leaves free: above, below, left and right."""
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


def _cells(step: Step) -> int:
    return step.shape[1] * step.shape[2]


def _empty(part: Tensor, number: int) -> Tensor:
    _, channels, height, width = part.shape
    return part.new_empty((number, height, width, channels)).permute(0, 3, 1, 2)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.channels_last)
