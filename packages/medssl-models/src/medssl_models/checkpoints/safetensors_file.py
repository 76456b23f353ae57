"""Files in the safetensors format: names, shapes and bytes, nothing that could run."""

from __future__ import annotations

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
        CheckpointError: The file is cut off or malformed, or holds no tensors.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, ValueError, OverflowError) as error:
        message = f"{path}: not a readable safetensors file: {error}"
        raise CheckpointError(message) from error
    if not tensors:
        message = f"{path}: the file holds no tensors; is it a checkpoint?"
        raise CheckpointError(message)
    return tensors
