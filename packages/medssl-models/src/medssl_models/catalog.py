"""Which models there are: our cards and those of plug-ins, found by name or alias.

No weights are read, and torch is not imported unless a plug-in or timm does it.
"""

from __future__ import annotations

import os
import tomllib
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, cast, get_args

from pydantic import ValidationError

from medssl_models.card import ModelCard, Padding
from medssl_models.errors import CardError, UnknownModelError
from medssl_models.plugins import BrokenPlugin, load_plugins
from medssl_models.suggestions import did_you_mean

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["broken_plugins", "list_models", "model_card", "read_card", "split_padding"]

# Models that are described when they are asked for: too many to list.
_NAMESPACES = {"timm": ("medssl_models.networks.timm_models", "timm_card")}


def list_models() -> list[ModelCard]:
    """List the cards of all models, in the order of their names; `timm:NAME` is not listed."""
    return [card for _, card in sorted(_catalogue()[0].items())]


def broken_plugins() -> list[BrokenPlugin]:
    """List the plug-ins that cannot be used, with the reasons."""
    return list(_catalogue()[1])


def model_card(name: str) -> ModelCard:
    """Find a card by name or alias.

    Raises:
        UnknownModelError: No card has this name; the message lists close matches.
        MissingExtraError: The name is `timm:NAME` and timm is not installed.

    Example:
        >>> model_card("random_r18").feature_dim
        512
    """
    namespace, _, rest = name.partition(":")
    if rest and namespace in _NAMESPACES:
        module, function = _NAMESPACES[namespace]
        found: ModelCard = getattr(import_module(module), function)(name)
        return found
    named = {known: card for card in list_models() for known in card.names}
    if name not in named:
        broken = "".join(f"; plug-in {p.name} is broken: {p.reason}" for p in broken_plugins())
        # Unlike Path.is_dir, this takes text that no file can be called.
        here = os.path.isdir(name)  # noqa: PTH112
        folder = f"; a folder is named by its path: ./{name}" if here else ""
        message = f"model: {name!r} is unknown{folder or did_you_mean(name, named)}{broken}"
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


def _catalogue() -> tuple[dict[str, ModelCard], list[BrokenPlugin]]:
    """Our cards and the plug-ins' by name; a plug-in that takes a name in use is broken."""
    plugins = load_plugins()
    cards, broken = dict(_own_cards()), list(plugins.broken)
    taken = {name for card in cards.values() for name in card.names}
    for entry, plugin in plugins:
        clash = taken.intersection(plugin.card.names)
        if clash:
            reason = f"its name {min(clash)!r} belongs to another model"
            broken.append(BrokenPlugin(entry, reason))
            continue
        cards[plugin.card.name] = plugin.card
        taken.update(plugin.card.names)
    return cards, broken


@cache
def _own_cards() -> dict[str, ModelCard]:
    cards = [_read(file) for file in files("medssl_models").joinpath("cards").iterdir()]
    return {card.name: card for card in cards}


def _read(file: Traversable) -> ModelCard:
    return read_card(file.read_text(encoding="utf-8"), source=file.name)
