"""A training run on disk: all that is needed to go on after a crash, in one file.

Tensors and a JSON document in safetensors' format, which holds data only; the last whole checkpoint
is always there.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from medssl_models.files import clear_drafts, replacing

from medssl_eval.errors import CheckpointFileError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

__all__ = ["read_checkpoint", "write_checkpoint"]

FORMAT = "medssl-training-1"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Replace a checkpoint; a crash at any moment leaves the old one or the new one.

    Args:
        path: The file; its folder is created.
        tensors: Copied to the CPU where they are elsewhere.
        state: What JSON can hold; NaN is refused.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    from safetensors.torch import save

    document = json.dumps(dict(state), allow_nan=False)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(plain, metadata={"format": FORMAT, "state": document})
    with replacing(path) as draft, draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read a checkpoint; drafts that a killed process left beside it are removed.

    Args:
        path: The file; it need not exist.

    Returns:
        Tensors and state; None where there is no checkpoint.

    Raises:
        CheckpointFileError: The file is not one of `write_checkpoint`.
    """
    from safetensors import SafetensorError, safe_open

    clear_drafts(path.parent)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                message = f"{path} is not the checkpoint of a training run; move it away"
                raise CheckpointFileError(message)
            # Copies: the file may be replaced while the run goes on.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 # no mapping
            return tensors, json.loads(about["state"])
    except CheckpointFileError:
        raise
    except (SafetensorError, ValueError, KeyError) as error:
        message = f"{path} is damaged ({error}); remove it to start the run anew"
        raise CheckpointFileError(message) from error
