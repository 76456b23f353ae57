"""Checkpoints written by `torch.save`, zip or legacy, as named tensors.

Only `weights_only=True` is ever used: a file that names anything but tensors and plain containers
is refused with the name, and nothing of it runs.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Self

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
_MAX_ENTRIES = 1_000_000  # containers that share others are met once for each way to them
_MAX_PICKLE = 2**26  # bytes; those of published checkpoints take some 100,000
_MAX_TUPLE = 100_000  # values to hash for one key
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
    for name, tensor in _walk(value, "", _MAX_DEPTH, iter(range(_MAX_ENTRIES))):
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
    try:
        _check_keys(path, zipped=zipped)
        return _load_tensors(path, mapped=zipped)
    except CheckpointError:
        raise
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


def _check_keys(path: Path, *, zipped: bool) -> None:
    """Refuse what takes for ever to read: a tuple of tuples of tuples, each held twice, as a key.

    Raises:
        UnsafeCheckpointError: There is one, or the archive is no plain one.
        CheckpointError: The pickle is malformed.
    """
    if not zipped:
        with path.open("rb") as file:
            for _ in range(4):  # a number, the version, the machine, and what was saved
                _check_tuples(file, path)
        return
    with Archive(path) as archive:  # refuses bombs, repeated names and paths that leave the archive
        for name in archive.names:
            if name.rpartition("/")[2] == "data.pkl" and archive.size(name) <= _MAX_PICKLE:
                _check_tuples(io.BytesIO(archive.read(name)), path)
            elif name.endswith("data.pkl"):
                message = f"{path}: {name} has more than {_MAX_PICKLE:,} bytes; nothing was run"
                raise UnsafeCheckpointError(message)


def _check_tuples(stream: IO[bytes], path: Path) -> None:
    """Follow a pickle's stack with the number of values in each tuple in place of the values."""
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[object, int] = {}
    for code, value, _ in pickletools.genops(stream):
        name = code.name
        if name == "MARK":
            marks.append(len(stack))
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name.endswith("PUT"):
            memo[value] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[value])
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            start = _taken_from(code, stack, marks)
            within = sum(stack[start:]) if name.startswith("TUPLE") else 0
            stack[start:] = [1 + within] * len(code.stack_after)
            if within > _MAX_TUPLE:
                message = f"{path}: a tuple holds others over {_MAX_TUPLE:,} times; nothing was run"
                raise UnsafeCheckpointError(message)


def _taken_from(code: pickletools.OpcodeInfo, stack: list[int], marks: list[int]) -> int:
    """Find where on the stack begins what an opcode takes."""
    before = code.stack_before
    if pickletools.markobject in before:
        return marks.pop() - before.index(pickletools.markobject)
    return len(stack) - len(before)


def _walk(
    value: object, name: str, depth: int, entries: Iterator[int]
) -> Iterator[tuple[str, Tensor]]:
    if next(entries, None) is None:
        message = f"more than {_MAX_ENTRIES:,} entries, counting shared ones each time"
        raise CheckpointError(message)
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
        yield from _walk(inner, f"{name}/{key}" if name else str(key), depth - 1, entries)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
