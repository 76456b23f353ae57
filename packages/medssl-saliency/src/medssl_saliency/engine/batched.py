"""Full inference for every window, in batches: for networks that cannot be updated locally.

Same interface as `IncrementalNetwork`. A network with BatchNorm in training mode is run on a copy,
one image at a time, so that no image sees another and nothing drifts.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from medssl_models.features.runtime import memory_format
from torch import Tensor, nn

from medssl_saliency.engine.planning import Tile, TilePlan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medssl_saliency.engine.graph import Pair

__all__ = ["BatchedNetwork", "depends_on_batch"]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
LARGEST_BATCH = 32
"""Larger batches are slower on a CPU."""
LIVE_MAPS = 24
"""Feature maps, in images of 64 channels at a quarter of the size, that one image may need."""


def depends_on_batch(network: nn.Module) -> bool:
    """Tell whether features depend on what else is in the batch: BatchNorm in training mode."""
    return any(module.training for module in network.modules() if isinstance(module, NORMS))


class BatchedNetwork:
    """A network that answers for one image with windows replaced, by running all of it.

    Args:
        network: `(N, 3, H, W)` to `(N, D)`; it is copied, never changed.
        image: `(3, H, W)` float32.
        precision: `torch.float32` or `torch.bfloat16`.

    Attributes:
        clean: `(D,)` float32, the features of the clean image.
    """

    def __init__(
        self, network: nn.Module, image: Tensor, *, precision: torch.dtype = torch.float32
    ) -> None:
        self.alone = depends_on_batch(network)
        self.network = copy.deepcopy(network).to(dtype=precision)
        self.layout = memory_format(network, image.device)
        self.network.to(memory_format=self.layout)
        for module in self.network.modules():
            if isinstance(module, NORMS):
                module.momentum = 0.0
        self.image, self.precision = image, precision
        with torch.inference_mode():
            self.clean = self._features(image[None])[0]

    def plan(
        self,
        positions: NDArray[np.int64],
        window: Pair,  # noqa: ARG002 # the interface of an engine
        *,
        memory: int,
        side: Pair | None = None,  # noqa: ARG002 # likewise
    ) -> TilePlan:
        """Cut windows into batches that fit into the memory."""
        image = self.image.numel() * self.precision.itemsize
        fitting = max(int(memory / (image * LIVE_MAPS)), 1)
        batch = 1 if self.alone else min(fitting, LARGEST_BATCH)
        tiles = tuple(
            Tile(positions[first : first + batch], (), (), float(len(positions[first:][:batch])))
            for first in range(0, len(positions), batch)
        )
        return TilePlan(tiles, (1, batch), 1.0, 1.0, batch * image * LIVE_MAPS)

    @torch.inference_mode()
    def run(self, tile: Tile, occluder: Tensor, window: Pair) -> Tensor:
        """Compute `(n, D)` float32 features with each window of a batch replaced."""
        shape = (len(tile.positions), -1, -1, -1)
        images = self.image.expand(shape).clone(memory_format=self.layout)
        for image, (top, left) in zip(images, tile.positions.tolist(), strict=True):
            where = (slice(None), slice(top, top + window[0]), slice(left, left + window[1]))
            image[where] = occluder[where]
        return self._features(images)

    def _features(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images.to(self.precision))
        return features.float()
