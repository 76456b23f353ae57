"""The generator and the step as the study ran them, layer by layer: what ours is held against.

For our tests and benchmarks, and for whoever wants to check a prior of their own. Slow on purpose:
nothing is folded, split or laid out anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from medssl_dip.prior import Hourglass
    from medssl_dip.settings import GeneratorSettings

__all__ = ["PlainHourglass", "load_from"]


class PlainHourglass(nn.Module):
    """The hourglass in torch's own layers, in the order of the protocol page (G.1).

    Args:
        settings: The shape.

    Example:
        >>> from medssl_dip.settings import GeneratorSettings
        >>> sum(p.numel() for p in PlainHourglass(GeneratorSettings()).parameters())
        2606763
    """

    def __init__(self, settings: GeneratorSettings) -> None:
        super().__init__()
        inner: nn.Module | None = None
        for index in reversed(range(len(settings.channels))):
            inner = _PlainLevel(settings, index, inner)
        assert inner is not None  # noqa: S101 # settings have at least one level
        self.levels = inner
        self.output = nn.Conv2d(settings.channels[0], 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Draw from the fixed input: (1, C, S, S) to (1, 3, S, S)."""
        drawn: Tensor = self.output(self.levels(x))
        return drawn


class _PlainLevel(nn.Module):
    def __init__(self, settings: GeneratorSettings, index: int, inner: nn.Module | None) -> None:
        super().__init__()
        channels, kernel, slope = settings.channels[index], settings.kernels[index], settings.slope
        width = settings.channels[index - 1] if index else settings.input_channels
        below = channels if inner is None else settings.channels[index + 1]
        self.skip = nn.Sequential(*_block(width, settings.skip_channels, 1, slope))
        conv, *after = _block(width, channels, kernel, slope)
        self.main = nn.Sequential(conv, nn.AvgPool2d(2), *after)
        self.main.extend(_block(channels, channels, kernel, slope))
        self.inner = inner if inner is not None else nn.Identity()
        self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")
        self.join = nn.Sequential(
            nn.BatchNorm2d(settings.skip_channels + below),
            *_block(settings.skip_channels + below, channels, kernel, slope),
            *_block(channels, channels, 1, slope),
        )

    def forward(self, x: Tensor) -> Tensor:
        main = self.enlarge(self.inner(self.main(x)))
        joined: Tensor = self.join(torch.cat([self.skip(x), main], dim=1))
        return joined


def _block(channels_in: int, channels_out: int, kernel: int, slope: float) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, kernel, padding=(kernel - 1) // 2),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(slope),
    ]


@torch.no_grad()
def load_from(plain: PlainHourglass, prior: Hourglass) -> Tensor:
    """Copy the weights of a prior into a plain hourglass, in place.

    Returns:
        The prior's fixed input.
    """
    ours = prior.state_dict()
    level, index = plain.levels, 0
    while isinstance(level, _PlainLevel):
        name = f"levels.{index}"
        pairs = {
            "skip": level.skip[0],
            "skip_norm": level.skip[1],
            "halve": level.main[0],
            "halve_norm": level.main[2],
            "refine": level.main[4],
            "refine_norm": level.main[5],
            "join_norm": level.join[0],
            "join": level.join[1],
            "join_out": level.join[2],
            "mix": level.join[4],
            "mix_norm": level.join[5],
        }
        for part, module in pairs.items():
            _copy(module, ours, f"{name}.{part}")
        level, index = level.inner, index + 1
    _copy(plain.output, ours, "output")
    return prior.input


def _copy(module: nn.Module, state: dict[str, Tensor], name: str) -> None:
    for kind in ("weight", "bias"):
        module.get_parameter(kind).copy_(state[f"{name}.{kind}"])
