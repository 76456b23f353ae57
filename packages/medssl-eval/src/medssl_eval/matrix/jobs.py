"""What a process of a matrix does: one job, and an outcome that is a value even where it failed.

A job is features of one model on one data set (or a stretch of them, or joining stretches), or a
cell: one experiment on one model and one data set. Nothing here knows who else is at work.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from medssl_eval.experiments.declarations import find_experiment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from medssl_data import ImageDataset
    from medssl_models import Backbone, ExtractionSettings, Preprocessing, Record
    from medssl_models.probes import Work
    from pydantic import BaseModel

    from medssl_eval.matrix.plan import DatasetChoice

__all__ = ["Cell", "Job", "Outcome", "Surroundings", "networks_of", "open_cell", "perform"]

Kind = Literal["features", "stretch", "join", "cell"]


@dataclass(frozen=True)
class Cell:
    """One experiment on one model and one data set.

    Attributes:
        model: Its name.
        dataset: The data set, its labels and split.
        probe: Name of the experiment.
        settings: Of the experiment.
    """

    model: str
    dataset: DatasetChoice
    probe: str
    settings: BaseModel

    @property
    def name(self) -> str:
        """For people; unique in a plan."""
        choice = self.dataset
        chosen = [f"split {choice.split}"] * bool(choice.split)
        chosen += [f"labels {choice.labels}"] * bool(choice.labels)
        more = f" ({', '.join(chosen)})" if chosen else ""
        return f"{self.probe} of {self.model} on {choice.name}{more}"


@dataclass(frozen=True)
class Surroundings:
    """What all jobs of a matrix share.

    Attributes:
        folder: Where relative paths begin.
        root: The folder that holds the data sets.
        results: The file that the driver appends to.
        store: The folder of features.
        extraction: How features are computed.
        threads: CPU threads of a job.
    """

    folder: Path
    root: Path
    results: Path
    store: Path
    extraction: ExtractionSettings
    threads: int


@dataclass(frozen=True)
class Job:
    """Something to do.

    Attributes:
        name: Unique in a matrix.
        kind: `features` and its parts `stretch` and `join`, or `cell`.
        cell: Whose experiment it is, or one of those that need the features.
        after: Names of the jobs that must have been done.
        rows: First and last + 1 of a stretch.
        known: Records by key that need not be computed.
    """

    name: str
    kind: Kind
    cell: Cell
    after: tuple[str, ...] = ()
    rows: tuple[int, int] | None = None
    known: Mapping[str, Record] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: Its name.
        records: Of a cell.
        seconds: How long it took.
        error: A sentence where it failed, else empty.
        key: Of the features that were computed.
    """

    job: str
    records: tuple[Record, ...] = ()
    seconds: float = 0.0
    error: str = ""
    key: str = ""


def perform(job: Job, shared: Surroundings, *before: Outcome) -> Outcome:
    """Do a job; whatever it raises becomes the outcome's error.

    Args:
        job: What to do.
        shared: Where, and with what.
        before: Outcomes of the jobs that it comes after; where one failed, so does this.
    """
    from medssl_models.features.runtime import threads

    failed = [outcome for outcome in before if outcome.error]
    if failed:
        return Outcome(job.name, error=failed[0].error)
    begin = time.perf_counter()
    try:
        with contextlib.chdir(shared.folder), threads(shared.threads):
            records, key = _DOES[job.kind](job, shared, before)
    except Exception as error:  # noqa: BLE001 # a failed cell must not stop the others
        if os.environ.get("MEDSSL_DEBUG") == "1":
            traceback.print_exception(error)
        return Outcome(job.name, seconds=time.perf_counter() - begin, error=_sentence(error))
    return Outcome(job.name, tuple(records), time.perf_counter() - begin, key=key)


def networks_of(settings: Any) -> Literal["published", "corrected"]:  # noqa: ANN401 # any experiment's
    """Whose padding an experiment's networks have."""
    padding = getattr(settings, "padding", None)
    if padding is None:
        return "published" if settings.protocol == "published" else "corrected"
    return "published" if padding == "study" else "corrected"


def open_cell(cell: Cell, root: Path) -> tuple[Backbone, ImageDataset]:
    """Create a cell's model and open its data set; both are kept for the next cell."""
    labels = getattr(cell.settings, "labels", None)
    if labels is None:
        labels = "study" if getattr(cell.settings, "protocol", "") == "published" else "corrected"
    seed = getattr(cell.settings, "seed", 0)
    trains = find_experiment(cell.probe).trains
    return (
        _model(cell.model, networks_of(cell.settings)),
        _dataset(cell.dataset, root, labels, seed, trains=trains),
    )


@functools.lru_cache(maxsize=2)
def _model(name: str, networks: Literal["published", "corrected"]) -> Backbone:
    from medssl_models import create_model

    return create_model(name, protocol=networks)


@functools.lru_cache(maxsize=8)
def _dataset(
    choice: DatasetChoice,
    root: Path,
    labels: Literal["study", "corrected"],
    seed: int,
    *,
    trains: bool,
) -> ImageDataset:
    from medssl_eval.sweep import open_datasets

    (data,) = open_datasets(
        [choice.name],
        root=root,
        labels=labels,
        policy=choice.labels,
        split=choice.split,
        seed=seed,
        trains=trains,
    )
    return data


def _store(shared: Surroundings) -> Any:  # noqa: ANN401 # a FeatureStore, which imports torch
    from medssl_models import FeatureStore

    return FeatureStore(shared.store)


def _preprocessing(cell: Cell, backbone: Backbone, data: ImageDataset) -> Preprocessing:
    prepare = find_experiment(cell.probe).preprocessing
    if prepare is None:
        message = f"{cell.probe} reads no features"
        raise TypeError(message)
    return prepare(backbone, data, cell.settings)


Done = tuple[list["Record"], str]


def _features(job: Job, shared: Surroundings, _: tuple[Outcome, ...]) -> Done:
    from medssl_models import extract

    backbone, data = open_cell(job.cell, shared.root)
    preprocessing = _preprocessing(job.cell, backbone, data)
    if job.rows is not None:
        data = data.select(range(*job.rows))
    table = extract(
        backbone,
        data,
        preprocessing=preprocessing,
        settings=shared.extraction,
        store=_store(shared),
    )
    return [], table.key


def _join(job: Job, shared: Surroundings, before: tuple[Outcome, ...]) -> Done:
    from medssl_models.features.sharding import merge_shards

    backbone, data = open_cell(job.cell, shared.root)
    table = merge_shards(
        backbone,
        data,
        [outcome.key for outcome in before],
        preprocessing=_preprocessing(job.cell, backbone, data),
        settings=shared.extraction,
        store=_store(shared),
    )
    return [], table.key


def _cell(job: Job, shared: Surroundings, _: tuple[Outcome, ...]) -> Done:
    backbone, data = open_cell(job.cell, shared.root)
    run = find_experiment(job.cell.probe).run
    return list(run(backbone, data, job.cell.settings, _work(job, shared))), ""


def _work(job: Job, shared: Surroundings) -> Work:
    from medssl_models.probes import Work

    return Work(shared.extraction, shared.results, _store(shared), job.known)


_DOES: Mapping[Kind, Any] = {
    "features": _features,
    "stretch": _features,
    "join": _join,
    "cell": _cell,
}


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(getattr(error, "exit_code", None), int) or isinstance(error, OSError):
        return text
    return f"{type(error).__name__}: {text}"
