"""Several models in one archive, for a machine without a network: weights, cards, hashes.

A bundle is a zip file of converted folders and a table of their hashes. It holds data only;
whatever comes out of one is hashed, and its features are recomputed, before it is kept.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from medssl_models.card import FrozenRecord
from medssl_models.catalog import available_models, model_card, resolve
from medssl_models.checkpoints.archive import Archive
from medssl_models.conversion.model_folder import (
    CONFIG,
    README,
    WEIGHTS,
    folder_name,
    read_origin,
)
from medssl_models.conversion.verification import verify
from medssl_models.errors import CheckpointError, SettingsError, UnknownModelError
from medssl_models.files import (
    models_folder,
    placing,
    refuse_existing,
    replacing,
    sha256_of,
)
from medssl_models.hub.library import hold, locate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Bundle", "BundledFile", "BundledModel", "Unpacked", "export_bundle", "import_bundle"]

TABLE = "bundle.json"
_LARGEST_TABLE = 2**22
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Folder = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class BundledFile(FrozenRecord):
    """A file of a model: its SHA-256 and its bytes."""

    sha256: _Sha256
    size: int = Field(ge=0)


class BundledModel(FrozenRecord):
    """A model in a bundle.

    Args:
        name: The card's name.
        folder: Under which the library keeps it, and under which it lies in the archive.
        licence: In words.
        non_commercial: The licence forbids commercial use.
        files: By name.
    """

    name: str
    folder: _Folder
    licence: str
    non_commercial: bool
    files: dict[Literal["model.safetensors", "config.json", "README.md"], BundledFile]


class Bundle(FrozenRecord):
    """The table of a bundle.

    Args:
        format: Tells that the archive is a bundle.
        schema_version: Of this table.
        made_by: Version of medssl-models.
        models: In the order of their names.
    """

    format: Literal["medssl-bundle"] = "medssl-bundle"
    schema_version: Literal[1] = 1
    made_by: str
    models: tuple[BundledModel, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        twice = [name for name, count in Counter(m.name for m in self.models).items() if count > 1]
        if twice:
            message = f"{twice[0]} is in it twice"
            raise ValueError(message)
        return self


@dataclass(frozen=True)
class Unpacked:
    """A model that came out of a bundle; `new` tells it from one that was here already."""

    name: str
    folder: Path
    new: bool


def export_bundle(
    names: Sequence[str], out: Path, *, library: Path | None = None, force: bool = False
) -> Bundle:
    """Write models of the library into one archive.

    Args:
        names: As for `resolve`; none means all that are in the library.
        out: The archive; it appears only when it is whole.
        library: Folder of models instead of `home() / "models"`.
        force: Replace `out` if it is there.

    Returns:
        The table of the bundle.

    Raises:
        SettingsError: `out` exists and `force` is off, or there is nothing to pack.
        MissingWeightsError: A model's weights are not here.
        CheckpointError: A model does not pass `verify`; nothing is written.

    Example:
        >>> from medssl_models.hub.exporting import export_model
        >>> place = export_model("random_r18", folder / "r18").folder
        >>> [model.name for model in export_bundle([str(place)], folder / "a.zip").models]
        ['random_r18']
        >>> [model.new for model in import_bundle(folder / "a.zip", library=folder / "there")]
        [True]
    """
    refuse_existing(out, force=force)
    folders = dict(_folder_of(name, library) for name in names or _all_imported(library))
    table = Bundle(
        made_by=version("medssl-models"),
        models=tuple(_described(folder) for _, folder in sorted(folders.items())),
    )
    with replacing(out) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(TABLE, table.model_dump_json(indent=2))
        for model in table.models:
            for name in model.files:
                archive.write(folders[model.name] / name, f"models/{model.folder}/{name}")
    return table


def import_bundle(
    path: Path, *, library: Path | None = None, force: bool = False
) -> list[Unpacked]:
    """Take the models of a bundle into the library; each is there whole, or not at all.

    Args:
        path: The archive.
        library: Folder of models instead of `home() / "models"`.
        force: Replace other weights that are here under the same names, and take models whose
            preprocessing is not the one of their cards.

    Raises:
        CheckpointError: The archive is damaged or unsafe, a hash does not agree, or a model does
            not give the features that it gave when it was converted.
        SettingsError: A model is here with other weights and `force` is off.
    """
    with Archive(path) as archive:
        table = _read_table(archive)
        _check_members(archive, table)
        root = models_folder(library)
        return [_unpack(archive, model, root, force=force) for model in table.models]


def _all_imported(library: Path | None) -> list[str]:
    here = available_models(library=library)
    names = [name for name in here if resolve(name, library=library).folder is not None]
    if not names:
        message = f"nothing to pack: {models_folder(library)} holds no imported model"
        raise SettingsError(message)
    return names


def _folder_of(name: str, library: Path | None) -> tuple[str, Path]:
    model = locate(name, library=library)
    if model.folder is None:
        message = f"model: {model.name} needs no file, so that it needs no bundle"
        raise SettingsError(message)
    return model.card.name, model.folder


def _described(folder: Path) -> BundledModel:
    _refuse_broken(folder)
    card = read_origin(folder).card
    files = {
        name: BundledFile(sha256=sha256_of(folder / name), size=(folder / name).stat().st_size)
        for name in (WEIGHTS, CONFIG, README)
        if (folder / name).is_file()
    }
    return BundledModel.model_validate(
        {
            "name": card.name,
            "folder": folder_name(card.name),
            "licence": card.licence,
            "non_commercial": card.non_commercial,
            "files": files,
        }
    )


def _refuse_broken(folder: Path, *, shown: str | None = None) -> None:
    failed = [check for check in verify(folder).checks if not check.passed]
    if failed:
        message = f"{shown or folder}: {failed[0].name}: {failed[0].detail}"
        raise CheckpointError(message)


def _read_table(archive: Archive) -> Bundle:
    if TABLE not in archive.names or archive.size(TABLE) > _LARGEST_TABLE:
        message = f"{archive.path}: not a bundle: it has no {TABLE}"
        raise CheckpointError(message)
    try:
        return Bundle.model_validate(json.loads(archive.read(TABLE)))
    except (ValidationError, ValueError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
        message = f"{archive.path}: {TABLE} is not the table of a bundle ({reason:.200})"
        raise CheckpointError(message) from error


def _check_members(archive: Archive, table: Bundle) -> None:
    """Check that the archive holds what its table says, and nothing else."""
    listed = {TABLE} | {
        f"models/{model.folder}/{name}" for model in table.models for name in model.files
    }
    odd = sorted(listed.symmetric_difference(archive.names))
    if odd:
        message = f"{archive.path}: {odd[0]!r} is in the archive or in its table, not in both"
        raise CheckpointError(message)


def _unpack(archive: Archive, model: BundledModel, library: Path, *, force: bool) -> Unpacked:
    folder = library / model.folder
    with hold(folder):
        if _is_same(folder, model) and not force:
            return Unpacked(model.name, folder, new=False)
        with placing(folder, force=force) as beside:
            for name, file in model.files.items():
                if archive.copy(f"models/{model.folder}/{name}", beside / name) != file.sha256:
                    message = f"{archive.path}: {name} of {model.name} does not have its hash"
                    raise CheckpointError(message)
            _refuse_broken(beside, shown=f"{archive.path}: {model.name}")
            _check_card(archive, model, beside, force=force)
    return Unpacked(model.name, folder, new=True)


def _check_card(archive: Archive, model: BundledModel, folder: Path, *, force: bool) -> None:
    """Refuse a model under another name, or a known one whose images are prepared otherwise."""
    held = read_origin(folder).card
    if held.name != model.name or model.folder != folder_name(held.name):
        message = f"{archive.path}: the folder of {model.name} holds {held.name}"
        raise CheckpointError(message)
    try:
        known = model_card(held.name)
    except UnknownModelError:  # a model of somebody else, whose card travels with it
        return
    same = (known.preprocessing, known.padding) == (held.preprocessing, held.padding)
    if not (same or force):
        message = (
            f"{archive.path}: {held.name} has another preprocessing than this version knows for "
            "it; force takes it"
        )
        raise CheckpointError(message)


def _is_same(folder: Path, model: BundledModel) -> bool:
    """Tell whether the weights that are here are those of the bundle."""
    path, file = folder / WEIGHTS, model.files.get("model.safetensors")
    if file is None or not path.is_file() or path.stat().st_size != file.size:
        return False
    return sha256_of(path) == file.sha256
