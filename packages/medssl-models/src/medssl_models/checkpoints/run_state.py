"""The state of a run in one file, from which it goes on: tensors, a JSON document, and their hash.

safetensors' format holds data only; it has no checksum of its own, so a hash of everything stands
in its header.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from medssl_models.errors import CheckpointError
from medssl_models.files import open_plain, replacing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

__all__ = ["read_run_state", "write_run_state"]


def write_run_state(
    path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any], *, kind: str
) -> None:
    """Replace a state; a crash at any moment leaves the old one or the new one.

    Args:
        path: The file; its folder is created.
        tensors: Copied to the CPU where they are elsewhere.
        document: What JSON can hold; NaN is refused.
        kind: Of the run; `read_run_state` refuses another one.

    Raises:
        OSError: The disk is full or the folder cannot be written.

    Example:
        >>> import torch
        >>> write_run_state(folder / "run", {"w": torch.ones(2)}, {"step": 8}, kind="toy")
        >>> tensors, document = read_run_state(folder / "run", kind="toy")
        >>> tensors["w"].tolist(), document
        ([1.0, 1.0], {'step': 8})
    """
    text = json.dumps(dict(document), allow_nan=False, sort_keys=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    facts = {"kind": kind, "document": text, "sha256": _digest(plain, kind, text)}
    with replacing(path) as draft, draft.open("wb") as file:
        file.write(save(plain, {"state": json.dumps(facts)}))
        file.flush()
        os.fsync(file.fileno())


def read_run_state(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state, every bit of which is as it was written.

    Args:
        path: The file; it may be replaced while the tensors are in use.
        kind: Of the run.

    Returns:
        Tensors on the CPU, and the document.

    Raises:
        CheckpointError: The file is damaged, or not the state of such a run.
        OSError: It cannot be read.
    """
    with open_plain(path) as file:
        content = file.read()
    try:
        tensors, facts = load(content), _facts(content)
        text = str(facts["document"])
        if facts["kind"] != kind:
            message = f"{path} is not the state of such a run, but of {facts['kind']!r:.40}"
            raise CheckpointError(message)
        if facts["sha256"] != _digest(tensors, kind, text):
            message = "its content does not fit its hash"
            raise ValueError(message)
        return tensors, dict(json.loads(text))
    except CheckpointError:
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{path} is damaged ({error})"
        raise CheckpointError(message) from error


def _facts(content: bytes) -> dict[str, Any]:
    """Read our own words in the header, whose length stands in the first eight bytes."""
    length = int.from_bytes(content[:8], "little")
    return dict(json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["state"]))


def _digest(tensors: Mapping[str, Tensor], kind: str, text: str) -> str:
    import torch

    digest = hashlib.sha256(f"{kind}\n{text}".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
