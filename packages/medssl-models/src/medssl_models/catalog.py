"""Which models there are: our cards, found by name or alias; nothing is loaded."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, cast, get_args

from pydantic import ValidationError

from medssl_models.card import ModelCard, Padding
from medssl_models.errors import CardError, UnknownModelError
from medssl_models.matching import did_you_mean

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["list_models", "model_card", "read_card", "split_padding"]


def list_models() -> list[ModelCard]:
    """List the cards of all models, in the order of their names."""
    return [card for _, card in sorted(_own_cards().items())]


def model_card(name: str) -> ModelCard:
    """Find a card by name or alias.

    Raises:
        UnknownModelError: No card has this name; the message lists close matches.

    Example:
        >>> model_card("random_r18").feature_dim
        512
    """
    named = {known: card for card in list_models() for known in card.names}
    if name not in named:
        message = f"model: {name!r} is unknown{did_you_mean(name, named)}"
        raise UnknownModelError(message)
    return named[name]


def split_padding(name: str) -> tuple[str, Padding | None]:
    """Split `NAME:PADDING`; the padding is None where the name ends in none.

    Example:
        >>> split_padding("byol:torchvision")
        ('byol', 'torchvision')
    """
    base, _, padding = name.rpartition(":")
    if base and padding in get_args(Padding):
        return base, cast("Padding", padding)
    return name, None


def read_card(text: str, *, source: str) -> ModelCard:
    """Read a card from TOML.

    Args:
        text: The TOML document.
        source: What the text came from, for the message.

    Raises:
        CardError: The text is not TOML or not a valid card.
    """
    try:
        return ModelCard.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        message = f"{source}: not a valid model card: {error}"
        raise CardError(message) from error


@cache
def _own_cards() -> dict[str, ModelCard]:
    cards = [_read(file) for file in files("medssl_models").joinpath("cards").iterdir()]
    return {card.name: card for card in cards}


def _read(file: Traversable) -> ModelCard:
    return read_card(file.read_text(encoding="utf-8"), source=file.name)
