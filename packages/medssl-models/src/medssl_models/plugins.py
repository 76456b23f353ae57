"""Models of other packages: what an entry point of the group `medssl.models` gives.

A plug-in is a record with one callable. One that cannot be used is listed with the reason and
harms no other model. Importing this module imports no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medssl_models.card import ModelCard
    from medssl_models.networks.trunks import TrunkLike

__all__ = ["GROUP", "BrokenPlugin", "ModelPlugin", "Plugins", "foreign_code", "load_plugins"]

GROUP = "medssl.models"


@dataclass(frozen=True)
class ModelPlugin:
    """A model that another package adds; its entry point names one, or a list of them.

    Args:
        card: What is known about the model. Weights that it lists are fetched, imported, converted
            and verified as ours are, by the card's key map. Without any, `build` brings them.
        build: Returns the network for the card: an `nn.Module` with what `trunks.TrunkLike` asks
            for, such as a `tapped.TappedNetwork`. None where the card names one of our
            architectures.

    Example:
        The package's metadata:

            [project.entry-points."medssl.models"]
            our-encoder = "our_package:PLUGIN"
    """

    card: ModelCard
    build: Callable[[ModelCard], TrunkLike] | None = None


@dataclass(frozen=True)
class BrokenPlugin:
    """A plug-in that cannot be used: the entry point's name and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Plugins:
    """All plug-ins that are installed, the usable ones by the names of their entry points."""

    usable: Mapping[str, tuple[ModelPlugin, ...]]
    broken: tuple[BrokenPlugin, ...]

    def __iter__(self) -> Iterator[tuple[str, ModelPlugin]]:
        """Yield each usable plug-in with the name of its entry point."""
        return ((name, plugin) for name, plugins in self.usable.items() for plugin in plugins)


@contextmanager
def foreign_code() -> Iterator[None]:
    """Run what another package brings: stdout stays ours, and its wish to exit is its failure.

    Raises:
        RuntimeError: It called `sys.exit`.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except SystemExit as stop:
        message = f"it would end the program with {stop.code!r}"
        raise RuntimeError(message) from stop


@cache
def load_plugins() -> Plugins:
    """Load every entry point of the group; asked for once in a process."""
    usable: dict[str, tuple[ModelPlugin, ...]] = {}
    broken: list[BrokenPlugin] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            with foreign_code():
                usable[entry.name] = _plugins_of(entry)
        except Exception as error:  # noqa: BLE001 # another package's code may raise anything
            broken.append(BrokenPlugin(entry.name, f"{type(error).__name__}: {error}"))
    return Plugins(usable, tuple(broken))


def _plugins_of(entry: EntryPoint) -> tuple[ModelPlugin, ...]:
    value = entry.load()
    plugins = tuple(value) if isinstance(value, Iterable) else (value,)
    for plugin in plugins:
        if not isinstance(plugin, ModelPlugin):
            message = f"{entry.value} is {type(plugin).__name__}, expected a ModelPlugin"
            raise TypeError(message)
    return plugins
