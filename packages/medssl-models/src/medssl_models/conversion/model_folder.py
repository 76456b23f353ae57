"""A converted model on disk: model.safetensors, config.json with timm's keys, README.md.

Written beside its place and renamed, so that a folder is complete or not there. Weights are read
through safetensors, which holds data only.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from medssl_models.card import FrozenRecord, ModelCard
from medssl_models.errors import CheckpointError, LibraryError
from medssl_models.files import models_folder, open_plain, placing, sha256_of
from medssl_models.networks.architectures import is_own

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

__all__ = [
    "CONFIG",
    "README",
    "WEIGHTS",
    "Origin",
    "Proof",
    "damage_of",
    "folder_name",
    "is_exact_elsewhere",
    "model_folder_of",
    "read_origin",
    "read_state",
    "write_folder",
]

WEIGHTS, CONFIG, README = "model.safetensors", "config.json", "README.md"
SCHEMA = 1


class Proof(FrozenRecord):
    """What the network gave when it was converted; `verification` makes and checks it.

    Args:
        seed: Of the input images.
        shape: Of the input, `(N, 3, H, W)`.
        features: `(N, D)` float32, little-endian, in base64.
        statistics: Tensor name to its mean and standard deviation, for floating tensors.
    """

    seed: int
    shape: tuple[int, int, int, int]
    features: str
    statistics: dict[str, tuple[float, float]]


class Origin(FrozenRecord):
    """Where the weights of a folder come from.

    Args:
        schema_version: Of this record.
        card: What was known about the model at conversion; it says padding and preprocessing.
        container: How the source file was laid out.
        sources: Source file name to SHA-256.
        dropped: Rule to the number of source tensors that it left out.
        versions: Package name to version, of what converted.
        proof: What the network gave.
        weights: SHA-256 of the weights' file; empty in folders of before it was kept.
    """

    schema_version: int = SCHEMA
    card: ModelCard
    container: str
    sources: dict[str, str]
    dropped: dict[str, int]
    versions: dict[str, str]
    proof: Proof
    weights: str = ""


def write_folder(
    folder: Path, state: Mapping[str, Tensor], origin: Origin, *, force: bool = False
) -> None:
    """Write a converted model; until the last step nothing is at its place.

    Args:
        folder: The folder to make; its parents are made too.
        state: Our names to tensors, contiguous.
        origin: Where they come from.
        force: Replace a folder that is there.

    Raises:
        SettingsError: The folder exists and `force` is off.
        LibraryError: The disk is full, or does not take the file for another reason.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with placing(folder, force=force) as beside:
        try:
            save_file(dict(state), beside / WEIGHTS, metadata={"format": "pt"})
        except SafetensorError as error:  # its way to say that a file cannot be written
            message = f"{folder}: the weights cannot be written: {error}"
            raise LibraryError(message) from error
        kept = origin.model_copy(update={"weights": sha256_of(beside / WEIGHTS)})
        (beside / CONFIG).write_text(json.dumps(_config(kept), indent=2) + "\n", "utf-8")
        (beside / README).write_text(_readme(origin), "utf-8")
        # safetensors lets nobody else read its file, whatever the user's mask is.
        (beside / WEIGHTS).chmod((beside / CONFIG).stat().st_mode)


def folder_name(name: str) -> str:
    """Name the folder of a model; a colon is no part of a file's name everywhere.

    Example:
        >>> folder_name("timm:resnet18.a1_in1k")
        'timm--resnet18.a1_in1k'
    """
    return name.replace(":", "--")


def model_folder_of(card: ModelCard, *, library: Path | None = None) -> Path:
    """Return the folder in which a model's weights lie, or would lie."""
    return models_folder(library) / folder_name(card.name)


def is_exact_elsewhere(card: ModelCard) -> bool:
    """Tell whether others give the same features with a model's weights.

    timm's networks pad in their own code; torchvision's know one padding.
    """
    return card.padding == "torchvision" or not is_own(card)


def read_origin(folder: Path) -> Origin:
    """Read where the weights of a converted folder come from.

    Args:
        folder: As written by `write_folder`.

    Raises:
        CheckpointError: There is no such record, or it is not valid.
    """
    path = folder / CONFIG
    try:
        with open_plain(path) as file:
            document = json.load(file)
        return Origin.model_validate(document["medssl"])
    except FileNotFoundError as error:
        message = f"{folder}: not a converted model: it has no {CONFIG}"
        raise CheckpointError(message) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
        message = f"{path}: not the record of a converted model ({reason:.200})"
        raise CheckpointError(message) from error


def damage_of(folder: Path) -> str:
    """Say how a folder's weights are not those that were written; empty where they are.

    Folders of before the hash was kept pass. A file is hashed once, as long as it stays the same.

    Args:
        folder: As written by `write_folder`.

    Raises:
        CheckpointError: There is no valid record.
        OSError: There are no weights.
    """
    wanted, path = read_origin(folder).weights, folder / WEIGHTS
    state = path.stat()
    found = _digest(path, state.st_size, state.st_mtime_ns, state.st_ino)
    if found == wanted or not wanted:
        return ""
    return f"its SHA-256 begins with {found[:12]}, that of what was written with {wanted[:12]}"


def read_state(folder: Path, *, checked: bool = True) -> dict[str, Tensor]:
    """Read the weights of a converted folder; the file is mapped, not copied.

    Args:
        folder: As written by `write_folder`.
        checked: Refuse weights that are damaged or replaced.

    Returns:
        Our names to tensors on the CPU.

    Raises:
        CheckpointError: The file is missing, not a safetensors file, or not what the conversion
            wrote.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    try:
        state = dict(load_file(path))
        damage = damage_of(folder) if checked else ""
    except FileNotFoundError as error:
        message = f"{folder}: not a converted model: it has no {WEIGHTS}"
        raise CheckpointError(message) from error
    except SafetensorError as error:
        message = f"{path}: not a whole safetensors file ({error})"
        raise CheckpointError(message) from error
    if damage:
        message = f"{path}: damaged or replaced: {damage}; import the model again with force"
        raise CheckpointError(message)
    return state


@lru_cache(maxsize=256)
def _digest(path: Path, *_identity: int) -> str:
    """Hash a file once, as long as its size, time and number stay."""
    return sha256_of(path)


def _config(origin: Origin) -> dict[str, Any]:
    """Write the document that timm reads, with our record beside timm's keys."""
    card, own = origin.card, origin.card.preprocessing
    short = own.resize if isinstance(own.resize, int) else min(own.resize)
    mean, std = own.normalisation.moments or ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return {
        "architecture": card.architecture.removeprefix("timm:").partition(".")[0],
        "num_classes": 0,
        "num_features": card.feature_dim,
        "global_pool": "avg",
        "pretrained_cfg": {
            "tag": card.name,
            "input_size": [3, own.crop, own.crop],
            "fixed_input_size": False,
            "interpolation": own.interpolation,
            "crop_pct": min(1.0, own.crop / short),
            "crop_mode": "center",
            "mean": list(mean),
            "std": list(std),
            "num_classes": 0,
            "license": card.licence,
            "origin_url": card.origin,
            "paper_ids": card.citation,
        },
        "medssl": origin.model_dump(mode="json"),
    }


def _readme(origin: Origin) -> str:
    """Write the model card for people and for the hub."""
    card = origin.card
    own = card.preprocessing
    files = "\n".join(f"- `{name}`, SHA-256 `{digest}`" for name, digest in origin.sources.items())
    dropped = "\n".join(f"- {rule}: {count} tensors" for rule, count in origin.dropped.items())
    notes = "\n".join(f"- {note}" for note in card.notes)
    exact = (
        "timm gives the same features, and torchvision where it has the network."
        if is_exact_elsewhere(card)
        else "Its source pads strided layers on one side (TensorFlow's SAME). medssl-models "
        "reproduces that; timm and torchvision load the weights but give other features."
    )
    normalisation = own.normalisation.model_dump_json(exclude_none=True)
    if own.normalisation.kind == "histogram":
        exact += " timm's configuration cannot say that pixels are equalised: do it before."
    source = (
        f"Converted from a {origin.container} file; every tensor of it was used or left out by a "
        "named rule."
        if origin.sources
        else f"Made without a file: {origin.container}."
    )
    return (
        f"""---
library_name: timm
license: other
license_name: {json.dumps(card.licence)}
tags:
- image-feature-extraction
- medssl
---
# {card.name}

{card.summary}

- Architecture: {card.architecture}, {card.feature_dim} pooled features, no head
- Padding: {card.padding}. {exact}
- Preprocessing: resize {own.resize} ({own.interpolation}), crop {own.crop}, range
  {list(own.value_range)}, normalisation `{normalisation}`
- Licence: {card.licence}
- Paper: {card.citation or "none"}
- Origin: {card.origin or "unknown"}

```python
from medssl_models import create_model

backbone = create_model("{card.name}")  # or the path of this folder
```

## Conversion

{source}

{files}

Left out:

{dropped or "- nothing"}

{notes}
""".rstrip()
        + "\n"
    )
