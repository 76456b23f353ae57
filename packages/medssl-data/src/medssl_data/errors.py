"""What can go wrong with data, each with the exit code that a shell sees.

2 is wrong usage, 3 is bad input (a file, a label, a leak), 4 is something that must be brought.
"""

import struct
import zlib

__all__ = [
    "DECODER_FAULTS",
    "AuditError",
    "DataError",
    "DuplicateIdError",
    "EmptySourceError",
    "LabelError",
    "LeakError",
    "ManifestError",
    "MissingDatasetError",
    "MissingExtraError",
    "MissingFileError",
    "PairError",
    "PluginError",
    "SettingError",
    "SplitError",
    "TableError",
    "UnknownDatasetError",
    "UnreadableImageError",
    "UnsafePathError",
]


class DataError(Exception):
    """Root of everything that medssl_data raises on purpose."""

    exit_code: int = 1
    row: int | None = None
    """Position of the row that is at fault, where a table can still say which line that is."""


class UnknownDatasetError(DataError, LookupError):
    """No card and no source has that name."""

    exit_code = 2

    __str__ = Exception.__str__  # KeyError-style quoting would hide the sentence


class SettingError(DataError, ValueError):
    """An option has a value that it cannot have."""

    exit_code = 2


class ManifestError(DataError, ValueError):
    """Rows that contradict each other, or a manifest file that is none."""

    exit_code = 3


class DuplicateIdError(ManifestError):
    """Two rows carry one id."""


class LabelError(ManifestError):
    """A label is not one of the classes."""


class TableError(DataError, ValueError):
    """A table lacks a column, a cell or a row, or cannot be decoded."""

    exit_code = 3


class UnsafePathError(DataError, ValueError):
    """A path leads out of the folder that it must stay in."""

    exit_code = 3


class EmptySourceError(DataError, ValueError):
    """A folder, a class or a table without images."""

    exit_code = 3


class UnreadableImageError(DataError, OSError, ValueError):
    """An image file that cannot be decoded; callers may skip it and count it."""

    exit_code = 3


class MissingFileError(DataError, FileNotFoundError):
    """A file that a table or a card names is not there."""

    exit_code = 3


class MissingDatasetError(DataError, FileNotFoundError):
    """The data set is known but not under the root."""

    exit_code = 4


class MissingExtraError(DataError, ImportError):
    """An optional package must be installed first."""

    exit_code = 4


class SplitError(DataError, ValueError):
    """The rows cannot be split as asked."""

    exit_code = 3


class PairError(DataError, ValueError):
    """No pair of views can be formed."""

    exit_code = 3


class LeakError(DataError, ValueError):
    """The same patient or picture stands on two sides of a split."""

    exit_code = 3


class AuditError(DataError, ValueError):
    """A copy of a data set is not what its card says."""

    exit_code = 3


class PluginError(DataError, RuntimeError):
    """A third package's data set is broken."""

    exit_code = 3


DECODER_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    AttributeError,
    AssertionError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What other packages' decoders raise on damaged files, as fuzzing showed; hence so many."""
