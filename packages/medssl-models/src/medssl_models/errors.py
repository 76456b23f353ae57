"""What can go wrong in this package, by what the caller can do about it.

Every class carries the exit code of the command line and inherits the built-in that a caller of
the Python interface would expect. Nothing here imports torch.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "CardError",
    "CheckpointError",
    "DownloadError",
    "FeatureError",
    "InputRangeError",
    "LayerError",
    "LibraryError",
    "LicenceError",
    "MissingExtraError",
    "MissingWeightsError",
    "ModelError",
    "NotAFileError",
    "OfflineError",
    "PluginError",
    "RecordError",
    "SettingsError",
    "StoreError",
    "UnknownExperimentError",
    "UnknownModelError",
    "UnreadableSourceError",
    "UnsafeCheckpointError",
    "did_you_mean",
]


class ModelError(Exception):
    """Root of all errors of medssl-models; by itself: the work failed."""

    exit_code: ClassVar[int] = 1


class SettingsError(ModelError, ValueError):
    """An option or argument has a value that is not allowed."""

    exit_code = 2


class UnknownExperimentError(ModelError, ValueError):
    """No installed package declares this experiment, or its declaration is broken."""

    exit_code = 2


class UnknownModelError(ModelError, LookupError):
    """No card, alias, plug-in or converted folder has this name."""

    exit_code = 2


class LayerError(ModelError, LookupError):
    """A layer was asked for that the network does not have."""

    exit_code = 2


class CardError(ModelError, ValueError):
    """A model card, ours or a plug-in's, is not valid."""

    exit_code = 3


class PluginError(ModelError):
    """A plug-in of the entry-point group `medssl.models` cannot be used."""


class CheckpointError(ModelError, ValueError):
    """A weights file is broken, of another model, or not of a known container."""

    exit_code = 3


class UnsafeCheckpointError(CheckpointError):
    """A weights file asks for code to be run, or for more memory than it may have."""


class MissingWeightsError(ModelError, FileNotFoundError):
    """The weights of a known model are not in the local library."""

    exit_code = 4


class LibraryError(ModelError, OSError):
    """A model cannot be written to the disk."""


class OfflineError(ModelError, ConnectionError):
    """A download was asked for while `MEDSSL_OFFLINE=1` forbids it."""

    exit_code = 4


class DownloadError(ModelError, ConnectionError):
    """No address gave the file, or gave another file than the card names: bring it by hand."""

    exit_code = 4


class LicenceError(ModelError, PermissionError):
    """A licence forbids commercial use and has not been accepted."""

    exit_code = 4


class MissingExtraError(ModelError, ImportError):
    """An optional dependency is needed that is not installed."""

    exit_code = 4


class InputRangeError(ModelError, ValueError):
    """A tensor is not finite or lies outside the range that the model declares."""

    exit_code = 3


class UnreadableSourceError(ModelError, ValueError):
    """An image source has images that cannot be read, or breaks its own promise."""

    exit_code = 3


class NotAFileError(ModelError, OSError):
    """A pipe, a device or a socket where a file is needed."""

    exit_code = 3


class FeatureError(ModelError, ValueError):
    """Features came out that are not finite or not of the declared shape."""

    exit_code = 3


class StoreError(ModelError, OSError):
    """The feature store cannot be written or read."""


class RecordError(ModelError, ValueError):
    """A file that is named for results holds something else."""

    exit_code = 3


def did_you_mean(name: str, known: Iterable[str], *, close_only: bool = False) -> str:
    """Say which known names are close to a wrong one, or which there are at all.

    Args:
        name: The wrong one.
        known: The right ones.
        close_only: Say nothing where none is close: there are too many to list.

    Example:
        >>> did_you_mean("moco_v2", ["moco-v1", "moco-v2", "byol"])
        '; did you mean moco-v2 or moco-v1?'
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    if close_only:
        return ""
    return f"; known are {', '.join(names)}"


def some_of(items: Sequence[str], *, most: int = 5, separator: str = "; ") -> str:
    """List the first of some items, and say how many more there are.

    Example:
        >>> some_of(["a", "b", "c"], most=2)
        'a; b and 1 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return separator.join(items[:most]) + more
