"""The deep image prior: an hourglass network whose weights are the picture.

A generator draws one picture and normalises by that picture alone. Nothing here knows a backbone or
a loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F  # noqa: N812 # the name that everybody knows
from torch import Tensor, nn

if TYPE_CHECKING:
    from medssl_dip.settings import GeneratorSettings

__all__ = ["Hourglass"]

# From this width on the resampling is worth folding into the convolution beside it; below, building
# the larger kernel costs more than it saves (measured on two CPU cores).
FOLD_FROM = 32


class Hourglass(nn.Module):
    """One hourglass generator with its fixed random input.

    Args:
        settings: The shape.
        seed: Draws the input and the initial weights.
        size: Side of the generated picture, a multiple of 2 ** levels.

    Raises:
        ValueError: `size` cannot be halved at every level.

    Example:
        >>> from medssl_dip.settings import GeneratorSettings
        >>> prior = Hourglass(GeneratorSettings(channels=(4, 4), kernels=(3, 3)), seed=0, size=8)
        >>> prior().shape
        torch.Size([1, 3, 8, 8])
    """

    input: Tensor
    levels: nn.ModuleList
    output: _Convolution

    def __init__(self, settings: GeneratorSettings, *, seed: int, size: int) -> None:
        super().__init__()
        step = 2 ** len(settings.channels)
        if size % step or size < 2 * step:
            message = f"size must be a multiple of {step} and at least {2 * step}, got {size}"
            raise ValueError(message)
        widths = (settings.input_channels, *settings.channels[:-1])
        self.levels = nn.ModuleList(
            _Level(width, settings, index) for index, width in enumerate(widths)
        )
        self.output = _Convolution(settings.channels[0], 3, 1)
        empty = torch.empty(1, settings.input_channels, size, size)
        self.register_buffer("input", empty.contiguous(memory_format=torch.channels_last))
        self._initialise(seed, settings.input_scale)

    def forward(self) -> Tensor:
        """Draw the picture.

        Returns:
            (1, 3, size, size), unbounded: nothing clips to [0, 1].
        """
        drawn: Tensor = self.output(self._descend(self.input, 0))
        return drawn

    def _descend(self, x: Tensor, index: int) -> Tensor:
        level = cast("_Level", self.levels[index])
        inner = level.down(x)
        if index + 1 < len(self.levels):
            inner = self._descend(inner, index + 1)
        return level.up(x, inner)

    @torch.no_grad()
    def _initialise(self, seed: int, scale: float) -> None:
        """Draw all numbers from the seed: torch's default law for convolutions."""
        generator = torch.Generator().manual_seed(seed)
        self.input.copy_(torch.rand(self.input.shape, generator=generator) * scale)
        for module in self.modules():
            if isinstance(module, _Convolution):
                bound = module.weight[0].numel() ** -0.5
                module.weight.uniform_(-bound, bound, generator=generator)
                module.bias.uniform_(-bound, bound, generator=generator)


class _Level(nn.Module):
    """One step of the hourglass: halve, leave the inside to the caller, double again."""

    def __init__(self, width: int, settings: GeneratorSettings, index: int) -> None:
        super().__init__()
        channels, kernel, slope = settings.channels[index], settings.kernels[index], settings.slope
        skip = settings.skip_channels
        inner = settings.channels[min(index + 1, len(settings.channels) - 1)]
        self.split = skip
        self.skip = _Convolution(width, skip, 1)
        self.skip_norm = _Norm(skip, slope)
        self.halve = _Convolution(width, channels, kernel)
        self.halve_norm = _Norm(channels, slope)
        self.refine = _Convolution(channels, channels, kernel)
        self.refine_norm = _Norm(channels, slope)
        self.join_norm = _Norm(skip + inner, None)
        self.join = _Convolution(skip + inner, channels, kernel)
        self.join_out = _Norm(channels, slope)
        self.mix = _Convolution(channels, channels, 1)
        self.mix_norm = _Norm(channels, slope)

    def down(self, x: Tensor) -> Tensor:
        """Halve: (1, width, S, S) -> (1, channels, S / 2, S / 2)."""
        x = self.halve_norm(self.halve.pooled(x))
        halved: Tensor = self.refine_norm(self.refine(x))
        return halved

    def up(self, x: Tensor, inner: Tensor) -> Tensor:
        """Double: join what came past the level with what came out of it.

        The concatenation of the description is split: a channel's statistics do not depend on its
        neighbours, nor on each value standing there four times, and a convolution is a sum over
        channels. So the inside is normalised before it is enlarged, and nothing is copied.
        """
        skip = self.join_norm(self.skip_norm(self.skip(x)), slice(None, self.split))
        inner = self.join_norm(inner, slice(self.split, None))
        joined = self.join.part(skip, self.split) + self.join.raised(inner, self.split)
        doubled: Tensor = self.mix_norm(self.mix(self.join_out(joined)))
        return doubled


class _Norm(nn.Module):
    """Normalise each channel by its own picture, then activate."""

    def __init__(self, channels: int, slope: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.slope = slope

    def forward(self, x: Tensor, part: slice = slice(None)) -> Tensor:
        x = F.batch_norm(x, None, None, self.weight[part], self.bias[part], training=True)
        return x if self.slope is None else F.leaky_relu(x, self.slope)


class _Convolution(nn.Module):
    """A convolution that keeps the size; what lies outside is zero."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(channels_out))
        self.margin = (kernel - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=self.margin)

    def part(self, x: Tensor, stop: int) -> Tensor:
        """Convolve the first `stop` input channels, with the bias."""
        return F.conv2d(x, self.weight[:, :stop], self.bias, padding=self.margin)

    def pooled(self, x: Tensor) -> Tensor:
        """Convolve, then average 2 x 2: as one convolution of stride 2 where that pays."""
        if x.shape[-1] < FOLD_FROM:
            return F.avg_pool2d(self(x), 2)
        weight = _sum_2x2(self.weight) / 4
        return F.conv2d(x, weight, self.bias, stride=2, padding=self.margin)

    def raised(self, x: Tensor, start: int) -> Tensor:
        """Enlarge twofold by repetition, then convolve the channels from `start`; no bias.

        As one transposed convolution where that pays: it never sees the repeated values.
        """
        weight = self.weight[:, start:]
        if x.shape[-1] < FOLD_FROM:
            large = F.interpolate(x, scale_factor=2, mode="nearest")
            return F.conv2d(large, weight, padding=self.margin)
        kernel = _sum_2x2(weight.flip(-2, -1)).transpose(0, 1)
        return F.conv_transpose2d(x, kernel, stride=2, padding=self.margin)


def _sum_2x2(weight: Tensor) -> Tensor:
    """Convolve kernels (..., K, K) with a 2 x 2 square of ones: (..., K + 1, K + 1)."""
    wide = F.pad(weight, (0, 1)) + F.pad(weight, (1, 0))
    return F.pad(wide, (0, 0, 0, 1)) + F.pad(wide, (0, 0, 1, 0))
