"""What can go wrong in this package, by what the caller can do about it.

Every class carries the exit code of the command line and inherits the built-in that a caller of
the Python interface would expect. Nothing here imports torch.
"""

from typing import ClassVar

__all__ = [
    "ImageError",
    "MapError",
    "MaskError",
    "SaliencyError",
    "SettingsError",
    "UnsupportedNetworkError",
]


class SaliencyError(Exception):
    """Root of all errors of medssl-saliency; by itself: the work failed."""

    exit_code: ClassVar[int] = 1


class SettingsError(SaliencyError, ValueError):
    """An option or argument has a value that is not allowed."""

    exit_code = 2


class ImageError(SaliencyError, ValueError):
    """An image cannot be occluded: too small for the window, not finite, not readable."""

    exit_code = 3


class MaskError(SaliencyError, ValueError):
    """A mask is missing, empty or of another picture."""

    exit_code = 3


class MapError(SaliencyError, ValueError):
    """A stored map or an unfinished one is broken or belongs to another run."""

    exit_code = 3


class UnsupportedNetworkError(SaliencyError, NotImplementedError):
    """A network does something that incremental inference does not know."""
