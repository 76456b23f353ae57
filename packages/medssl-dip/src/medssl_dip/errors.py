"""What can go wrong in this package, by what the caller can do about it; imports no torch."""

from typing import ClassVar

__all__ = [
    "CompilerError",
    "DipError",
    "DivergedError",
    "ImageRangeError",
    "ImageSizeError",
    "LibraryError",
    "OutOfMemoryError",
    "RunError",
    "SettingsError",
    "TrunkError",
]


class DipError(Exception):
    """Root of all errors of medssl-dip; by itself: the work failed."""

    exit_code: ClassVar[int] = 1


class SettingsError(DipError, ValueError):
    """Invalid value of an argument or a setting."""

    exit_code = 2


class ImageRangeError(DipError, ValueError):
    """A picture is not finite, or lies outside [0, 1]."""

    exit_code = 3


class ImageSizeError(DipError, ValueError):
    """Two pictures differ in size, or are too small for the measure."""

    exit_code = 3


class TrunkError(DipError, ValueError):
    """A file is not the perceptual trunk that its name promises."""

    exit_code = 3


class RunError(DipError, ValueError):
    """Damaged run folder, or one that holds another run than its name says."""

    exit_code = 3


class DivergedError(DipError, ArithmeticError):
    """Every optimisation diverged, so that nothing can be measured."""


class CompilerError(DipError, RuntimeError):
    """`torch.compile` finds no working compiler."""

    exit_code = 4


class LibraryError(DipError, ImportError):
    """An installed library is not one that this package works with."""

    exit_code = 4


class OutOfMemoryError(DipError, MemoryError):
    """Too little memory on the device."""
