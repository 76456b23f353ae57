"""Predictions of every test image, kept beside the results so that models can be compared in pairs.

One file serves all records of a run: `results.jsonl` has its predictions in `results.predictions/`,
and each record's `details["predictions"]` names the file and the digest of what it holds. Whatever
else lies there is written and read in the same way (`write_arrays`, `read_kept`).
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from medssl_models.files import open_plain, replacing

from medssl_eval.errors import PredictionsError
from medssl_eval.statistics.metrics import checked_predictions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from medssl_models import Record
    from numpy.typing import NDArray

__all__ = ["Predictions", "predictions_folder", "read_predictions"]

FORMAT = 1
_ARRAYS = ("format", "ids", "groups", "classes", "labels", "probabilities", "targets")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a classifier said about each test image, and what is true.

    Args:
        ids: N names of the images, each once.
        groups: N patient names, "" where unknown: resamples draw whole patients.
        classes: K names in label order.
        labels: (N,) int64 in 0..K-1.
        probabilities: (N, K) float64 in [0, 1].
        targets: (N,) float64, soft targets of the second class where the label policy makes them.

    Raises:
        PredictionsError: Columns of different lengths, an id that occurs twice, or no image.
        LabelError: Labels outside the classes.
        FeatureError: Probabilities that are none.
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    targets: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        labels, probabilities = checked_predictions(self.labels, self.probabilities)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "probabilities", probabilities)
        lengths = {len(self.ids), len(self.groups), len(labels)}
        if self.targets is not None:
            lengths.add(len(self.targets))
        if len(lengths) > 1 or len(self.classes) != probabilities.shape[1]:
            message = (
                f"predictions: {len(self.ids)} ids, {len(self.groups)} groups and {len(labels)} "
                f"labels, {len(self.classes)} classes for {probabilities.shape[1]} columns; give "
                "one of each"
            )
            raise PredictionsError(message)
        if len(set(self.ids)) < len(self.ids):
            message = "predictions: an image occurs twice; name each image once"
            raise PredictionsError(message)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything, 64 hex digits; the order of the images counts."""
        soft = b"" if self.targets is None else _bytes(self.targets, "<f8")
        numbers = _bytes(self.labels, "<i8") + _bytes(self.probabilities, "<f8") + soft
        return digest((*self.classes, "", *self.ids, "", *self.groups), numbers)

    @cached_property
    def questions(self) -> str:
        """SHA-256 over which images were asked and what is true; whatever their order.

        Predictions with equal `questions` can be compared in pairs.
        """
        order = sorted(range(len(self)), key=self.ids.__getitem__)
        return digest(
            (*self.classes, "", *(self.ids[row] for row in order)),
            _bytes(self.labels[order], "<i8"),
        )

    def in_order(self, ids: Iterable[str]) -> Predictions:
        """The same predictions for these images, in this order.

        Raises:
            PredictionsError: An image was not predicted.
        """
        place = {name: row for row, name in enumerate(self.ids)}
        wanted = tuple(ids)
        missing = [name for name in wanted if name not in place]
        if missing:
            message = f"predictions: {len(missing)} images were not predicted, such as {missing[0]}"
            raise PredictionsError(message)
        rows = [place[name] for name in wanted]
        return Predictions(
            ids=wanted,
            groups=tuple(self.groups[row] for row in rows),
            classes=self.classes,
            labels=self.labels[rows],
            probabilities=self.probabilities[rows],
            targets=None if self.targets is None else self.targets[rows],
        )

    def save(self, folder: Path) -> dict[str, object]:
        """Write a file whose name is its content, unless it is there; no half file is ever seen.

        Args:
            folder: See `predictions_folder`; created.

        Returns:
            What a record keeps as `details["predictions"]`: `file` relative to the results file's
            folder, `sha256` (the fingerprint) and `questions`.

        Raises:
            OSError: The file cannot be written.
        """
        kept = write_arrays(folder, self.fingerprint, self._arrays())
        return {**kept, "questions": self.questions}

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        return {
            "format": np.array(FORMAT),
            "ids": np.array(self.ids),
            "groups": np.array(self.groups),
            "classes": np.array(self.classes),
            "labels": self.labels,
            "probabilities": self.probabilities,
            "targets": np.zeros(0) if self.targets is None else np.asarray(self.targets),
        }

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what `save` wrote; nothing in the file is run.

        Raises:
            PredictionsError: There is no such file, or it holds something else.
        """
        arrays = read_arrays(path, _ARRAYS, "predictions", FORMAT)
        return cls(
            ids=tuple(arrays["ids"].tolist()),
            groups=tuple(arrays["groups"].tolist()),
            classes=tuple(arrays["classes"].tolist()),
            labels=arrays["labels"],
            probabilities=arrays["probabilities"],
            targets=arrays["targets"] if arrays["targets"].size else None,
        )


def predictions_folder(results: Path) -> Path:
    """The folder that keeps the predictions behind a results file, beside it."""
    return results.with_suffix(".predictions")


def read_predictions(record: Record, results: Path) -> Predictions:
    """Read the predictions behind a record, and make sure that they are those.

    Args:
        record: From `results`.
        results: The results file; predictions lie in its folder.

    Raises:
        PredictionsError: The record keeps none, or the file is missing or another one.
    """
    return read_kept(record, results, "predictions", Predictions.load)


class _Kept(Protocol):
    @property
    def fingerprint(self) -> str: ...


K = TypeVar("K", bound=_Kept)


def read_kept(record: Record, results: Path, what: str, load: Callable[[Path], K]) -> K:
    """Read what a record keeps beside its results, and make sure that it is that.

    Args:
        record: From `results`; `details[what]` names the file and its fingerprint.
        results: The results file; what is kept lies in its folder.
        what: Such as `predictions`.
        load: Reads the file.

    Raises:
        PredictionsError: The record keeps none, or the file is missing or another one.
    """
    entry = record.details.get(what)
    who = f"{record.experiment} of {record.provenance.model} on {record.provenance.dataset}"
    if not isinstance(entry, dict) or not {"file", "sha256"} <= entry.keys():
        message = f"{who} has no {what} of single images; repeat it with force"
        raise PredictionsError(message)
    path = results.parent / _confined(str(entry["file"]), who)
    found = load(path)
    if found.fingerprint != entry["sha256"]:
        message = f"{path} does not hold the {what} of {who}; repeat it with force"
        raise PredictionsError(message)
    return found


def write_arrays(
    folder: Path, fingerprint: str, arrays: Mapping[str, NDArray[Any]]
) -> dict[str, object]:
    """Write arrays to a file whose name is its content, unless it is there.

    Returns:
        What a record keeps: `file` relative to the results file's folder, and `sha256`.

    Raises:
        OSError: The file cannot be written.
    """
    path = folder / f"{fingerprint[:20]}.npz"
    if not path.exists():
        with replacing(path) as draft:
            np.savez_compressed(draft, **arrays)  # type: ignore[arg-type] # its stub
    return {"file": f"{folder.name}/{path.name}", "sha256": fingerprint}


def read_arrays(
    path: Path, names: Iterable[str], what: str, version: int
) -> dict[str, NDArray[Any]]:
    """Read the arrays of an npz file that lies beside a results file; nothing in it is run.

    Args:
        path: The file.
        names: Its arrays, `format` among them.
        what: What it holds, for messages.
        version: The format that is understood.

    Raises:
        PredictionsError: There is no such file, or it holds something else.
    """
    try:
        with open_plain(path) as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in names}
    except FileNotFoundError as error:
        message = f"{path} is not there: repeat the experiment with force"
        raise PredictionsError(message) from error
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        message = f"{path} holds no {what}: repeat the experiment with force"
        raise PredictionsError(message) from error
    if int(arrays["format"]) != version:
        message = f"{path} has format {arrays['format']}, this version reads {version}"
        raise PredictionsError(message)
    return arrays


def _confined(name: str, who: str) -> Path:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        message = f"{who} names a file outside the folder of its results: {name}"
        raise PredictionsError(message)
    return path


def _bytes(numbers: NDArray[np.generic], dtype: str) -> bytes:
    return np.ascontiguousarray(numbers, dtype).tobytes()


def digest(names: Iterable[str], numbers: bytes) -> str:
    """SHA-256 over names, each with its length, and numbers; 64 hex digits."""
    hasher = hashlib.sha256()
    for name in names:
        raw = name.encode()
        hasher.update(len(raw).to_bytes(8, "little") + raw)
    hasher.update(numbers)
    return hasher.hexdigest()
