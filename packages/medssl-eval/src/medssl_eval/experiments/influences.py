"""What each patient contributes to a number that is no mean over images, such as few-shot accuracy.

The influences of a record lie beside its results file, with the predictions of other experiments;
its `details["influences"]` names the file and the digest of what it holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.files import replacing

from medssl_eval.errors import PredictionsError
from medssl_eval.experiments.predictions import confined, digest, read_arrays

if TYPE_CHECKING:
    from pathlib import Path

    from medssl_models import Record
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Influences", "read_influences"]

FORMAT = 1
_ARRAYS = ("format", "units", "strata", "values", "plan")


@dataclass(frozen=True, eq=False)
class Influences:
    """By how much each independent unit moves an estimate.

    The sum of the squares is the variance of the estimate, the factor n / (n - 1) of each stratum
    included. Influences of one plan subtract: those of a difference between two models are the
    differences, unit by unit, and their squares add up to the variance of the difference.

    Args:
        units: U names, each once: patients, or images where patients are unknown. Where the
            estimate is a mean over episodes, which are drawn at random too, each of them is a unit.
        values: (U,) float64, in the unit of the record's value; they sum to 0 in each stratum.
        strata: (U,) int64, units of one number were drawn from one class (or are episodes).
        plan: Records with equal plans asked the same units in the same way.

    Raises:
        PredictionsError: Columns of different lengths, or a unit that occurs twice.

    Example:
        >>> one = Influences(("anna", "ben"), np.array([0.3, -0.3]), np.zeros(2, int), "plan")
        >>> other = Influences(("ben", "anna"), np.array([0.1, -0.1]), np.zeros(2, int), "plan")
        >>> (one - other).values.round(3).tolist(), round((one - other).standard_error, 3)
        ([0.4, -0.4], 0.566)
    """

    units: tuple[str, ...]
    values: Floats
    strata: NDArray[np.int64]
    plan: str

    def __post_init__(self) -> None:
        lengths = {len(self.units), len(self.values), len(self.strata)}
        if len(lengths) > 1 or len(set(self.units)) < len(self.units):
            message = (
                f"influences: {len(self.units)} units, {len(self.values)} values and "
                f"{len(self.strata)} strata; give one of each, and name each unit once"
            )
            raise PredictionsError(message)

    def __sub__(self, other: Influences) -> Influences:
        """Influences on the difference of two estimates.

        Raises:
            PredictionsError: Another plan, or other units.
        """
        if self.plan != other.plan or set(self.units) != set(other.units):
            message = "influences of different plans cannot be paired"
            raise PredictionsError(message)
        place = {name: row for row, name in enumerate(other.units)}
        theirs = other.values[[place[name] for name in self.units]]
        return Influences(self.units, self.values - theirs, self.strata, self.plan)

    @property
    def standard_error(self) -> float:
        """Of the estimate, in the unit of the values."""
        return math.sqrt(float(np.square(self.values).sum()))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of that standard error, for Student's t; infinite where it is 0.

        References:
            Satterthwaite, An approximate distribution of estimates of variance components, 1946.
        """
        strata = np.unique(self.strata, return_inverse=True)[1]
        parts = np.bincount(strata, weights=np.square(self.values))
        free = np.maximum(np.bincount(strata) - 1, 1)
        noise = float((parts**2 / free).sum())
        return float(parts.sum()) ** 2 / noise if noise else math.inf

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything, 64 hex digits; the order of the units counts."""
        numbers = (self.values.astype("<f8"), self.strata.astype("<i8"))
        return digest((self.plan, *self.units), b"".join(part.tobytes() for part in numbers))

    def save(self, folder: Path) -> dict[str, object]:
        """Write a file whose name is its content, unless it is there; no half file is ever seen.

        Args:
            folder: See `predictions_folder`; created.

        Returns:
            What a record keeps as `details["influences"]`: `file` relative to the results file's
            folder, and `sha256` (the fingerprint).

        Raises:
            OSError: The file cannot be written.
        """
        path = folder / f"{self.fingerprint[:20]}.npz"
        if not path.exists():
            with replacing(path) as draft:
                np.savez_compressed(
                    draft,
                    format=np.array(FORMAT),
                    units=np.array(self.units),
                    strata=self.strata,
                    values=self.values,
                    plan=np.array(self.plan),
                )
        return {"file": f"{folder.name}/{path.name}", "sha256": self.fingerprint}


def read_influences(record: Record, results: Path) -> Influences:
    """Read the influences behind a record, and make sure that they are those.

    Args:
        record: From `results`.
        results: The results file; influences lie in its folder.

    Raises:
        PredictionsError: The record keeps none, or the file is missing or another one.
    """
    entry = record.details.get("influences")
    who = f"{record.experiment} of {record.provenance.model} on {record.provenance.dataset}"
    if not isinstance(entry, dict) or not {"file", "sha256"} <= entry.keys():
        message = f"{who} has no influences of single images; repeat it with force"
        raise PredictionsError(message)
    path = results.parent / confined(str(entry["file"]), who)
    arrays = read_arrays(path, _ARRAYS, "influences", FORMAT)
    found = Influences(
        units=tuple(arrays["units"].tolist()),
        values=np.asarray(arrays["values"], np.float64),
        strata=np.asarray(arrays["strata"], np.int64),
        plan=str(arrays["plan"]),
    )
    if found.fingerprint != entry["sha256"]:
        message = f"{path} does not hold the influences of {who}; repeat it with force"
        raise PredictionsError(message)
    return found
