"""torchvision's own networks without their heads: named layers, and padding as the source pads.

The names and shapes of the tensors are torchvision's in every padding, so that any torchvision
checkpoint loads. What a trunk is worth is decided by its weights, which are not made here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from medssl_models.errors import LayerError, SettingsError, did_you_mean
from medssl_models.networks.architectures import ARCHITECTURES, FULL_WIDTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from medssl_models.card import Padding
    from medssl_models.networks.architectures import Stage

__all__ = ["Trunk", "TrunkLike", "build_trunk", "resolve_layers"]


class TrunkLike(Protocol):
    """What a backbone needs of a network; a `Trunk`, timm's networks and plug-ins have it.

    A network that takes images of one side only says so in an attribute `fixed_side`.
    """

    layers: tuple[str, ...]
    layer_aliases: Mapping[str, str]
    feature_dim: int

    def run(self, x: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Compute the outputs of some of `layers` for `(N, 3, H, W)` inputs, by name."""
        ...


class Trunk(nn.Module):
    """A network in named stages; its state dict has torchvision's names and no head.

    Args:
        children: Sub-modules by their torchvision names.
        stages: What runs, in order; the last stage gives the pooled features.
        aliases: Other names of layers.
        feature_dim: Dimension of the pooled features.
    """

    def __init__(
        self,
        children: Mapping[str, nn.Module],
        stages: tuple[Stage, ...],
        *,
        aliases: Mapping[str, str],
        feature_dim: int,
    ) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)
        self.stages = stages
        self.layers = tuple(stage.layer for stage in stages)
        self.layer_aliases = dict(aliases)
        self.feature_dim = feature_dim

    def run(self, x: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Run as deep as the deepest layer that is asked for.

        Args:
            x: `(N, 3, H, W)` floating.
            layers: Canonical names, out of `layers`.

        Returns:
            Outputs by name: `(N, C, h, w)` maps, `(N, D)` for `pooled`. `conv1` (`conv0`) is the
            stem after its normalisation and ReLU, before the max-pool.
        """
        wanted = set(layers)
        taps: dict[str, Tensor] = {}
        for stage in self.stages:
            if not wanted - taps.keys():
                break
            for path in stage.modules:
                x = self.get_submodule(path)(x)
            if stage.layer in wanted:
                taps[stage.layer] = x
        return taps

    def forward(self, x: Tensor) -> Tensor:
        """Compute the pooled features, `(N, D)`."""
        last = self.layers[-1]
        return self.run(x, (last,))[last]


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow's "SAME" does, by the size of its input."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 # torch's name
        padded = _pad_same(input, _pair(self.kernel_size), _pair(self.stride), value=0.0)
        return functional.conv2d(padded, weight, bias, self.stride, 0, self.dilation, self.groups)


class SameMaxPool2d(nn.MaxPool2d):
    """A max-pool that pads as TensorFlow's "SAME" does, with minus infinity."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 # torch's name
        """Pool `(N, C, H, W)` to `(N, C, ceil(H / stride), ceil(W / stride))`."""
        kernel, stride = _pair(self.kernel_size), _pair(self.stride)
        padded = _pad_same(input, kernel, stride, value=float("-inf"))
        return functional.max_pool2d(padded, kernel, stride)


# BYOL (Haiku) pads every strided layer as SAME; SimCLR pads its convolutions symmetrically, as
# torchvision does, and only its max-pool as SAME.
_SAME_KINDS: Mapping[str, tuple[type[nn.Module], ...]] = {
    "torchvision": (),
    "tf_same": (nn.Conv2d, nn.MaxPool2d),
    "tf_same_pool": (nn.MaxPool2d,),
}


def build_trunk(
    architecture: str, *, padding: Padding = "torchvision", width: int = FULL_WIDTH
) -> Trunk:
    """Build a network without weights, on torch's meta device; no random number is drawn.

    Args:
        architecture: A name in `ARCHITECTURES`.
        padding: `torchvision`; `tf_same` in all strided layers; `tf_same_pool` in the max-pool.
        width: Channels of the first layer; all others scale with it.

    Raises:
        SettingsError: The architecture is not known, or the width is not a power of two.
    """
    if architecture not in ARCHITECTURES:
        message = f"architecture: {architecture!r} is unknown" + did_you_mean(
            architecture, ARCHITECTURES
        )
        raise SettingsError(message)
    if FULL_WIDTH % width:
        message = f"width: {width} must divide {FULL_WIDTH}"
        raise SettingsError(message)
    plan = ARCHITECTURES[architecture]
    with torch.device("meta"):
        network = getattr(torchvision.models, plan.builder)(weights=None)
        _replace(network, FULL_WIDTH // width, _SAME_KINDS[padding])
    children = {name: child for name, child in network.named_children() if not _is_head(child)}
    children |= {
        "relu": children.get("relu", nn.ReLU()),
        "avgpool": nn.AdaptiveAvgPool2d((1, 1)),
        "flatten": nn.Flatten(),
    }
    trunk = Trunk(
        children,
        plan.stages,
        aliases=plan.aliases,
        feature_dim=plan.feature_dim * width // FULL_WIDTH,
    )
    return trunk.eval()


def resolve_layers(trunk: TrunkLike, layers: Iterable[str]) -> dict[str, str]:
    """Map the names that a caller used, aliases included, to the trunk's own.

    Raises:
        LayerError: A name is not a layer of the trunk, or none was given.
    """
    asked = {name: trunk.layer_aliases.get(name, name) for name in layers}
    for name, layer in asked.items():
        if layer not in trunk.layers:
            message = f"layer: {name!r} is unknown, this network has {', '.join(trunk.layers)}"
            raise LayerError(message)
    if not asked:
        message = f"layers: none was asked for, this network has {', '.join(trunk.layers)}"
        raise LayerError(message)
    return asked


def _is_head(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _pad_same(
    x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], *, value: float
) -> Tensor:
    """Pad `(N, C, H, W)` so that a layer gives ceil(size / stride), the odd row or column last."""
    sides: list[int] = []
    for size, k, s in zip(reversed(x.shape[-2:]), reversed(kernel), reversed(stride), strict=True):
        missing = max((-(-size // s) - 1) * s + k - size, 0)
        sides += [missing // 2, missing - missing // 2]
    return functional.pad(x, sides, value=value) if any(sides) else x


def _replace(network: nn.Module, shrink: int, same: tuple[type[nn.Module], ...]) -> None:
    """Put narrower and SAME-padded layers in the place of torchvision's, in place."""
    for path, module in list(network.named_modules()):
        substitute = _substitute(module, shrink, same)
        if substitute is not None:
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, substitute)


def _substitute(
    module: nn.Module, shrink: int, same: tuple[type[nn.Module], ...]
) -> nn.Module | None:
    if isinstance(module, nn.Conv2d):
        return _conv_like(module, shrink, same=nn.Conv2d in same)
    if isinstance(module, nn.BatchNorm2d) and shrink > 1:
        return nn.BatchNorm2d(module.num_features // shrink, eps=module.eps)
    if isinstance(module, nn.MaxPool2d) and nn.MaxPool2d in same:
        return SameMaxPool2d(module.kernel_size, module.stride)
    return None


def _conv_like(conv: nn.Conv2d, shrink: int, *, same: bool) -> nn.Conv2d | None:
    strided = max(conv.stride) > 1 and max(conv.kernel_size) > 1
    if shrink == 1 and not (same and strided):
        return None
    kind = SameConv2d if same and strided else nn.Conv2d
    return kind(
        conv.in_channels if conv.in_channels == 3 else conv.in_channels // shrink,
        conv.out_channels // shrink,
        _pair(conv.kernel_size),
        stride=_pair(conv.stride),
        padding=conv.padding if isinstance(conv.padding, str) else _pair(conv.padding),
        bias=conv.bias is not None,
    )
