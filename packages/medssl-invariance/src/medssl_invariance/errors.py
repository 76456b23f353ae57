"""What can go wrong in this package, by what the caller can do about it.

Every class carries the exit code of the command line and inherits the built-in that a caller of
the Python interface would expect. Nothing here imports torch.
"""

from typing import ClassVar

__all__ = [
    "CovarianceError",
    "FeatureError",
    "GridError",
    "InvarianceError",
    "PairError",
    "TooFewImagesError",
    "UnknownFamilyError",
]


class InvarianceError(Exception):
    """Root of all errors of medssl-invariance; by itself: the work failed."""

    exit_code: ClassVar[int] = 1


class UnknownFamilyError(InvarianceError, LookupError):
    """No family of transforms has this name, or the protocol has no grid for it."""

    exit_code = 2


class GridError(InvarianceError, ValueError, IndexError):
    """A family has no grid of the size that was asked for."""

    exit_code = 2


class TooFewImagesError(InvarianceError, ValueError):
    """There are not enough images to transform and to estimate a covariance from."""

    exit_code = 3


class FeatureError(InvarianceError, ValueError):
    """Features that nothing can be compared with: constant, or not finite."""

    exit_code = 3


class CovarianceError(InvarianceError, ValueError):
    """A covariance cannot be inverted or factored as the settings demand."""

    exit_code = 3


class PairError(InvarianceError, ValueError):
    """Views that should have a partner have none, and the settings do not let them be skipped."""

    exit_code = 3
