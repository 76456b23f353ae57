"""The local folder of models: where it lies, what is in it, how weights get in and out.

Importing this module imports no torch; the functions that read or write weights do.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from platformdirs import user_cache_path

from medssl_models.errors import CheckpointError, MissingWeightsError, SettingsError
from medssl_models.model_folder import CONFIG, WEIGHTS, read_origin, read_state

if TYPE_CHECKING:
    from torch import nn

    from medssl_models.card import ModelCard
    from medssl_models.conversion import Conversion

__all__ = [
    "converted_folder",
    "find_weights",
    "home",
    "import_model",
    "is_imported",
    "load_weights",
    "missing_weights",
    "model_folder_of",
    "models_folder",
]


def home() -> Path:
    """Folder of everything that is kept: `MEDSSL_HOME`, else the platform's cache folder.

    Models lie in `home() / "models" / NAME`, features in `home() / "features"`. The folder is
    not created here, so that a read-only home works for reading.
    """
    chosen = os.environ.get("MEDSSL_HOME")
    return Path(chosen).expanduser() if chosen else user_cache_path("medssl")


def models_folder(library: Path | None = None) -> Path:
    """Folder that holds one folder for each imported model."""
    return library if library is not None else home() / "models"


def model_folder_of(card: ModelCard, *, library: Path | None = None) -> Path:
    """Where a model's weights lie, or would lie."""
    # A colon, as in timm:NAME, is no part of a file's name everywhere.
    return models_folder(library) / card.name.replace(":", "--")


def is_imported(card: ModelCard, *, library: Path | None = None) -> bool:
    """Tell whether a model can be created now: it needs no file, or its weights are here."""
    return not card.needs_file or (model_folder_of(card, library=library) / WEIGHTS).is_file()


def converted_folder(name: str) -> Path | None:
    """Give the folder that a name means, if it is the path of a converted model."""
    folder = Path(name).expanduser()
    if (folder / CONFIG).is_file():
        return folder
    if os.sep in name and folder.is_dir():
        message = f"model: {name!r} is a folder without {CONFIG}; is it a converted model?"
        raise CheckpointError(message)
    return None


def find_weights(card: ModelCard, *, library: Path | None = None) -> Path:
    """Find the folder of a model that was imported.

    Raises:
        MissingWeightsError: It was not; says what to do.
        CheckpointError: The folder holds another model.
    """
    folder = model_folder_of(card, library=library)
    if not is_imported(card, library=library):
        raise missing_weights(card, library=library)
    held = read_origin(folder).card
    if held.name != card.name or held.architecture != card.architecture:
        message = (
            f"{folder}: holds {held.name} ({held.architecture}), not {card.name}; "
            f"run medssl-models import {card.name} FILE --force"
        )
        raise CheckpointError(message)
    return folder


def load_weights(trunk: nn.Module, folder: Path) -> None:
    """Put the weights of a converted folder into a trunk without weights, in place.

    Raises:
        CheckpointError: The file is damaged, or its tensors are not this network's.
    """
    try:
        trunk.load_state_dict(read_state(folder), assign=True)
    except RuntimeError as error:
        message = f"{folder / WEIGHTS}: not the weights of this network: {error}"
        raise CheckpointError(message) from error


def import_model(
    card: ModelCard, source: Path, *, library: Path | None = None, force: bool = False
) -> Conversion:
    """Convert a file that was brought by hand and keep it under the model's name.

    Nothing is there until all is well; of two processes that import the same name one waits.

    Args:
        card: Of the model that the file should be.
        source: The file as it was downloaded.
        library: Folder of models instead of `home() / "models"`.
        force: Replace weights that are there.

    Raises:
        CheckpointError: The file is damaged, unsafe, or not this model's checkpoint.
        SettingsError: The model takes no file, or is there and `force` is off.
    """
    from medssl_models.conversion import convert  # noqa: PLC0415 - imports torch

    if not card.needs_file:
        message = f"model: {card.name} is made with its weights; it takes no file"
        raise SettingsError(message)
    folder = model_folder_of(card, library=library)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{card.name}.lock")):
        return convert(source, card, folder, force=force)


def missing_weights(card: ModelCard, *, library: Path | None = None) -> MissingWeightsError:
    """Build the error that says where a model's weights are and how to bring them in."""
    addresses = " or ".join(card.addresses()) or card.origin
    message = (
        f"model: the weights of {card.name} are not in "
        f"{model_folder_of(card, library=library)}; download {addresses} "
        f"and run: medssl-models import {card.name} FILE"
    )
    return MissingWeightsError(message)
