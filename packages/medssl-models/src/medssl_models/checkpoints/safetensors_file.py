"""Files in the safetensors format: names, shapes and bytes, nothing that could run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file

from medssl_models.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = ["read_safetensors"]


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file, on the CPU.

    Raises:
        CheckpointError: The file is cut off or malformed, has a name twice, or holds no tensors.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
        _check_names(path)
    except (SafetensorError, ValueError, OverflowError) as error:
        message = f"{path}: not a readable safetensors file: {error}"
        raise CheckpointError(message) from error
    if not tensors:
        message = f"{path}: the file holds no tensors; is it a checkpoint?"
        raise CheckpointError(message)
    return tensors


def _check_names(path: Path) -> None:
    """Refuse a header with a name twice, of which the library would keep the last."""
    with path.open("rb") as file:  # a length that the library has found to be possible
        header = file.read(int.from_bytes(file.read(8), "little"))
    json.loads(header, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        message = f"it has {next(name for name in names if names.count(name) > 1)!r} twice"
        raise ValueError(message)
    return found
