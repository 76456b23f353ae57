"""Names of models that an experiment is to run: are all of them here, and which controls belong.

Everything is asked of cards; no weights are read and no torch is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_models.catalog import list_models, model_card, split_padding
from medssl_models.conversion.model_folder import read_origin
from medssl_models.hub.library import converted_folder, find_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_models.card import ModelCard

__all__ = ["check_models", "control_of"]


def check_models(names: Sequence[str]) -> None:
    """Say before anything is computed which models are not here.

    Args:
        names: As for `create_model`.

    Raises:
        UnknownModelError: No card and no folder has this name.
        MissingWeightsError: The weights must be brought; the message says from where.
    """
    for name in names:
        base, _ = split_padding(name)
        if converted_folder(base) is not None:
            continue
        card = model_card(base)
        if card.seed is None:
            find_weights(card)


def control_of(name: str) -> str | None:
    """Name the seeded, untrained control that has a model's architecture.

    Args:
        name: As for `create_model`.

    Returns:
        The control's name; None where there is none, or where the model is a control itself.

    Example:
        >>> control_of("moco-v2")
        'random_r50'
    """
    card = _card_of(name)
    if card.control:
        return None
    controls = [one for one in list_models() if one.control]
    fitting = (one.name for one in controls if one.architecture == card.architecture)
    return next(fitting, None)


def _card_of(name: str) -> ModelCard:
    base, _ = split_padding(name)
    folder = converted_folder(base)
    return read_origin(folder).card if folder else model_card(base)
