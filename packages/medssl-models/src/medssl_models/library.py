"""The local folder of models: where it lies, what it holds, how files get into it.

Importing this module imports no torch; reading and writing weights happens in the functions.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from medssl_models.errors import MissingWeightsError

if TYPE_CHECKING:
    from medssl_models.card import ModelCard

__all__ = ["home", "missing_weights"]


def home() -> Path:
    """Folder of everything that is kept: `MEDSSL_HOME`, else the platform's cache folder.

    Models lie in `home() / "models" / NAME`, features in `home() / "features"`. The folder is
    not created here, so that a read-only home works for reading.
    """
    chosen = os.environ.get("MEDSSL_HOME")
    return Path(chosen).expanduser() if chosen else user_cache_path("medssl")


def missing_weights(card: ModelCard, *, library: Path | None = None) -> MissingWeightsError:
    """Build the error that says where a model's weights are and how to bring them in."""
    folder = (library or home() / "models") / card.name
    addresses = " or ".join(card.addresses()) or card.origin
    message = (
        f"model: the weights of {card.name} are not in {folder}; download {addresses} "
        f"and run: medssl-models import {card.name} FILE"
    )
    return MissingWeightsError(message)
