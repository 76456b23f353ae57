"""A training run on disk: all that is needed to go on after a crash, in one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medssl_models.checkpoints.run_state import read_run_state, write_run_state
from medssl_models.errors import CheckpointError
from medssl_models.files import clear_drafts

from medssl_eval.errors import CheckpointFileError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

__all__ = ["read_checkpoint", "write_checkpoint"]

KIND = "training"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Replace a checkpoint; see `write_run_state`."""
    write_run_state(path, tensors, state, kind=KIND)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read a checkpoint; drafts that a killed process left beside it are removed.

    Args:
        path: The file; it need not exist.

    Returns:
        Tensors and state; None where there is no checkpoint.

    Raises:
        CheckpointFileError: The file is damaged, or not one of `write_checkpoint`.
    """
    clear_drafts(path.parent)
    if not path.exists():
        return None
    try:
        return read_run_state(path, kind=KIND)
    except CheckpointError as error:
        message = f"{error}; move it away to start the run anew"
        raise CheckpointFileError(message) from error
