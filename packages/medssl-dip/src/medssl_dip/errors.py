"""What can go wrong in this package, by what the caller can do about it; imports no torch."""

from typing import ClassVar

__all__ = [
    "CompilerError",
    "DipError",
    "DivergedError",
    "ImageRangeError",
    "ImageSizeError",
    "OutOfMemoryError",
    "RunError",
    "SettingsError",
    "TrunkError",
]


class DipError(Exception):
    """Root of all errors of medssl-dip; by itself: the work failed."""

    exit_code: ClassVar[int] = 1


class SettingsError(DipError, ValueError):
    """An option or argument has a value that is not allowed."""

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
    """A run's folder is damaged, or holds another run than its name says."""

    exit_code = 3


class DivergedError(DipError, ArithmeticError):
    """An optimisation left the finite numbers before anything worth keeping was made."""


class CompilerError(DipError, RuntimeError):
    """`torch.compile` needs a compiler that is not here."""

    exit_code = 4


class OutOfMemoryError(DipError, MemoryError):
    """The device has too little memory for what was asked."""
