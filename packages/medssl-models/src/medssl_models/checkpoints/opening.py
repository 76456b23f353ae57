"""Any weights file as named tensors: the container is told by content, the reader follows."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from medssl_models.checkpoints.sniff import sniff
from medssl_models.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from medssl_models.card import Container

__all__ = ["OpenedCheckpoint", "open_checkpoint"]


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint that has been opened.

    Args:
        container: How it is laid out.
        tensors: Name to tensor or array; a Haiku pickle decodes each when it is asked for.
        files: What was read, for hashing.
    """

    container: Container
    tensors: Mapping[str, Tensor | npt.NDArray[np.generic]]
    files: tuple[Path, ...]


def open_checkpoint(path: Path) -> OpenedCheckpoint:
    """Open a checkpoint of any container that is known.

    Args:
        path: A file, one file of a TensorFlow checkpoint, or the folder of one.

    Returns:
        Its tensors; entries of nested files are joined by `/`.

    Raises:
        CheckpointError: The file is missing, damaged, unsafe or of no known container.

    Example:
        >>> import torch
        >>> torch.save({"state_dict": {"conv1.weight": torch.zeros(2, 3)}}, folder / "a.pth")
        >>> opened = open_checkpoint(folder / "a.pth")
        >>> opened.container, list(opened.tensors)
        ('torch', ['state_dict/conv1.weight'])
    """
    if not path.exists():
        message = f"{path}: there is no such file"
        raise CheckpointError(message)
    container: Container = "tf_bundle" if _is_shard(path) else sniff(path)
    return OpenedCheckpoint(container, _reader(container)(path), _files(path, container))


def _is_shard(path: Path) -> bool:
    return ".data-" in path.name and _index_of(path).is_file()


def _index_of(path: Path) -> Path:
    return path.with_name(path.name.partition(".data-")[0] + ".index")


def _files(path: Path, container: Container) -> tuple[Path, ...]:
    """List the files that were read: a TensorFlow checkpoint is an index with its shards."""
    if path.is_dir():
        (path,) = path.glob("*.index")  # the reader has made sure that there is one
    elif container == "tf_bundle" and _is_shard(path):
        path = _index_of(path)
    elif container != "tf_bundle":
        return (path,)
    shards = path.parent.glob(path.name.removesuffix(".index") + ".data-*")
    return (path, *sorted(shards))


def _reader(container: Container) -> Callable[[Path], Mapping[str, Any]]:
    """Import only what a container needs: two of the readers import torch."""
    module, function = _READERS[container]
    reader: Callable[[Path], Mapping[str, Any]] = getattr(
        import_module(f"medssl_models.checkpoints.{module}"), function
    )
    return reader


_READERS: Mapping[Container, tuple[str, str]] = {
    "torch": ("torch_file", "read_torch_file"),
    "safetensors": ("safetensors_file", "read_safetensors"),
    "haiku_pickle": ("haiku_pickle", "read_haiku_pickle"),
    "tf_bundle": ("tf_bundle", "read_tf_bundle"),
}
