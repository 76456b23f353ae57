"""A fine-tuned backbone as a folder of the model library, so that every `-m DIR` takes it."""

from __future__ import annotations

import copy
import re
from importlib.metadata import version
from typing import TYPE_CHECKING

from medssl_models.conversion.model_folder import Origin, write_folder
from medssl_models.conversion.verification import prove

if TYPE_CHECKING:
    from pathlib import Path

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Preprocessing

__all__ = ["save_backbone"]


def save_backbone(
    trained: Backbone,
    source: Backbone,
    data: ImageDataset,
    folder: Path,
    *,
    preprocessing: Preprocessing,
    key: str,
) -> None:
    """Write a trained backbone without its linear layer; an existing folder is replaced.

    Args:
        trained: With the weights to keep.
        source: What it was before.
        data: What it was trained on.
        folder: As `create_model` takes it.
        preprocessing: How its images were prepared; it becomes the model's own.
        key: Of the experiment, 64 hexadecimal digits.
    """
    seen = re.sub(r"[^A-Za-z0-9]+", "-", data.name).strip("-")
    card = source.card.replace(
        name=f"{source.card.name}-{seen}-{key[:8]}",
        summary=f"{source.name}, fine-tuned on {data.name}",
        preprocessing=preprocessing,
        published_preprocessing=None,
        published_padding=source.card.padding,
        weights=(),
        aliases=(),
        control=False,
        seed=None,
        pretraining=(*source.card.pretraining, data.name),
        notes=(*source.card.notes, f"fine-tuned on {data.name}: do not test it on those images"),
    )
    state = {name: t.detach().cpu().contiguous() for name, t in trained.trunk.state_dict().items()}
    packages = ("medssl-models", "medssl-eval", "torch", "torchvision")
    origin = Origin(
        card=card,
        container="fine-tuning",
        sources={source.name: source.fingerprint},
        dropped={},
        versions={name: version(name) for name in packages},
        proof=prove(copy.deepcopy(trained.trunk).cpu(), state),
    )
    write_folder(folder, state, origin, force=True)
