"""Networks some of whose layers have forgotten what they learnt, for tests of saliency maps.

Layers are drawn anew as `medssl_models.networks.controls` draws an untrained control, so that a
network all of whose layers are drawn anew is such a control.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from medssl_models import Backbone
from medssl_models.networks.controls import calibration_noise
from medssl_models.networks.trunks import Trunk
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["learnt_layers", "redraw"]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def learnt_layers(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Name the layers that have weights, from the input on.

    Args:
        network: A trunk; of any other network its children are the layers.

    Returns:
        Layer to the names of its modules.
    """
    if isinstance(network, Trunk):
        layers = {stage.layer: stage.modules for stage in network.stages}
    else:
        layers = {name: (name,) for name in _children(network)}
    return {
        layer: names
        for layer, names in layers.items()
        if any(any(True for _ in network.get_submodule(name).parameters()) for name in names)
    }


def redraw(backbone: Backbone, layers: Sequence[str], *, seed: int) -> Backbone:
    """Copy a backbone and draw some of its layers anew.

    Weights are He-uniform, biases zero, scales one; the statistics of BatchNorm are those of
    calibration noise under the new weights. What other layers have learnt stays.

    Args:
        backbone: It is not changed.
        layers: Out of `learnt_layers`.
        seed: Of the weights and of the noise.

    Returns:
        The copy, frozen; the layers are in its name.

    Example:
        >>> from medssl_models import create_model
        >>> redraw(create_model("random_r18"), ["layer4"], seed=1).name
        'random_r18 without layer4, seed 1'
    """
    network = copy.deepcopy(backbone.trunk)
    generator = torch.Generator().manual_seed(seed)
    drawn = list(_modules(network, layers))
    for module in drawn:
        for name, parameter in module.named_parameters(recurse=False):
            _draw(name, parameter, generator)
    _calibrate(network, [module for module in drawn if isinstance(module, BATCH_NORMS)], seed)
    every = len(layers) == len(learnt_layers(network))
    what = "every layer" if every else ", ".join(layers)
    name = f"{backbone.name} without {what}, seed {seed}"
    return Backbone(backbone.card, network, name=name)


def _children(network: nn.Module) -> Iterator[str]:
    """Name the children; those of an only child where there is but one."""
    prefix = ""
    children = dict(network.named_children())
    while len(children) == 1:
        (name, only), *_ = children.items()
        if not dict(only.named_children()):
            break
        prefix, children = f"{prefix}{name}.", dict(only.named_children())
    yield from (prefix + name for name in children)


def _modules(network: nn.Module, layers: Sequence[str]) -> Iterator[nn.Module]:
    modules: Mapping[str, tuple[str, ...]] = learnt_layers(network)
    for layer in layers:
        for name in modules[layer]:
            yield from network.get_submodule(name).modules()


@torch.no_grad()
def _draw(name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    if parameter.ndim > 1:
        nn.init.kaiming_uniform_(parameter, nonlinearity="relu", generator=generator)
    else:
        parameter.fill_(0.0 if name == "bias" else 1.0)


@torch.no_grad()
def _calibrate(network: nn.Module, norms: Sequence[nn.Module], seed: int) -> None:
    """Set the statistics of BatchNorms to those of noise, in float64 as the controls do."""
    before = [norm.momentum for norm in norms]
    network.double()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # type: ignore[assignment] # only BatchNorms are given
    if norms:
        network(calibration_noise(seed))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    network.float().eval()
