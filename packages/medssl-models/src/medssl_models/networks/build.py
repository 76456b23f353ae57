"""From a card to a network without weights, whoever makes it: we, timm or a plug-in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from medssl_models.errors import ModelError, PluginError, SettingsError, did_you_mean
from medssl_models.networks.architectures import ARCHITECTURES, is_own
from medssl_models.networks.trunks import build_trunk
from medssl_models.plugins import load_plugins

if TYPE_CHECKING:
    from collections.abc import Callable

    from medssl_models.card import ModelCard

__all__ = ["build_network", "is_drawn"]


def is_drawn(card: ModelCard) -> bool:
    """Tell whether the weights are drawn from the card's seed, not made by who builds the network.

    A plug-in's own control brings its weights; `random:` in a name promises that we draw them.
    """
    return card.seed is not None and (is_own(card) or card.name.startswith("random:"))


def build_network(card: ModelCard) -> nn.Module:
    """Build the network of a card.

    Args:
        card: Its architecture decides who builds; padding and width are those of the card.

    Returns:
        In eval mode, with what `trunks.TrunkLike` asks for. Our networks are on the meta device;
        others have whatever weights their builder gives them.

    Raises:
        SettingsError: Nobody here builds this architecture.
        MissingExtraError: It is timm's, which is not installed.
        PluginError: A plug-in's builder failed, or gave something else.
    """
    if is_own(card):
        return build_trunk(card.architecture, padding=card.padding, width=card.width)
    return _checked(card, _build(card)).eval()


def _build(card: ModelCard) -> object:
    if card.architecture.startswith("timm:"):
        from medssl_models.networks.timm_models import build_timm

        return build_timm(card)
    for _, plugin in load_plugins():
        if plugin.build is not None and plugin.card.architecture == card.architecture:
            # For weights that we draw, a builder is given the card that it knows.
            return _call(plugin.build, plugin.card if is_drawn(card) else card, plugin.card.name)
    broken = "".join(f"; plug-in {p.name} is broken: {p.reason}" for p in load_plugins().broken)
    near = did_you_mean(card.architecture, ARCHITECTURES)
    message = f"architecture: {card.architecture!r} of {card.name} is unknown{near}{broken}"
    raise SettingsError(message)


def _call(build: Callable[[ModelCard], object], card: ModelCard, plugin: str) -> object:
    """Run a builder so that its failure names the plug-in."""
    try:
        return build(card)
    except ModelError:
        raise
    except Exception as error:
        message = f"model: plug-in {plugin} could not build its network: {error!r}"
        raise PluginError(message) from error


def _checked(card: ModelCard, network: object) -> nn.Module:
    wanted = ("layers", "layer_aliases", "feature_dim", "run")
    missing = [name for name in wanted if not hasattr(network, name)]
    if not isinstance(network, nn.Module) or missing:
        message = (
            f"model: the builder of {card.name} gave {type(network).__name__} without "
            f"{', '.join(missing) or 'being an nn.Module'}; "
            "see medssl_models.networks.trunks.TrunkLike"
        )
        raise PluginError(message)
    return network
