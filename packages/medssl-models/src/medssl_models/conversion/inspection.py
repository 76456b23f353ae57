"""What a weights file holds and which models it could be, before anything is converted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from medssl_models.catalog import list_models
from medssl_models.checkpoints.haiku_pickle import PickledArrays
from medssl_models.checkpoints.opening import open_checkpoint
from medssl_models.conversion.key_maps import plan
from medssl_models.errors import CheckpointError
from medssl_models.files import sha256_of
from medssl_models.networks.architectures import is_own
from medssl_models.networks.trunks import build_trunk

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from medssl_models.card import Container, ModelCard

__all__ = ["Inspection", "fitting_cards", "inspect_file"]

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Inspection:
    """What a weights file holds.

    Args:
        container: How its bytes are laid out, by content.
        sources: SHA-256 of each file that was read.
        size: Bytes of these files.
        top_level: First parts of the names of its tensors.
        tensors: Name to shape.
        fits: Names of the models whose weights these could be.
    """

    container: Container
    sources: Mapping[str, str]
    size: int
    top_level: tuple[str, ...]
    tensors: Mapping[str, tuple[int, ...]]
    fits: tuple[str, ...]


def inspect_file(path: Path) -> Inspection:
    """Inspect a weights file; nothing in it is run, nothing is written.

    Args:
        path: A file, or the folder of a TensorFlow checkpoint.

    Raises:
        CheckpointError: The file is damaged, unsafe, or of no known container.

    Example:
        >>> from medssl_models.catalog import model_card
        >>> from medssl_models.testing import shrunken, tiny_state, write_torch_checkpoint
        >>> card = shrunken(model_card("moco-v2"))  # in place of a published file, a tiny twin
        >>> write_torch_checkpoint(folder / "tiny.pth", card, tiny_state(card))
        >>> report = inspect_file(folder / "tiny.pth")
        >>> report.container, report.tensors["state_dict/module.encoder_q.conv1.weight"]
        ('torch', (2, 3, 7, 7))
    """
    opened = open_checkpoint(path)
    shapes = _shapes(opened.tensors)
    sources = {file.name: sha256_of(file) for file in opened.files}
    return Inspection(
        container=opened.container,
        sources=sources,
        size=sum(file.stat().st_size for file in opened.files),
        top_level=tuple(dict.fromkeys(name.split("/")[0].split(".")[0] for name in shapes)),
        tensors=shapes,
        fits=tuple(fitting_cards(shapes, sources)),
    )


def fitting_cards(shapes: Shapes, sources: Mapping[str, str]) -> list[str]:
    """Name the models that a file with these tensors could be; one whose hash agrees comes alone.

    Args:
        shapes: Name to shape of every tensor of the file.
        sources: File name to SHA-256.
    """
    cards = [card for card in list_models() if is_own(card)]
    known = [
        card.name for card in cards if {file.sha256 for file in card.weights} & {*sources.values()}
    ]
    return known or [card.name for card in cards if card.weights and _fits(shapes, card)]


def _shapes(tensors: Mapping[str, object]) -> Shapes:
    if isinstance(tensors, PickledArrays):  # its arrays are decoded when they are asked for
        return {name: tensors.shape(name) for name in tensors}
    return {name: tuple(getattr(tensor, "shape", ())) for name, tensor in tensors.items()}


def _fits(shapes: Shapes, card: ModelCard) -> bool:
    expected = _expected_sizes(card.architecture, card.width)
    try:
        used = plan(shapes, card.key_map, expected).used
    except CheckpointError:
        return False
    return all(math.prod(shapes[source]) == expected[name] for name, source in used.items())


@cache
def _expected_sizes(architecture: str, width: int) -> dict[str, int]:
    state = build_trunk(architecture, width=width).state_dict()
    return {name: tensor.numel() for name, tensor in state.items()}
