"""Which container a file is, by its content; a file's extension says nothing."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from medssl_models.checkpoints.archive import Archive
from medssl_models.checkpoints.torch_file import LEGACY_MAGIC, ZIP_MAGIC
from medssl_models.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from medssl_models.card import Container

__all__ = ["sniff"]

_HEAD = 512
_TABLE_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)  # last bytes of a TensorFlow index
_FOREIGN = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (Keras?)",
    b"\x1f\x8b": "gzip-compressed; decompress it first",
    b"BZh": "bzip2-compressed; decompress it first",
    b"\xfd7zXZ": "xz-compressed; decompress it first",
    b"<": "a web page: the download gave an HTML page instead of the file",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}


def sniff(path: Path) -> Container:
    """Tell the container of a weights file.

    Args:
        path: A file, or a folder that holds a TensorFlow checkpoint.

    Raises:
        CheckpointError: The file is missing, empty, or of no container that we read.
    """
    if path.is_dir():
        return _sniff_folder(path)
    if not path.is_file():
        message = f"{path}: no such file"
        raise CheckpointError(message)
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
        file.seek(max(size - 8, 0))
        tail = file.read()
    found = _by_head(path, head, size) or ("tf_bundle" if tail == _TABLE_MAGIC else None)
    if found is None:
        message = f"{path}: {_describe(head)}; known are torch, safetensors, Haiku and TensorFlow"
        raise CheckpointError(message)
    return found


def _by_head(path: Path, head: bytes, size: int) -> Container | None:
    if head.startswith(ZIP_MAGIC):
        return _sniff_archive(path)
    if head.startswith(LEGACY_MAGIC):
        return "torch"
    if head[:1] == b"\x80" and len(head) > 1 and 2 <= head[1] <= 5:
        return "haiku_pickle"
    if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size - 8:
        return "safetensors"
    return None


def _sniff_archive(path: Path) -> Container | None:
    with Archive(path) as archive:
        names = archive.names
    if any(re.fullmatch(r"[^/]+/data\.pkl", name) for name in names):
        return "torch"
    if any(name.endswith(".index") for name in names):
        return "tf_bundle"
    message = f"{path}: a zip archive with neither a torch file nor a TensorFlow checkpoint in it"
    raise CheckpointError(message)


def _sniff_folder(path: Path) -> Container:
    if any(path.glob("*.index")):
        return "tf_bundle"
    message = f"{path}: a folder without a TensorFlow checkpoint (*.index) in it"
    raise CheckpointError(message)


def _describe(head: bytes) -> str:
    if not head:
        return "the file is empty"
    for magic, meaning in _FOREIGN.items():
        if head.startswith(magic):
            return meaning
    if head[257:262] == b"ustar":
        return "a tar archive (torch before 0.1.10?), which only an old torch can convert"
    return f"not a known container, it begins with {head[:8]!r}"
