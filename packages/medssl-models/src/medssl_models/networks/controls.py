"""Weights that need no file: seeded, the same on every machine, well scaled by their BatchNorm.

They are controls, not models: whatever an untrained network separates needs no pretraining.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from medssl_models.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["calibration_noise", "initialise"]

NetworkT = TypeVar("NetworkT", bound=nn.Module)

NOISE_IMAGES = 8
NOISE_SIDE = 64
NOISE_SCALES = {1: 1, 2: 1, 4: 2, 8: 3, 16: 4, 32: 6, 64: 8}
STATISTIC_BITS = 8
EMBEDDING_BOUND = 3**0.5 * 0.02
"""Of tokens and embeddings of positions, whose standard deviation is 0.02 in most transformers."""


@torch.no_grad()
def initialise(network: NetworkT, *, seed: int) -> NetworkT:
    """Fill a network with seeded random weights, in place.

    Weights of convolutions and linear layers are uniform with He's variance, drawn as 16-bit
    integers from PCG64, so that not even the last bit depends on the machine; biases are zero and
    normalisations do nothing. Other parameters are drawn likewise, with a standard deviation of
    0.02, unless the network's code makes them constant. BatchNorm statistics are those of
    `calibration_noise`, computed in float64 and rounded to 8 bits, which hides the last-bit
    differences between machines. torch's global generator is not touched.

    Args:
        network: As `build_network` returns it: without values on the meta device, or with any.
        seed: Of the weights and of the noise.

    Returns:
        The same network, on the CPU, float32, in eval mode.

    Raises:
        SettingsError: It has no weights that could be drawn.

    Example:
        >>> from medssl_models.networks.trunks import build_trunk
        >>> trunk = initialise(build_trunk("resnet18", width=2), seed=0)
        >>> trunk(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 16])
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    if next(network.parameters(), None) is None:
        message = f"network: {type(network).__name__} has no weights to draw"
        raise SettingsError(message)
    if any(parameter.is_meta for parameter in network.parameters()):
        network.to_empty(device="cpu")
    for module in network.modules():
        _fill(module, generator)
    _calibrate(network, calibration_noise(seed))
    return network.eval()


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


def _fill(module: nn.Module, generator: np.random.Generator) -> None:
    """Set the parameters that a module holds itself."""
    if isinstance(module, _BatchNorm | nn.LayerNorm | nn.GroupNorm):
        module.reset_parameters()
        return
    weighs = isinstance(module, _ConvNd | nn.Linear)
    for name, parameter in module.named_parameters(recurse=False):
        if weighs and name == "weight":
            _draw(parameter, generator, bound=(6 / parameter[0].numel()) ** 0.5)
        elif weighs and name == "bias":
            parameter.zero_()
        elif bool((parameter != parameter.flatten()[0]).any()):
            _draw(parameter, generator, bound=EMBEDDING_BOUND)


def _draw(weight: Tensor, generator: np.random.Generator, *, bound: float) -> None:
    """Draw uniform values in [-bound, bound)."""
    levels = generator.integers(-32768, 32767, weight.shape, dtype=np.int16, endpoint=True)
    weight.copy_(torch.from_numpy(levels.astype(np.float32) * np.float32(bound / 32768)))


def _norms(network: nn.Module) -> Iterator[_BatchNorm]:
    modules = (module for module in network.modules() if isinstance(module, _BatchNorm))
    return (norm for norm in modules if norm.running_mean is not None)


def _calibrate(network: nn.Module, noise: Tensor) -> None:
    norms = list(_norms(network))
    if not norms:
        return
    side = getattr(network, "fixed_side", None)
    noise = functional.interpolate(noise, size=side) if side else noise
    momenta = [norm.momentum for norm in norms]
    network.double().eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    network(noise)
    network.float()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        _round_statistics(norm)


def _round_statistics(norm: _BatchNorm) -> None:
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    fraction, exponent = torch.frexp(variance)
    variance.copy_(torch.ldexp(_to_bits(fraction), exponent))
    scale = torch.ldexp(torch.ones_like(mean), exponent // 2)
    mean.copy_(_to_bits(mean / scale) * scale)


def _to_bits(value: Tensor) -> Tensor:
    return value.mul(1 << STATISTIC_BITS).round().div(1 << STATISTIC_BITS)
