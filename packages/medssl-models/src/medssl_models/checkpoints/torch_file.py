"""Checkpoints written by `torch.save`, zip or legacy, as named tensors.

Only `weights_only=True` is ever used: a file that names anything but tensors and plain containers
is refused with the name, and nothing of it runs.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor
from torch.serialization import safe_globals

from medssl_models.checkpoints.archive import Archive
from medssl_models.errors import CheckpointError, UnsafeCheckpointError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LEGACY_MAGIC", "STAND_INS", "ZIP_MAGIC", "flatten", "read_torch_file"]

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled number
_MAX_DEPTH = 24
_MAX_TENSORS = 50_000
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


class Inert:
    """Stands for an object of a training framework: takes anything, keeps and does nothing."""

    def __new__(cls, *_: object, **__: object) -> Self:
        """Forget the arguments."""
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Forget the state."""


# What training scripts put beside the weights: their arguments, a best accuracy, Lightning's
# callbacks (as keys of a dict). The names resolve to `Inert`, so nothing of these modules is
# imported or called.
STAND_INS = (
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file without running anything that it says.

    Args:
        path: Zip files are memory-mapped and must not change while the tensors are in use.

    Returns:
        Tensors on the CPU; entries of nested containers are joined by `/`.

    Raises:
        UnsafeCheckpointError: The file names something that is neither a tensor nor a plain
            container, or is an archive that no `torch.save` writes.
        CheckpointError: The file is cut off, malformed, or holds no tensors.
    """
    tensors = flatten(_load(path))
    if not tensors:
        message = f"{path}: the file holds no tensors; is it a checkpoint?"
        raise CheckpointError(message)
    return tensors


def flatten(value: object) -> dict[str, Tensor]:
    """Collect the tensors of nested dicts, lists and tuples under their joined names."""
    found: dict[str, Tensor] = {}
    for name, tensor in _walk(value, "", _MAX_DEPTH):
        if name in found or len(found) >= _MAX_TENSORS:
            message = f"two tensors are called {name!r}, or there are more than {_MAX_TENSORS:,}"
            raise CheckpointError(message)
        found[name] = tensor
    return found


def _load(path: Path) -> object:
    with path.open("rb") as file:
        head = file.read(len(LEGACY_MAGIC))
    zipped = head.startswith(ZIP_MAGIC)
    if not zipped and head != LEGACY_MAGIC:
        message = f"{path}: not a torch file, it begins with {head[:8]!r}; nothing was run"
        raise CheckpointError(message)
    if zipped:
        with Archive(path):  # refuses bombs, repeated names and paths that leave the archive
            pass
    try:
        return _load_tensors(path, mapped=zipped)
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from None
    except MemoryError as error:
        message = f"{path}: the file asks for more memory than there is"
        raise UnsafeCheckpointError(message) from error
    # Fuzzing found AssertionError, struct.error and others: torch checks little of what it reads.
    except Exception as error:
        message = f"{path}: not a readable torch file: {_first_line(error)}"
        raise CheckpointError(message) from error


def _load_tensors(path: Path, *, mapped: bool) -> object:
    with safe_globals([(Inert, name) for name in STAND_INS]), path.open("rb") as file:
        # torch takes a path with this ending for another format, and can only map a path.
        mapped = mapped and path.suffix != ".safetensors"
        return torch.load(  # noqa: TID251 # the one place, with weights_only
            path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped or None
        )


def _refusal(path: Path, error: pickle.UnpicklingError) -> CheckpointError:
    named = _GLOBAL.search(str(error))
    if named:
        message = f"{path}: refused, it asks for {named[1]!r} to be used; nothing was run"
        return UnsafeCheckpointError(message)
    message = f"{path}: refused, not a plain torch file: {_first_line(error)}; nothing was run"
    return CheckpointError(message)


def _walk(value: object, name: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
        return
    if not isinstance(value, Mapping | list | tuple):
        return
    if not depth:
        message = f"{name[:120]!r}: nested deeper than {_MAX_DEPTH} levels"
        raise CheckpointError(message)
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, inner in items:
        yield from _walk(inner, f"{name}/{key}" if name else str(key), depth - 1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
