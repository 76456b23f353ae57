"""The local folder of models: where it lies, what is in it, how weights get in and out.

Importing this module imports no torch; the functions that read or write weights do.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from platformdirs import user_cache_path

from medssl_models.catalog import model_card
from medssl_models.conversion.model_folder import CONFIG, WEIGHTS, read_origin, read_state
from medssl_models.errors import (
    CheckpointError,
    DownloadError,
    LicenceError,
    MissingWeightsError,
    OfflineError,
    SettingsError,
)
from medssl_models.hub.downloads import Downloaded, download, refuse_offline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

    from medssl_models.card import ModelCard, WeightFile
    from medssl_models.console import Progress
    from medssl_models.conversion.convert import Conversion
    from medssl_models.hub.downloads import DownloadSettings

    _Get = Callable[[WeightFile, Mapping[str, str]], Downloaded]

__all__ = [
    "Fetched",
    "converted_folder",
    "fetch_model",
    "find_weights",
    "hold",
    "home",
    "import_model",
    "is_imported",
    "load_weights",
    "locate",
    "missing_weights",
    "model_folder_of",
    "models_folder",
]

# What `tempfile.mkdtemp` appends to a name.
_UNFINISHED = r"\.{name}\.[a-z0-9_]{{8}}(\.old)?"


@dataclass(frozen=True)
class Fetched:
    """What a fetch did.

    Attributes:
        folder: The model's folder.
        files: What was downloaded; empty where the model was here already.
        conversion: What was made of it; None where the model was here already.
    """

    folder: Path
    files: tuple[Downloaded, ...] = ()
    conversion: Conversion | None = None


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
    """Give the folder that a name means, if it is the path of a converted model.

    A path has a separator in it (`./NAME`, `exported/NAME`), so that no folder that happens to lie
    in the working directory takes the place of a card.

    Raises:
        CheckpointError: The path is that of a folder, but of no converted model.
    """
    if name not in {".", ".."} and not {"/", os.sep}.intersection(name):
        return None
    folder = Path(name).expanduser()
    if (folder / CONFIG).is_file():
        return folder
    if folder.is_dir():
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


def locate(name: str, *, library: Path | None = None) -> tuple[ModelCard, Path | None]:
    """Find what a name without padding means.

    Args:
        name: A card's name or alias, `timm:NAME`, or the path of a converted folder (`./NAME`).
        library: Folder of models instead of `home() / "models"`.

    Returns:
        The card, and the folder with the weights; None where the model needs no file.

    Raises:
        UnknownModelError: No such name.
        MissingWeightsError: The weights are not here.
        CheckpointError: The folder is not that of a converted model.
    """
    folder = converted_folder(name)
    if folder:
        return read_origin(folder).card, folder
    card = model_card(name)
    return card, find_weights(card, library=library) if card.needs_file else None


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
    from medssl_models.conversion.convert import convert

    if not card.needs_file:
        message = f"model: {card.name} is made with its weights; it takes no file"
        raise SettingsError(message)
    folder = model_folder_of(card, library=library)
    with hold(folder):
        return convert(source, card, folder, force=force)


def fetch_model(
    card: ModelCard,
    *,
    library: Path | None = None,
    mirror: str | None = None,
    accept_licence: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    settings: DownloadSettings | None = None,
) -> Fetched:
    """Download a model's files, convert them, and keep the result under the model's name.

    An interrupted download goes on where it was; the files are deleted once they are converted. An
    address whose file is not this model's checkpoint is given up for the next one, also where no
    hash is known. Of two processes that fetch one name, one waits and finds the model there.

    Args:
        card: Of the model.
        library: Folder of models instead of `home() / "models"`.
        mirror: Address of a folder with the published files, tried before the card's addresses.
        accept_licence: Needed where the licence forbids commercial use.
        force: Fetch a model anew that is here.
        progress: Shows how much has come.
        settings: How patient to be with a server.

    Raises:
        SettingsError: The model needs no file.
        LicenceError: The licence must be accepted first.
        OfflineError: Downloads are forbidden.
        DownloadError: No address gives this model's checkpoint; the message has the reasons.
    """
    folder = model_folder_of(card, library=library)
    _check_fetchable(card)
    if is_imported(card, library=library) and not force:
        return Fetched(find_weights(card, library=library))
    if card.non_commercial and not accept_licence:
        message = (
            f"model: {card.name} may not be used commercially ({card.licence}); "
            f"run: medssl-models fetch {card.name} --accept-licence"
        )
        raise LicenceError(message)
    place = folder.parent / ".downloads" / folder.name
    with hold(place):
        if is_imported(card, library=library) and not force:  # another process was first
            return Fetched(find_weights(card, library=library))
        return _fetch_and_convert(
            card,
            folder,
            place,
            lambda file, refused: download(
                file,
                place,
                mirror=mirror,
                refused=refused,
                progress=progress,
                settings=settings,
            ),
            force=force,
        )


def _fetch_and_convert(
    card: ModelCard, folder: Path, place: Path, get: _Get, *, force: bool
) -> Fetched:
    """Download and convert until an address has given the right files, or none is left."""
    from medssl_models.conversion.convert import convert

    refused: dict[str, str] = {}
    while True:
        files = _download_all(card, get, refused)
        try:
            with hold(folder):
                done = convert(
                    place if len(files) > 1 else files[0].path, card, folder, force=force
                )
        except CheckpointError as error:
            reason = f"it gave a wrong file, which was deleted ({error})"
            refused |= {file.url: reason for file in files if file.new}
            shutil.rmtree(place, ignore_errors=True)
        else:
            shutil.rmtree(place, ignore_errors=True)
            return Fetched(folder, files, done)


def _check_fetchable(card: ModelCard) -> None:
    if not card.needs_file:
        message = f"model: {card.name} needs no file, it is made with its weights"
        raise SettingsError(message)


def _download_all(card: ModelCard, get: _Get, refused: Mapping[str, str]) -> tuple[Downloaded, ...]:
    """Download a model's files; a failure says how to bring them by hand."""
    try:
        refuse_offline(f"cannot fetch {card.name}")
        return tuple(get(file, refused) for file in card.weights)
    except (OfflineError, DownloadError) as error:
        addresses = " or ".join(card.addresses())
        error.add_note(
            f"download {addresses} elsewhere and run: medssl-models import {card.name} FILE"
        )
        raise


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a folder of the library alone: others wait; what a killed process left is cleared."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        _clear_unfinished(folder)
        yield


def _clear_unfinished(folder: Path) -> None:
    """Remove unfinished folders beside one; the old one comes back if its successor did not."""
    pattern = re.compile(_UNFINISHED.format(name=re.escape(folder.name)))
    for entry in sorted(folder.parent.iterdir()):
        if not pattern.fullmatch(entry.name):
            continue
        if entry.suffix == ".old" and not folder.exists():
            entry.rename(folder)
        else:
            shutil.rmtree(entry, ignore_errors=True)


def missing_weights(card: ModelCard, *, library: Path | None = None) -> MissingWeightsError:
    """Build the error that says where a model's weights are and how to bring them in."""
    addresses = " or ".join(card.addresses()) or card.origin
    message = (
        f"model: the weights of {card.name} are not in "
        f"{model_folder_of(card, library=library)}; download {addresses} "
        f"and run: medssl-models import {card.name} FILE"
    )
    return MissingWeightsError(message)
