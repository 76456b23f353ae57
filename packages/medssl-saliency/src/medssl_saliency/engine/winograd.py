"""Wide 3x3 convolutions by Winograd's minimal filtering, F(4x4, 3x3): a quarter of the products.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016. oneDNN has it for no
processor without AVX-512. Its rounding error is some ten times that of plain summation; it is used
on differences from a clean map only, so the error is relative to the difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medssl_saliency.engine.geometry import Reach
from medssl_saliency.engine.graph import Kind

if TYPE_CHECKING:
    from medssl_saliency.engine.graph import Node

__all__ = ["TILE", "Winograd", "is_worth_it", "padded", "scratch"]

TILE = 4
"""Side of the square of results that is computed at once."""
TAPS = TILE + 2
FEWEST_CHANNELS = 96
"""Below, carrying numbers to and fro takes longer than the multiplications that are saved."""
CHUNK = 2**21
"""Numbers of a batch that are transformed at once, so that they stay in the caches."""

# Interpolation at 0, 1, -1, 2, -2 and infinity: of inputs, of weights, back to results.
INPUTS = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
WEIGHTS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
RESULTS = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def is_worth_it(node: Node) -> bool:
    """Tell whether a node is a convolution that this way does sooner, on this device."""
    if node.kind is not Kind.CONVOLUTION or node.groups > 1:
        return False
    plain = Reach(kernel=3, stride=1, padding=1)
    fitting = node.rows == plain and node.columns == plain
    wide = min(node.weight.shape[:2]) >= FEWEST_CHANNELS
    here = node.weight.device.type == "cpu" and node.weight.dtype == torch.float32
    return fitting and wide and here


def padded(size: int) -> int:
    """Count how many inputs along an axis are read for `size` results: whole tiles and a border."""
    return -(-size // TILE) * TILE + 2


def scratch(node: Node, height: int, width: int, number: int) -> int:
    """Count the numbers that are held beside a node's own input and result while it is computed.

    Args:
        node: One that `is_worth_it`.
        height: Rows of results.
        width: Columns of results.
        number: Images in the batch.
    """
    made, read = node.weight.shape[:2]
    cells = padded(height) * padded(width)
    chunk = max(CHUNK // 2, cells * read)
    # Inputs twice, products and results once are carried to and fro, (TAPS / TILE)^2 as many.
    carried = (TAPS / TILE) ** 2 * (2 + 2 * made / read)
    return number * cells * (read + made) + int(min(chunk, number * cells * read) * carried)


class Winograd:
    """A 3x3 convolution with stride 1, its weights transformed once.

    Args:
        weight: `(out, in, 3, 3)` float32.
    """

    def __init__(self, weight: Tensor) -> None:
        exact = torch.tensor(WEIGHTS, dtype=torch.float64)
        transformed = torch.einsum("ai,bj,okij->abko", exact, exact, weight.double())
        self.weight = transformed.reshape(TAPS**2, weight.shape[1], weight.shape[0]).float()
        self.inputs, self.results = torch.tensor(INPUTS).float(), torch.tensor(RESULTS).float()

    def __call__(self, x: Tensor) -> Tensor:
        """Convolve without padding.

        Args:
            x: `(n, H, W, in)` float32, contiguous; `H - 2` and `W - 2` are multiples of `TILE`.

        Returns:
            `(n, H - 2, W - 2, out)`.
        """
        number, height, width, channels = x.shape
        result = x.new_empty((number, height - 2, width - 2, self.weight.shape[2]))
        size = max(CHUNK // (height * width * channels * 2), 1)
        for part, target in zip(torch.split(x, size), torch.split(result, size), strict=True):
            self._convolve(part, target)
        return result

    def _convolve(self, x: Tensor, target: Tensor) -> None:
        tiles = x.unfold(1, TAPS, TILE).unfold(2, TAPS, TILE)
        number, down, across, channels = tiles.shape[:4]
        flat = tiles.permute(4, 5, 0, 1, 2, 3).reshape(TAPS, -1)
        rows = (self.inputs @ flat).view(TAPS, TAPS, -1)
        both = torch.matmul(self.inputs, rows).view(TAPS**2, -1, channels)
        products = torch.bmm(both, self.weight)
        rows = (self.results @ products.view(TAPS, -1)).view(TILE, TAPS, -1)
        made = torch.matmul(self.results, rows).view(TILE, TILE, number, down, across, -1)
        parts = target.view(number, down, TILE, across, TILE, -1)
        parts.copy_(made.permute(2, 3, 0, 4, 1, 5))
