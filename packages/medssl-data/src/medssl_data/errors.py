"""What can go wrong with data, each with the exit code that a shell sees.

2 is wrong usage, 3 is bad input (a file, a label, a leak), 4 is something that must be brought.
"""

from __future__ import annotations

import struct
import zlib
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

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
    "NotAFileError",
    "PairError",
    "PluginError",
    "SettingError",
    "SplitError",
    "TableError",
    "UnknownDatasetError",
    "UnreadableImageError",
    "UnsafePathError",
    "did_you_mean",
]


class DataError(Exception):
    """Base class of all errors that medssl_data raises on purpose."""

    exit_code: int = 1
    row: int | None = None
    """Index of the row at fault, from which a table can still tell the line."""


class UnknownDatasetError(DataError, LookupError):
    """No data set has that name."""

    exit_code = 2

    __str__ = Exception.__str__  # KeyError-style quoting would hide the sentence


class SettingError(DataError, ValueError):
    """Invalid value of a setting or argument."""

    exit_code = 2


class ManifestError(DataError, ValueError):
    """Malformed or inconsistent manifest."""

    exit_code = 3


class DuplicateIdError(ManifestError):
    """Two rows have the same id."""


class LabelError(ManifestError):
    """A label is not one of the classes."""


class TableError(DataError, ValueError):
    """A table lacks a column, a cell or a row, or cannot be decoded."""

    exit_code = 3


class UnsafePathError(DataError, ValueError):
    """A path leads out of the root folder of its data set."""

    exit_code = 3


class EmptySourceError(DataError, ValueError):
    """A folder, class or table holds no images."""

    exit_code = 3


class UnreadableImageError(DataError, OSError, ValueError):
    """An image file that cannot be decoded; callers may skip it and count it."""

    exit_code = 3

    @classmethod
    def of(
        cls, path: Path, reason: str, advice: str = "replace the file or leave it out"
    ) -> UnreadableImageError:
        """Say which file it is, why it is not a picture, and what to do."""
        return cls(f"{path} {reason}; {advice}")


class NotAFileError(DataError, OSError):
    """A pipe, a device or a socket where a file is needed."""

    exit_code = 3


class MissingFileError(DataError, FileNotFoundError):
    """A file that a table or a card names is not there."""

    exit_code = 3


class MissingDatasetError(DataError, FileNotFoundError):
    """The data set is known, but its files are not under the root."""

    exit_code = 4


class MissingExtraError(DataError, ImportError):
    """An optional package is needed that is not installed."""

    exit_code = 4


class SplitError(DataError, ValueError):
    """The rows cannot be split as requested."""

    exit_code = 3


class PairError(DataError, ValueError):
    """No pair of views can be formed."""

    exit_code = 3


class LeakError(DataError, ValueError):
    """The same patient or picture is in two splits."""

    exit_code = 3


class AuditError(DataError, ValueError):
    """A copy of a data set differs from its card, or has unreadable files."""

    exit_code = 3


class PluginError(DataError, RuntimeError):
    """A data set of a plug-in cannot be used."""

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
"""What decoders of other packages were seen to raise on damaged files."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Say which known names are close to a wrong one, or which there are where none is.

    Args:
        name: The wrong one.
        known: The right ones.

    Returns:
        The end of a message.

    Example:
        >>> did_you_mean("chexprt", ["bach", "chexpert"])
        '; did you mean chexpert?'
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; known are {', '.join(names)}"
