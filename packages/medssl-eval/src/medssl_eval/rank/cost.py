"""What a model costs to run: time and operations for an image, parameters, memory."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from medssl_models import Backbone, ExtractionSettings
    from torch import Tensor, nn

__all__ = ["Cost", "measure_cost"]

BATCH, REPEATS = 8, 3


@dataclass(frozen=True)
class Cost:
    """What it takes to compute the features of an image.

    Args:
        milliseconds: For one image, network only, in batches of 8: the median of three.
        parameters: Number of weights.
        memory: Megabytes (10^6 bytes) of the weights and of the largest layer's input and output
            for one image, float32: what a device must hold at least.
        device: Where the time was taken.
        operations: Additions and multiplications of one image's products and convolutions, in
            billions: the same on every machine, however busy.
    """

    milliseconds: float
    parameters: int
    memory: float
    device: str
    operations: float = 0.0


def measure_cost(backbone: Backbone, extraction: ExtractionSettings) -> Cost:
    """Run a backbone on noise, as an extraction would run it.

    Args:
        backbone: The network; it is not changed.
        extraction: Device, precision and layer.
    """
    import torch
    from medssl_models.features.runtime import FeatureNetwork, resolve_device

    crop = backbone.preprocessing.crop
    device = resolve_device(extraction.device)
    network = FeatureNetwork.prepare(
        backbone, layer=extraction.layer, device=device, precision=extraction.precision, crop=crop
    )
    images = torch.rand((BATCH, 3, crop, crop), generator=torch.Generator().manual_seed(0))
    network(images)  # the first call also plans the kernels
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        network(images)  # comes back when the features are on the CPU
        seconds.append(time.perf_counter() - begin)
    weights = sum(parameter.numel() for parameter in backbone.parameters())
    largest = _largest_maps(network.backbone, lambda: network(images[:1]))
    return Cost(
        milliseconds=1000 * statistics.median(seconds) / BATCH,
        parameters=weights,
        memory=4 * (weights + largest) / 1e6,
        device=str(device),
        operations=_operations(lambda: network(images[:1])),
    )


def _operations(forward: Callable[[], Tensor]) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        forward()
    return float(counter.get_total_flops()) / 1e9


def _largest_maps(network: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Numbers in the input and output of the layer that has most of them."""
    sizes = [0]

    def note(_: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        sizes.append(sum(_numbers(item) for item in (*inputs, output)))

    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(note) for module in leaves]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return max(sizes)


def _numbers(item: object) -> int:
    count = getattr(item, "numel", None)
    return int(count()) if callable(count) else 0
