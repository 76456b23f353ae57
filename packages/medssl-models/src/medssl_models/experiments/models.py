"""Names of models that an experiment is to run: are all of them here, and which controls belong.

Everything is asked of cards; no weights are read and no torch is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_models.catalog import control_of, resolve
from medssl_models.errors import SettingsError
from medssl_models.hub.library import check_models

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from medssl_models.experiments.settings import ProtocolName

__all__ = ["check_models", "control_of", "distinct_models"]


def distinct_models(
    names: Iterable[str], *, protocol: ProtocolName = "corrected"
) -> dict[str, str]:
    """Find the one name of each model, under which its records are found.

    Args:
        names: As for `create_model`; a model that is named twice counts once.
        protocol: As for `create_model`.

    Returns:
        The name that records bear to the name for `create_model`, which may be a folder's path.

    Raises:
        UnknownModelError: No card and no folder has this name.
        SettingsError: Two folders hold models of one name, which no record could tell apart.

    Example:
        >>> distinct_models(["random_r18", "random:resnet50", "random_r50"])
        {'random_r18': 'random_r18', 'random_r50': 'random:resnet50'}
    """
    found: dict[str, str] = {}
    places: dict[str, Path | None] = {}
    for name in names:
        model = resolve(name, protocol=protocol)
        place = None if model.folder is None else model.folder.resolve()
        if places.setdefault(model.name, place) != place:
            message = f"models: {found[model.name]} and {name} are both called {model.name}"
            raise SettingsError(message)
        found.setdefault(model.name, name)
    return found
