"""Weights that need no file: seeded, the same on every machine, well scaled by their BatchNorm.

They are controls, not models: whatever an untrained network separates needs no pretraining.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from medssl_models.networks.trunks import Trunk

__all__ = ["calibration_noise", "initialise"]

NOISE_IMAGES = 8
NOISE_SIDE = 64
NOISE_SCALES = {1: 1, 2: 1, 4: 2, 8: 3, 16: 4, 32: 6, 64: 8}
STATISTIC_BITS = 8


@torch.no_grad()
def initialise(trunk: Trunk, *, seed: int) -> Trunk:
    """Give a trunk without weights seeded random ones, in place.

    Weights are uniform with He's variance, drawn as 16-bit integers from PCG64, so that not even
    the last bit depends on the machine. BatchNorm statistics are those of `calibration_noise`,
    computed in float64 and rounded to 8 bits, which hides the last-bit differences between
    machines. torch's global generator is not touched.

    Args:
        trunk: On the meta device, as `build_trunk` gives it.
        seed: Of the weights and of the noise.

    Returns:
        The same trunk, on the CPU, float32, in eval mode.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    trunk.to_empty(device="cpu")
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            _draw(module.weight, generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    _calibrate(trunk, calibration_noise(seed))
    return trunk.eval()


def calibration_noise(seed: int) -> Tensor:
    """Draw noise that resembles images: rough at every scale, the coarse scales stronger, grey.

    White noise would leave the features of real images several times too large.

    Returns:
        `(8, 3, 64, 64)` float64 with about unit variance; every value is a small integer divided
        by a power of two, so exact on every machine.
    """
    generator = np.random.Generator(np.random.PCG64([seed, 1]))
    total = np.zeros((NOISE_IMAGES, 3, NOISE_SIDE, NOISE_SIDE))
    for scale, strength in NOISE_SCALES.items():
        side = NOISE_SIDE // scale
        grey = generator.integers(-256, 257, (NOISE_IMAGES, 1, side, side))
        colour = generator.integers(-256, 257, (NOISE_IMAGES, 3, side, side))
        total += strength * np.kron(2 * grey + colour, np.ones((1, 1, scale, scale)))
    return torch.from_numpy(total / 4096)


def _draw(weight: Tensor, generator: np.random.Generator) -> None:
    fan_in = weight[0].numel()
    levels = generator.integers(-32768, 32767, weight.shape, dtype=np.int16, endpoint=True)
    bound = np.float32((6 / fan_in) ** 0.5 / 32768)
    weight.copy_(torch.from_numpy(levels.astype(np.float32) * bound))


def _calibrate(trunk: Trunk, noise: Tensor) -> None:
    norms = [module for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    trunk.double().train()
    for norm in norms:
        norm.momentum = 1.0
    trunk(noise)
    trunk.float()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        _round_statistics(norm)


def _round_statistics(norm: nn.BatchNorm2d) -> None:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None  # noqa: S101 - narrows the type: torchvision's norms track statistics
    assert variance is not None  # noqa: S101
    fraction, exponent = torch.frexp(variance)
    variance.copy_(torch.ldexp(_to_bits(fraction), exponent))
    scale = torch.ldexp(torch.ones_like(mean), exponent // 2)
    mean.copy_(_to_bits(mean / scale) * scale)


def _to_bits(value: Tensor) -> Tensor:
    return value.mul(1 << STATISTIC_BITS).round().div(1 << STATISTIC_BITS)
