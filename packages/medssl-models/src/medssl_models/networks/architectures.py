"""The networks of torchvision that we build ourselves, as data: what runs, in which order.

Importing this module imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medssl_models.card import ModelCard

__all__ = ["ARCHITECTURES", "FULL_WIDTH", "Architecture", "Stage", "is_own"]


@dataclass(frozen=True)
class Stage:
    """Modules that run one after another and end in a named layer."""

    layer: str
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Architecture:
    """A network of torchvision as data: its builder's name, what of it runs, in which order."""

    builder: str
    feature_dim: int
    stages: tuple[Stage, ...]
    aliases: Mapping[str, str]


_RESNET = (
    Stage("conv1", ("conv1", "bn1", "relu")),
    Stage("layer1", ("maxpool", "layer1")),
    Stage("layer2", ("layer2",)),
    Stage("layer3", ("layer3",)),
    Stage("layer4", ("layer4",)),
    Stage("pooled", ("avgpool", "flatten")),
)
_DENSENET = (
    Stage("conv0", ("features.conv0", "features.norm0", "features.relu0")),
    Stage("denseblock1", ("features.pool0", "features.denseblock1")),
    Stage("denseblock2", ("features.transition1", "features.denseblock2")),
    Stage("denseblock3", ("features.transition2", "features.denseblock3")),
    Stage("denseblock4", ("features.transition3", "features.denseblock4")),
    Stage("norm5", ("features.norm5",)),
    Stage("pooled", ("relu", "avgpool", "flatten")),
)
_RESNET_NAMES_OF_DENSENET = {
    "conv1": "conv0",
    "layer1": "denseblock1",
    "layer2": "denseblock2",
    "layer3": "denseblock3",
    "layer4": "denseblock4",
}

ARCHITECTURES: Mapping[str, Architecture] = {
    "resnet18": Architecture("resnet18", 512, _RESNET, {}),
    "resnet34": Architecture("resnet34", 512, _RESNET, {}),
    "resnet50": Architecture("resnet50", 2048, _RESNET, {}),
    "resnet101": Architecture("resnet101", 2048, _RESNET, {}),
    "densenet121": Architecture("densenet121", 1024, _DENSENET, _RESNET_NAMES_OF_DENSENET),
}
FULL_WIDTH = 64


def is_own(card: ModelCard) -> bool:
    """Tell whether we build a card's network, with the width, padding and seed that it says."""
    return card.architecture in ARCHITECTURES
