"""Tiny models and weights files with the real names, for our tests and for plug-in authors.

Files of other frameworks are written by `testing.checkpoints`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medssl_models.backbone import Backbone
from medssl_models.card import ModelCard
from medssl_models.networks.architectures import ARCHITECTURES, FULL_WIDTH
from medssl_models.networks.controls import initialise
from medssl_models.networks.trunks import build_trunk
from medssl_models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["shrunken", "tiny_backbone", "tiny_card", "tiny_state", "write_torch_checkpoint"]


def tiny_card(name: str = "tiny", *, architecture: str = "resnet18", width: int = 2) -> ModelCard:
    """Describe a network of the real layout with a few channels, as a control with seed 0."""
    return ModelCard(
        name=name,
        summary="A tiny network for tests",
        architecture=architecture,
        width=width,
        feature_dim=ARCHITECTURES[architecture].feature_dim * width // FULL_WIDTH,
        preprocessing=Preprocessing.model_validate(
            {"resize": 36, "crop": 32, "normalisation": {"kind": "imagenet"}}
        ),
        licence="none needed",
        control=True,
        seed=0,
    )


def shrunken(card: ModelCard, *, width: int = 2) -> ModelCard:
    """Return the same card for a network with a few channels: same names, padding, key map.

    Its files are others than the published ones, so nothing is known of their hashes and sizes.
    """
    unknown = dict.fromkeys(("sha256", "sha256_start", "size"))
    return card.replace(
        width=width,
        feature_dim=card.feature_dim * width // FULL_WIDTH,
        weights=tuple(file.model_copy(update=unknown) for file in card.weights),
    )


def tiny_backbone(*, architecture: str = "resnet18", width: int = 2, seed: int = 0) -> Backbone:
    """Build a frozen backbone with a few channels and seeded weights, in milliseconds."""
    card = tiny_card(architecture=architecture, width=width).replace(seed=seed)
    return Backbone(card, initialise(build_trunk(architecture, width=width), seed=seed))


def tiny_state(card: ModelCard, *, seed: int = 0) -> dict[str, Tensor]:
    """Make seeded weights for a card's network, by torchvision's names."""
    return dict(
        initialise(build_trunk(card.architecture, width=card.width), seed=seed).state_dict()
    )


def write_torch_checkpoint(
    path: Path,
    card: ModelCard,
    state: dict[str, Tensor],
    *,
    extra: dict[str, Tensor] | None = None,
    legacy: bool = False,
) -> None:
    """Write weights as the training code behind a card saves them.

    Args:
        path: The file.
        card: Says the prefix and the entry that holds the weights.
        state: By torchvision's names.
        extra: Further tensors beside the weights, by their full names: heads, queues.
        legacy: In the format of torch before 1.6.
    """
    key_map = card.key_map
    named = {key_map.prefix + name: tensor for name, tensor in state.items()} | (extra or {})
    whole = {"epoch": 1, "arch": card.architecture, key_map.top_level: named}
    document = whole if key_map.top_level else named
    torch.save(document, path, _use_new_zipfile_serialization=not legacy)
