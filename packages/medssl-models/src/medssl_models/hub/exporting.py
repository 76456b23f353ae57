"""A model as a folder that others load: the Hugging Face layout, with timm's keys."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from medssl_models.backbone import create_model
from medssl_models.conversion import verification
from medssl_models.conversion.model_folder import (
    Origin,
    is_exact_elsewhere,
    read_origin,
    write_folder,
)
from medssl_models.hub.library import locate

if TYPE_CHECKING:
    from pathlib import Path

    from medssl_models.backbone import Backbone

__all__ = ["Export", "export_model"]


@dataclass(frozen=True)
class Export:
    """What an export did.

    Args:
        folder: The folder that was written.
        origin: The record in it.
        exact_elsewhere: Whether the network's own library, timm or torchvision, gives the same
            features with these weights; torchvision does not where a source pads as TensorFlow.
    """

    folder: Path
    origin: Origin
    exact_elsewhere: bool


def export_model(
    name: str, out: Path, *, library: Path | None = None, force: bool = False
) -> Export:
    """Write a model as `model.safetensors`, `config.json` and `README.md`.

    The folder is complete by itself: `create_model(str(out))` gives the same backbone, and
    `timm.create_model("local-dir:OUT")` loads it where timm knows the architecture.

    Args:
        name: As for `create_model`; `byol:torchvision` exports that padding.
        out: The folder to write; it appears only when all is well.
        library: Folder of models instead of `home() / "models"`.
        force: Replace `out` if it is there.

    Raises:
        SettingsError: `out` exists and `force` is off.
        MissingWeightsError: The weights are not here.

    Example:
        >>> export_model("random_r18", folder / "r18").exact_elsewhere
        True
        >>> create_model(str(folder / "r18")).name
        'random_r18'
    """
    backbone = create_model(name, library=library)
    state = {
        key: tensor.detach().clone(memory_format=torch.contiguous_format)
        for key, tensor in backbone.trunk.state_dict().items()
    }
    folder = locate(name, library=library).folder
    held = read_origin(folder) if folder else _origin_without_file(backbone)
    proof = verification.prove(backbone.trunk, state)
    origin = held.model_copy(update={"card": backbone.card, "proof": proof})
    write_folder(out, state, origin, force=force)
    return Export(out, origin, is_exact_elsewhere(backbone.card))


def _origin_without_file(backbone: Backbone) -> Origin:
    card = backbone.card
    return Origin(
        card=card,
        container="built by its plug-in" if card.seed is None else f"drawn from seed {card.seed}",
        sources={},
        dropped={},
        versions={name: version(name) for name in ("medssl-models", "torch", "torchvision")},
        proof=verification.prove(backbone.trunk, dict(backbone.trunk.state_dict())),
    )
