"""Maps on disk: one HDF5 file a map, known by a content key, and unfinished ones beside it.

A file appears whole or not at all. A partial file belongs to one key; whatever else stands in its
place, a torn one included, counts as nothing.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.files import replacing
from medssl_models.plain_json import canonical_json, plain

from medssl_saliency.errors import MapError
from medssl_saliency.maps.computing import Approximation, SaliencyMap

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

__all__ = [
    "map_key",
    "read_map",
    "read_partial",
    "write_array",
    "write_map",
    "write_partial",
]

FORMAT = "medssl-saliency map 1"


def map_key(identity: Mapping[str, object]) -> str:
    """Compute the content key of a map: SHA-256 of what it is made from, 64 hexadecimal digits.

    Example:
        >>> map_key({"weights": "a", "picture": "b"})[:8]
        'd9c54b0a'
    """
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def write_map(path: Path, made: SaliencyMap, *, key: str, identity: Mapping[str, object]) -> None:
    """Write a map with all that is known of it.

    Args:
        path: The HDF5 file; its folder is created.
        made: The map.
        key: See `map_key`.
        identity: What the key was made from; kept as JSON.
    """
    import h5py

    # The draft is locked already, by the writer.
    with replacing(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        file.attrs["format"], file.attrs["key"] = FORMAT, key
        file.attrs["identity"] = json.dumps(plain(identity))
        file.attrs["notes"] = json.dumps(made.notes)
        file.attrs["error"] = json.dumps(asdict(made.approximation) if made.approximation else None)
        file.attrs["norm"], file.attrs["seconds"] = made.norm, made.seconds
        for name in ("values", "picture", "scores", "positions"):
            file.create_dataset(name, data=getattr(made, name), compression="gzip", shuffle=True)


def read_map(path: Path, *, key: str | None = None) -> SaliencyMap | None:
    """Read a map that an earlier run has kept.

    Args:
        path: The HDF5 file.
        key: What it must be; None takes any.

    Returns:
        The map; None where there is no file, or one with another key.

    Raises:
        MapError: The file is damaged or no map.

    Example:
        >>> from pathlib import Path
        >>> read_map(Path("saliency/scan/none.h5")) is None
        True
    """
    import h5py

    if not path.exists():
        return None
    try:
        with h5py.File(path) as file:
            if file.attrs["format"] != FORMAT:
                raise KeyError(file.attrs["format"])
            if key is not None and file.attrs["key"] != key:
                return None
            return _read(file)
    except (OSError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, PermissionError):
            raise
        message = f"{path} is no map or is damaged; remove it, or make it again"
        raise MapError(message) from error


def _read(file: h5py.File) -> SaliencyMap:
    approximation = json.loads(file.attrs["error"])
    return SaliencyMap(
        values=file["values"][:],
        picture=file["picture"][:],
        scores=file["scores"][:],
        positions=file["positions"][:],
        norm=float(file.attrs["norm"]),
        approximation=Approximation(**approximation) if approximation else None,
        notes=tuple(json.loads(file.attrs["notes"])),
    )


def write_array(path: Path, values: NDArray[np.floating]) -> None:
    """Write an array as `.npy`, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, values)


def write_partial(path: Path, scores: NDArray[np.float32], *, key: str) -> None:
    """Keep the scores of an unfinished map.

    Args:
        path: Where; replaced at once.
        scores: `(n,)`, NaN where missing.
        key: Of the map that they belong to.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, scores=scores, key=np.array(key))


def read_partial(path: Path, *, key: str, number: int) -> NDArray[np.float32] | None:
    """Read what an earlier run kept of a map; None where there is nothing.

    Args:
        path: A file of `write_partial`; it need not exist.
        key: Of the map.
        number: How many windows it has.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            fits = str(file["key"]) == key and file["scores"].shape == (number,)
            return file["scores"].astype(np.float32) if fits else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # torn or foreign: the windows are measured anew
