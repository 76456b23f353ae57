"""The local folder of models: how weights get in and out, and whether they are here.

Importing this module imports no torch; the functions that read or write weights do.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import FileLock

from medssl_models.catalog import ResolvedModel, resolve
from medssl_models.conversion.model_folder import (
    WEIGHTS,
    model_folder_of,
    read_origin,
    read_state,
)
from medssl_models.errors import (
    CheckpointError,
    DownloadError,
    LicenceError,
    MissingWeightsError,
    OfflineError,
    SettingsError,
)
from medssl_models.files import clear_drafts
from medssl_models.hub.downloads import Downloaded, download, refuse_offline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from torch import nn

    from medssl_models.card import ModelCard, WeightFile
    from medssl_models.console import Progress
    from medssl_models.conversion.convert import Conversion
    from medssl_models.hub.downloads import DownloadSettings
    from medssl_models.protocols import ProtocolName

    _Get = Callable[[WeightFile, Mapping[str, str]], Downloaded]

__all__ = [
    "Fetched",
    "check_models",
    "fetch_model",
    "find_weights",
    "hold",
    "import_model",
    "is_imported",
    "load_weights",
    "locate",
    "missing_weights",
]


@dataclass(frozen=True)
class Fetched:
    """What a fetch did.

    Args:
        folder: The model's folder.
        files: What was downloaded; empty where the model was here already.
        conversion: What was made of it; None where the model was here already.
    """

    folder: Path
    files: tuple[Downloaded, ...] = ()
    conversion: Conversion | None = None


def is_imported(card: ModelCard, *, library: Path | None = None) -> bool:
    """Tell whether a model can be created now: it needs no file, or its weights are here."""
    return not card.needs_file or (model_folder_of(card, library=library) / WEIGHTS).is_file()


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


def locate(
    name: str, *, protocol: ProtocolName = "corrected", library: Path | None = None
) -> ResolvedModel:
    """Find what a name means, as `resolve` does, and make sure that the weights are here.

    Args:
        name: As for `resolve`.
        protocol: As for `resolve`.
        library: Folder of models instead of `home() / "models"`.

    Raises:
        UnknownModelError: No such name.
        MissingWeightsError: The weights are not here.
        CheckpointError: The folder is not that of a converted model.

    Example:
        >>> locate("random_r18").card.control
        True
    """
    model = resolve(name, protocol=protocol, library=library)
    if model.folder == model_folder_of(model.card, library=library):
        find_weights(model.card, library=library)
    return model


def check_models(names: Iterable[str]) -> None:
    """Make sure, before anything is computed, that all models are here.

    Args:
        names: As for `resolve`.

    Raises:
        UnknownModelError: No card and no folder has this name.
        MissingWeightsError: The weights must be brought; the message says from where.

    Example:
        >>> check_models(["random_r18", "random_r50:tf_same"])
    """
    for name in names:
        locate(name)


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
        force: Replace weights that are there; also take a file whose hash is not the published one.

    Raises:
        CheckpointError: The file is damaged, unsafe, or not this model's checkpoint.
        SettingsError: The model takes no file, or is there and `force` is off.

    Example:
        >>> from medssl_models.catalog import model_card
        >>> from medssl_models.testing import shrunken, tiny_state, write_torch_checkpoint
        >>> card = shrunken(model_card("moco-v2"))  # in place of a published file, a tiny twin
        >>> write_torch_checkpoint(folder / "tiny.pth", card, tiny_state(card))
        >>> import_model(card, folder / "tiny.pth").folder.name
        'moco-v2'
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
        clear_drafts(folder.parent)
        yield


def missing_weights(card: ModelCard, *, library: Path | None = None) -> MissingWeightsError:
    """Build the error that says where a model's weights are and how to bring them in."""
    addresses = " or ".join(card.addresses()) or card.origin
    message = (
        f"model: the weights of {card.name} are not in "
        f"{model_folder_of(card, library=library)}; download {addresses} "
        f"and run: medssl-models import {card.name} FILE"
    )
    return MissingWeightsError(message)
