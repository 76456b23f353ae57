"""Which models there are, and what a name means: cards, plug-ins, the library, timm, controls.

A model has one name. Whatever a user types for it (an alias, a short name of timm, a folder, a
padding behind it) is resolved here, once; backbones, records and tables bear what comes out. No
weights are read, and torch is not imported unless a plug-in or timm does it.
"""

from __future__ import annotations

import contextlib
import os
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, cast, get_args

from pydantic import ValidationError

from medssl_models.card import KeyMap, ModelCard, Padding
from medssl_models.conversion.model_folder import (
    CONFIG,
    WEIGHTS,
    folder_name,
    model_folder_of,
    read_origin,
)
from medssl_models.errors import (
    CardError,
    CheckpointError,
    ModelError,
    SettingsError,
    UnknownModelError,
    did_you_mean,
)
from medssl_models.files import expand, models_folder
from medssl_models.networks.architectures import is_own
from medssl_models.plugins import BrokenPlugin, load_plugins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from importlib.resources.abc import Traversable
    from pathlib import Path

    from medssl_models.protocols import ProtocolName

__all__ = [
    "ResolvedModel",
    "available_models",
    "broken_plugins",
    "control_of",
    "converted_folder",
    "list_models",
    "model_card",
    "read_card",
    "resolve",
    "split_padding",
]

_TIMM, _RANDOM = "timm:", "random:"


# ------------------------------------------------------------------------------ what a name means


@dataclass(frozen=True)
class ResolvedModel:
    """What a name means.

    Args:
        name: The one name of the model: of backbones, records, tables and lookups. A padding
            stands behind it (`byol:torchvision`) where it is not the model's own, so that it means
            the same card without a protocol.
        card: With that padding.
        folder: Where its weights lie, or would lie; None where it is made with its weights.
    """

    name: str
    card: ModelCard
    folder: Path | None

    @property
    def is_here(self) -> bool:
        """Whether the model can be created now."""
        return self.folder is None or (self.folder / WEIGHTS).is_file()


def resolve(
    name: str, *, protocol: ProtocolName = "corrected", library: Path | None = None
) -> ResolvedModel:
    """Find what a name means; every command and function that takes a model's name asks here.

    Args:
        name: A card's name or alias (`moco-v2`); `timm:NAME`, whose tag may be left out; the name
            of a model in the library; `random:ARCHITECTURE`, the untrained control of any
            architecture (`random:timm:NAME`); or the path of a converted folder, with a separator
            in it (`./NAME`). `:torchvision` behind it chooses that padding.
        protocol: `published` takes the padding that the 2022 study used where `name` chooses none.
        library: Folder of models instead of `home() / "models"`.

    Raises:
        UnknownModelError: No such name; close matches are listed.
        MissingExtraError: It is timm's, which is not installed.
        SettingsError: The network has no choice of paddings.
        CheckpointError: The path is that of a folder, but of no converted model.

    Example:
        >>> resolve("simclr", protocol="published").name
        'simclr-v1:torchvision'
        >>> resolve("random:resnet50").name
        'random_r50'
    """
    base, padding = split_padding(name)
    path = converted_folder(base)
    card, folder = (read_origin(path).card, path) if path else _find(base, library)
    padded = _padded(card, padding, protocol)
    shown = card.name if padded.padding == card.padding else f"{card.name}:{padded.padding}"
    return ResolvedModel(shown, padded, folder)


def model_card(name: str, *, library: Path | None = None) -> ModelCard:
    """Find a card by name or alias, without a padding and not by a path; see `resolve`.

    Raises:
        UnknownModelError: No card has this name; the message lists close matches.
        MissingExtraError: The name is `timm:NAME` and timm is not installed.

    Example:
        >>> model_card("random_r18").feature_dim
        512
    """
    return _find(name, library)[0]


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


def converted_folder(name: str) -> Path | None:
    """Return the folder that a name means, if it is the path of a converted model.

    A path has a separator in it (`./NAME`, `exported/NAME`), so that no folder that happens to lie
    in the working directory takes the place of a card.

    Raises:
        CheckpointError: The path is that of a folder, but of no converted model.
    """
    if name not in {".", ".."} and not {"/", os.sep}.intersection(name):
        return None
    folder = expand(name)
    # Unlike the methods of Path, these take text that no file can be called.
    if os.path.isfile(folder / CONFIG):  # noqa: PTH113
        return folder
    if os.path.isdir(folder):  # noqa: PTH112
        message = f"model: {name!r} is a folder without {CONFIG}; is it a converted model?"
        raise CheckpointError(message)
    return None


def _find(name: str, library: Path | None) -> tuple[ModelCard, Path | None]:
    """Find a card, and where its weights belong, by a name that is no path."""
    cards = _catalogue()[0].values()
    card = next((card for card in cards if name in card.names), None)
    if card is not None:
        return card, _place(card, library)
    for folder, kept in _kept_models(library).items():
        if name in {kept.name, folder.name}:
            return kept, folder
    if name.startswith(_RANDOM):
        return _control(name.removeprefix(_RANDOM), library), None
    if name.startswith(_TIMM):
        return _find_timm(name, library)
    raise _unknown(name, [known for card in cards for known in card.names])


def _find_timm(name: str, library: Path | None) -> tuple[ModelCard, Path | None]:
    from medssl_models.networks.timm_models import full_name, timm_card

    full = full_name(name)
    if full != name:
        return _find(full, library)
    card = timm_card(full)
    return card, _place(card, library)


def _place(card: ModelCard, library: Path | None) -> Path | None:
    return model_folder_of(card, library=library) if card.needs_file else None


def _unknown(name: str, known: Iterable[str]) -> UnknownModelError:
    broken = "".join(f"; plug-in {p.name} is broken: {p.reason}" for p in broken_plugins())
    here = os.path.isdir(name)  # noqa: PTH112 # as above
    folder = f"; a folder is named by its path: ./{name}" if here else ""
    message = f"model: {name!r} is unknown{folder or did_you_mean(name, known)}{broken}"
    return UnknownModelError(message)


def _padded(card: ModelCard, asked: Padding | None, protocol: ProtocolName) -> ModelCard:
    """Set the padding that was asked for, else that of the protocol."""
    if not is_own(card):
        if asked not in {None, card.padding}:
            message = f"model: {card.name} pads as its own code does; leave out :{asked}"
            raise SettingsError(message)
        return card
    padding = asked or (card.published_padding if protocol == "published" else card.padding)
    return card if padding == card.padding else card.replace(padding=padding)


# -------------------------------------------------------------------------- which models there are


def list_models(*, library: Path | None = None) -> list[ModelCard]:
    """List the cards of all models that are known by name, in the order of their names.

    They are ours, those of plug-ins, what was imported from timm, other converted folders in the
    library, and a control of each architecture among them. The rest of timm is not listed.

    Args:
        library: Folder of models instead of `home() / "models"`.

    Example:
        >>> [card.name for card in list_models() if card.name.startswith("moco")]
        ['moco-v1', 'moco-v2', 'moco-v3']
    """
    return [model.card for model in _all(library)]


def available_models(*, library: Path | None = None) -> list[str]:
    """Name every model that can be created now: what was imported, and the untrained controls.

    Args:
        library: Folder of models instead of `home() / "models"`.

    Example:
        >>> "random_r50" in available_models()
        True
    """
    return [model.name for model in _all(library) if model.is_here]


def _all(library: Path | None) -> list[ResolvedModel]:
    places = {card: _place(card, library) for card in _catalogue()[0].values()}
    places |= {card: folder for folder, card in _kept_models(library).items()}
    controlled = {card.architecture for card in places if card.control}
    for card in list(places):
        if card.architecture not in controlled:
            controlled.add(card.architecture)
            with contextlib.suppress(CardError):
                places[_untrained(card)] = None
    found = (ResolvedModel(card.name, card, folder) for card, folder in places.items())
    return sorted(found, key=lambda model: model.name)


def _kept_models(library: Path | None) -> dict[Path, ModelCard]:
    """Find the models in the library that no card describes, by their folders."""
    listed = {name for card in _catalogue()[0].values() for name in card.names}
    found: dict[str, Path] = {}
    cards: dict[Path, ModelCard] = {}
    root = models_folder(library)
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if folder.name in listed or not (folder / WEIGHTS).is_file():
            continue
        with contextlib.suppress(CheckpointError):
            card = cards[folder] = read_origin(folder).card
            if folder.name == folder_name(card.name) or card.name not in {*found, *listed}:
                found[card.name] = folder
    return {folder: cards[folder] for folder in found.values()}


def broken_plugins() -> list[BrokenPlugin]:
    """List the plug-ins that cannot be used, with the reasons."""
    return list(_catalogue()[1])


# --------------------------------------------------------------------------------------- controls


def control_of(
    name: str, *, library: Path | None = None, say: Callable[[str], None] | None = None
) -> str | None:
    """Name the seeded, untrained control that has a model's architecture.

    Args:
        name: As for `resolve`.
        library: Folder of models instead of `home() / "models"`.
        say: Takes the reason where a model that is no control itself has none.

    Returns:
        The control's name; None where there is none, or where the model is a control itself.

    Example:
        >>> control_of("moco-v2")
        'random_r50'
    """
    card = resolve(name, library=library).card
    if card.control:
        return None
    try:
        return _control(card.architecture, library).name
    except ModelError as error:
        if say is not None:
            say(f"{card.name} has no untrained control: {error}")
        return None


def _control(architecture: str, library: Path | None) -> ModelCard:
    """Return the card of the control of an architecture.

    Raises:
        UnknownModelError: No model here has this architecture, and it is not timm's either.
        MissingExtraError: It is timm's, which is not installed.
        CardError: The architecture's name cannot be part of a model's.
    """
    cards = list_models(library=library)
    alike = [card for card in cards if card.architecture == architecture]
    control = next((card for card in alike if card.control), None)
    if control is not None:
        return control
    if architecture.startswith(_TIMM):
        from medssl_models.networks.timm_models import full_name, timm_card

        full = full_name(architecture, pretrained=False)
        if full != architecture:
            return _control(full, library)
        return _untrained(timm_card(full, pretrained=False))
    if alike:
        return _untrained(alike[0])
    known = {card.architecture for card in cards}
    message = f"architecture: {architecture!r} is unknown here{did_you_mean(architecture, known)}"
    raise UnknownModelError(message)


def _untrained(card: ModelCard) -> ModelCard:
    """Make the card of the control of a model: the same network and input, weights from a seed."""
    try:
        return card.replace(
            name=f"{_RANDOM}{card.architecture}",
            summary=f"Untrained {card.architecture}, a control: what it separates needs no "
            "pretraining",
            published_preprocessing=None,
            weights=(),
            key_map=KeyMap(),
            licence="none needed: made on your machine from a seed",
            non_commercial=False,
            citation="",
            origin="medssl",
            aliases=(),
            pretraining=(),
            control=True,
            seed=0,
            notes=("Weights from PCG64; BatchNorm is calibrated on noise that resembles images.",),
        )
    except ValidationError as error:
        message = f"{card.architecture!r} cannot be part of a model's name"
        raise CardError(message) from error


# ------------------------------------------------------------------------------------------ cards


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
    """Return our cards and the plug-ins' by name; a plug-in that takes a name in use is broken."""
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
