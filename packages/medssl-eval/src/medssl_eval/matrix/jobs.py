"""What a process of a matrix does: one job, and a result that is a value even where it failed.

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

from medssl_models.experiments.registry import find_experiment
from medssl_models.experiments.runner import networks_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from medssl_data import ImageDataset
    from medssl_models import Backbone, ExtractionSettings, FeatureStore, Preprocessing, Record
    from medssl_models.experiments.settings import ProtocolName
    from pydantic import BaseModel

    from medssl_eval.matrix.plan import DatasetChoice

__all__ = ["Job", "JobResult", "MatrixCell", "SharedContext", "open_cell", "perform"]

Kind = Literal["features", "stretch", "join", "cell"]


@dataclass(frozen=True)
class MatrixCell:
    """One experiment on one model and one data set.

    Args:
        model: The model's one name, as in records.
        dataset: The data set, its labels and split.
        experiment: Name of the experiment.
        settings: Of the experiment.
        asked: The model as the plan names it, which may be a folder's path; empty is its name.
    """

    model: str
    dataset: DatasetChoice
    experiment: str
    settings: BaseModel
    asked: str = ""

    @property
    def name(self) -> str:
        """For people; unique in a plan."""
        choice = self.dataset
        chosen = [f"split {choice.split}"] * bool(choice.split)
        chosen += [f"labels {choice.labels}"] * bool(choice.labels)
        more = f" ({', '.join(chosen)})" if chosen else ""
        return f"{self.experiment} of {self.model} on {choice.name}{more}"


@dataclass(frozen=True)
class SharedContext:
    """What all jobs of a matrix share.

    Args:
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

    Args:
        name: Unique in a matrix.
        kind: `features` and its parts `stretch` and `join`, or `cell`.
        cell: Whose experiment it is, or one of those that need the features.
        after: Names of the jobs that must have been done.
        rows: First and last + 1 of a stretch.
        known: Records by key that need not be computed.
    """

    name: str
    kind: Kind
    cell: MatrixCell
    after: tuple[str, ...] = ()
    rows: tuple[int, int] | None = None
    known: Mapping[str, Record] = field(default_factory=dict)


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    Args:
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


def perform(job: Job, shared: SharedContext, *before: JobResult) -> JobResult:
    """Do a job; whatever it raises becomes the result's error.

    Args:
        job: What to do.
        shared: Where, and with what.
        before: Results of the jobs that it comes after; where one failed, so does this.
    """
    from medssl_models.features.runtime import threads

    failed = [result for result in before if result.error]
    if failed:
        return JobResult(job.name, error=failed[0].error)
    begin = time.perf_counter()
    try:
        with contextlib.chdir(shared.folder), threads(shared.threads):
            records, key = _BY_KIND[job.kind](job, shared, before)
    except Exception as error:  # noqa: BLE001 # a failed cell must not stop the others
        if os.environ.get("MEDSSL_DEBUG") == "1":
            traceback.print_exception(error)
        return JobResult(job.name, seconds=time.perf_counter() - begin, error=_sentence(error))
    return JobResult(job.name, tuple(records), time.perf_counter() - begin, key=key)


def open_cell(cell: MatrixCell, root: Path) -> tuple[Backbone, ImageDataset]:
    """Create a cell's model and open the images it uses; both are kept for the next cell."""
    settings: Any = cell.settings
    experiment = find_experiment(cell.experiment)
    protocol = getattr(settings, "labels", settings.protocol)
    seed = getattr(settings, "seed", 0)
    data = _dataset(cell.dataset, root, protocol, seed)
    asked = experiment.of_dataset(data.card, settings) if data.card else {}
    more = {name: value for name, value in asked.items() if getattr(cell.dataset, name) is None}
    if more:
        data = _dataset(cell.dataset.model_copy(update=more), root, protocol, seed)
    backbone = _model(cell.asked or cell.model, networks_of(settings))
    return backbone, experiment.images(data, settings)


@functools.lru_cache(maxsize=2)
def _model(name: str, networks: ProtocolName) -> Backbone:
    from medssl_models.backbone import create_model

    return create_model(name, protocol=networks)


@functools.lru_cache(maxsize=8)
def _dataset(choice: DatasetChoice, root: Path, protocol: ProtocolName, seed: int) -> ImageDataset:
    from medssl_data.opening import open_datasets

    options: Any = {"labels": choice.labels, "split": choice.split}
    (data,) = open_datasets([choice.name], root=root, protocol=protocol, seed=seed, **options)
    return data


def _store(shared: SharedContext) -> FeatureStore:
    from medssl_models.features.store import FeatureStore

    return FeatureStore(shared.store)


def _preprocessing(cell: MatrixCell, backbone: Backbone, data: ImageDataset) -> Preprocessing:
    prepare = find_experiment(cell.experiment).preprocessing
    if prepare is None:
        message = f"{cell.experiment} reads no features"
        raise TypeError(message)
    return prepare(backbone, data, cell.settings)


Done = tuple[list["Record"], str]


def _extract(job: Job, shared: SharedContext, _: tuple[JobResult, ...]) -> Done:
    from medssl_models.features.extraction import extract

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


def _join(job: Job, shared: SharedContext, before: tuple[JobResult, ...]) -> Done:
    from medssl_models.features.sharding import merge_shards

    backbone, data = open_cell(job.cell, shared.root)
    table = merge_shards(
        backbone,
        data,
        [result.key for result in before],
        preprocessing=_preprocessing(job.cell, backbone, data),
        settings=shared.extraction,
        store=_store(shared),
    )
    return [], table.key


def _measure(job: Job, shared: SharedContext, _: tuple[JobResult, ...]) -> Done:
    """Run an experiment as `medssl_models.run` does; the driver keeps the records."""
    from medssl_models.experiments.context import RunContext
    from medssl_models.experiments.runner import annotate

    backbone, data = open_cell(job.cell, shared.root)
    experiment = find_experiment(job.cell.experiment)
    output = experiment.output
    context = RunContext(
        extraction=shared.extraction,
        store=_store(shared),
        results=shared.results,
        output=None if output is None else shared.results.parent / output,
        known=job.known,
        options=None if experiment.options is None else experiment.options(),
    )
    found = experiment.run(backbone, data, job.cell.settings, context)
    return [annotate(record, backbone, data) for record in found], ""


_BY_KIND: Mapping[Kind, Any] = {
    "features": _extract,
    "stretch": _extract,
    "join": _join,
    "cell": _measure,
}


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(getattr(error, "exit_code", None), int) or isinstance(error, OSError):
        return text
    return f"{type(error).__name__}: {text}"
