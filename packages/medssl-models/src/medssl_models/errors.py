"""What can go wrong in this package, by what the caller can do about it.

Every class carries the exit code of the command line and inherits the built-in that a caller of
the Python interface would expect. Nothing here imports torch.
"""

from typing import ClassVar

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
    "OfflineError",
    "PluginError",
    "RecordError",
    "SettingsError",
    "StoreError",
    "UnknownExperimentError",
    "UnknownModelError",
    "UnreadableSourceError",
    "UnsafeCheckpointError",
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


class FeatureError(ModelError, ValueError):
    """Features came out that are not finite or not of the declared shape."""

    exit_code = 3


class StoreError(ModelError, OSError):
    """The feature store cannot be written or read."""


class RecordError(ModelError, ValueError):
    """A file that is named for results holds something else."""

    exit_code = 3
