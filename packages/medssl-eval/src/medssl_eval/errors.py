"""Everything that this package raises on purpose.

Each class carries the exit code of the command line (2 wrong usage, 3 bad input, 4 something must
be brought) and is also the built-in exception that a caller would expect.
"""

__all__ = [
    "CheckpointFileError",
    "DivergedError",
    "EvalError",
    "FeatureError",
    "InfeasibleError",
    "LabelError",
    "MissingExtraError",
    "PlanError",
    "PredictionsError",
    "ResultsError",
    "SettingsError",
    "UnfinishedError",
    "UnknownNameError",
]


class EvalError(Exception):
    """Root of all errors of this package."""

    exit_code: int = 1


class SettingsError(EvalError, ValueError):
    """A setting outside of what is allowed."""

    exit_code = 2


class UnknownNameError(EvalError, LookupError):
    """A name that no experiment, metric or protocol bears."""

    exit_code = 2


class InfeasibleError(EvalError, ValueError):
    """The data cannot carry the experiment, such as a class with too few images."""

    exit_code = 3


class FeatureError(EvalError, ValueError):
    """Features that no experiment can use: NaN, infinite, or of the wrong shape."""

    exit_code = 3


class LabelError(EvalError, ValueError):
    """Labels outside the classes, or without a second class."""

    exit_code = 3


class PredictionsError(EvalError, ValueError):
    """Predictions of single images that are missing, damaged or of other images."""

    exit_code = 3


class DivergedError(EvalError, ArithmeticError):
    """A training run whose loss left all bounds; the message says what to change."""


class CheckpointFileError(EvalError, ValueError):
    """The checkpoint of a training run that is damaged or something else."""

    exit_code = 3


class ResultsError(EvalError, ValueError):
    """A results file that is missing or holds nothing that can be used."""

    exit_code = 3


class MissingExtraError(EvalError, ImportError):
    """An optional package that has to be installed first."""

    exit_code = 4


class PlanError(EvalError, ValueError):
    """A plan that cannot be read or carried out; the message names the file and the key."""

    exit_code = 3


class UnfinishedError(EvalError):
    """Some cells of a matrix failed; the message names them. The others are kept."""
