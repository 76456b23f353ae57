"""The matrix of a plan: models x data sets x experiments, each cell once.

Only the driver, here, writes results. What is done is known from a second file beside them, which
holds a line for each finished cell: what it gave and how long it took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medssl_models.experiments.record_store import RecordStore
from medssl_models.experiments.registry import find_experiment

from medssl_eval.errors import PlanError
from medssl_eval.matrix.finished import FinishedCell, finished_cells
from medssl_eval.matrix.jobs import Job, JobResult, MatrixCell, SharedContext, open_cell
from medssl_eval.matrix.plan import experiment_settings

if TYPE_CHECKING:
    from medssl_data import ImageDataset
    from medssl_models import Backbone, Record
    from medssl_models.console import Advance, Progress
    from medssl_models.experiments.record_store import LineStore

    from medssl_eval.matrix.executors import Executor
    from medssl_eval.matrix.plan import MatrixPlan

__all__ = ["CellState", "Matrix", "PlannedCell"]

Say = Callable[[str], None]
CellState = Literal["to do", "done", "done before", "impossible", "failed"]


@dataclass(frozen=True)
class PlannedCell:
    """A cell, and how it stands.

    Args:
        cell: Which.
        state: `to do`, `done before` or `impossible`; after a run `done` or `failed` too.
        line: What will say that it is done; its key identifies the cell.
        features: Key of the features that it reads; empty where it runs the network itself.
        cached: Whether those are there.
        reason: Why it is impossible, or failed.
        records: What it gave.
        seconds: What it took, or took before.
    """

    cell: MatrixCell
    state: CellState
    line: FinishedCell
    features: str = ""
    cached: bool = False
    reason: str = ""
    records: tuple[Record, ...] = ()
    seconds: float | None = None

    @property
    def images(self) -> int:
        """How many images its data set has."""
        return self.line.images

    @property
    def passes(self) -> int | None:
        """How many images run through the network beyond the features; None is not known."""
        return self.line.passes


@dataclass
class Matrix:
    """A plan that is carried out.

    Args:
        plan: What is asked for.
        say: Takes notes.
        warn: Takes warnings.
        progress: Shows how many cells are done, and the time left.
        force: Do again what is done; the new records are appended, the newest of equal ones counts.
        skip_impossible: Leave out cells that a data set cannot carry, instead of refusing the plan.
    """

    plan: MatrixPlan
    say: Say = lambda _: None
    warn: Say = lambda _: None
    progress: Progress | None = None
    force: bool = False
    skip_impossible: bool = False

    @cached_property
    def results(self) -> RecordStore:
        """The records."""
        return RecordStore(self.plan.results, self.warn)

    @cached_property
    def finished(self) -> LineStore[FinishedCell]:
        """A line for each cell that is done."""
        return finished_cells(self.plan.results, self.warn)

    @cached_property
    def shared(self) -> SharedContext:
        """What all jobs share."""
        from medssl_models import ExtractionSettings, FeatureStore

        extraction = ExtractionSettings.model_validate(self.plan.extraction.model_dump())
        store = FeatureStore(self.plan.store).root
        return SharedContext(
            folder=Path.cwd(),
            root=self.plan.root,
            results=self.plan.results,
            store=store,
            extraction=extraction,
            threads=self.plan.executor.cpus,
        )

    def cells(self) -> list[PlannedCell]:
        """Look at every cell: can it be done, is it done; no image is opened.

        Raises:
            UnknownModelError: A name that no model bears.
            MissingWeightsError: Weights that must be brought.
            DataError: A data set that is not here or cannot be read.
        """
        from medssl_models.experiments.models import check_models

        check_models(self.plan.models)
        self.results.refresh()
        self.finished.refresh()
        return [self._look(cell) for cell in self._planned()]

    def run(self, executor: Executor) -> list[PlannedCell]:
        """Do what is not done; a cell that fails does not stop the others.

        Args:
            executor: Where jobs are done.

        Returns:
            All cells, with what became of them.

        Raises:
            PlanError: Cells are impossible; said before anything is computed.
            OSError: The results cannot be written. What was written before is kept.
        """
        from medssl_models.files import check_writable

        cells = self.cells()
        impossible = [planned for planned in cells if planned.state == "impossible"]
        if impossible and not self.skip_impossible:
            first = impossible[0]
            message = (
                f"{len(impossible)} of {len(cells)} cells are impossible, {first.cell.name}: "
                f"{first.reason}; a dry run lists them, skip_impossible leaves them out"
            )
            raise PlanError(message)
        check_writable(self.plan.results.parent, option="results")
        by_name = {planned.cell.name: planned for planned in cells}
        open_ = [planned for planned in cells if planned.state == "to do"]
        try:
            for done in self._carry_out(open_, executor):
                by_name[done.cell.name] = done
        except KeyboardInterrupt as stop:
            kept = sum(p.state in {"done", "done before"} for p in by_name.values())
            stop.add_note(
                f"{kept} of {len(cells)} cells are kept in {self.plan.results}, the same command "
                "goes on from there"
            )
            raise
        return list(by_name.values())

    def _planned(self) -> Iterator[MatrixCell]:
        """Name every cell once: models, in each the data sets, in each the experiments."""
        settings = {
            name: experiment_settings(self.plan, name, self.say) for name in self.plan.experiments
        }
        models = {name: self._names(own) for name, own in settings.items()}
        for asked in dict.fromkeys(self.plan.models):
            for dataset in dict.fromkeys(self.plan.datasets):
                for name, own in settings.items():
                    if asked in models[name]:
                        yield MatrixCell(models[name][asked], dataset, name, own, asked)

    def _names(self, settings: Any) -> dict[str, str]:  # noqa: ANN401 # an experiment's own
        """Map models as the plan names them to their one name, without second names of a model."""
        from medssl_models.experiments.models import distinct_models
        from medssl_models.experiments.runner import networks_of

        found = distinct_models(self.plan.models, protocol=networks_of(settings))
        return {asked: model for model, asked in found.items()}

    def _look(self, cell: MatrixCell) -> PlannedCell:
        from medssl_models.features.sharding import feature_request

        backbone, data = open_cell(cell, self.plan.root)
        experiment = find_experiment(cell.experiment)
        line = self._line(cell, backbone, data)
        try:
            if experiment.check is not None:
                experiment.check(data, cell.settings)
        except Exception as error:
            if not isinstance(getattr(error, "exit_code", None), int):
                raise
            return PlannedCell(cell, "impossible", line, reason=str(error))
        if experiment.passes is not None:
            line = line.model_copy(update={"passes": experiment.passes(data, cell.settings)})
        if experiment.preprocessing is None:
            return self._as_done(PlannedCell(cell, "to do", line))
        request = feature_request(
            backbone,
            data,
            preprocessing=experiment.preprocessing(backbone, data, cell.settings),
            settings=self.shared.extraction,
        )
        line = line.model_copy(update={"reads_features": True})
        planned = PlannedCell(cell, "to do", line, request.key, self._has(request))
        return self._as_done(planned)

    def _line(self, cell: MatrixCell, backbone: Backbone, data: ImageDataset) -> FinishedCell:
        return FinishedCell(
            experiment=cell.experiment,
            settings=cell.settings.model_dump(mode="json", exclude={"protocol", "seed"}),
            model=backbone.name,
            weights=backbone.fingerprint,
            dataset=data.name,
            manifest=data.manifest.fingerprint,
            protocol=str(getattr(cell.settings, "protocol", "corrected")),
            seed=int(getattr(cell.settings, "seed", 0)),
            precision=self.shared.extraction.precision,
            images=len(data),
        )

    def _has(self, request: object) -> bool:
        from medssl_models import FeatureStore

        return FeatureStore(self.shared.store).load_fresh(request) is not None  # type: ignore[arg-type] # of feature_request

    def _as_done(self, planned: PlannedCell) -> PlannedCell:
        """Say `done before` where its line is there and every record of it too."""
        line = self.finished.entries.get(planned.line.key)
        known = self.results.entries
        if line is None or self.force or any(key not in known for key in line.records):
            return planned
        records = tuple(known[key] for key in line.records)
        return replace(planned, state="done before", records=records, seconds=line.seconds)

    def _carry_out(self, cells: Sequence[PlannedCell], executor: Executor) -> Iterator[PlannedCell]:
        jobs = list(self._jobs(cells, executor.shard))
        by_job = {planned.cell.name: planned for planned in cells}
        if not jobs:
            return
        with _shown(self.progress, len(jobs)) as advance:
            for result in executor.run(jobs, self.shared, wanted=self._is_wanted(by_job)):
                planned = by_job.get(result.job)
                if planned is not None:
                    yield self._keep(planned, result)
                elif result.error:
                    self.warn(f"{result.job}: {result.error}")
                advance(1)

    def _jobs(self, cells: Sequence[PlannedCell], shard: int | None) -> Iterator[Job]:
        """Put features before the cells that read them, each once."""
        begun: dict[str, str] = {}
        for planned in cells:
            key = planned.features
            if key and not planned.cached and key not in begun:
                features = list(self._extraction(planned, shard))
                begun[key] = features[-1].name
                yield from features
            after = (begun[key],) if key in begun else ()
            yield Job(planned.cell.name, "cell", planned.cell, after, known=self._known(planned))

    def _extraction(self, planned: PlannedCell, shard: int | None) -> Iterator[Job]:
        from medssl_models.features.sharding import cut_rows

        cell = planned.cell
        name = f"features of {cell.model} on {cell.dataset.name} {planned.features[:8]}"
        batch = self.plan.extraction.batch_size
        cuts = cut_rows(planned.images, most=shard, batch_size=batch) if shard else []
        if len(cuts) < 2:
            yield Job(name, "features", cell)
            return
        stretches = [
            Job(f"{name}, images {cut[0]} to {cut[1]}", "stretch", cell, rows=cut) for cut in cuts
        ]
        yield from stretches
        yield Job(name, "join", cell, tuple(job.name for job in stretches))

    def _known(self, planned: PlannedCell) -> Mapping[str, Record]:
        """Records of the same model and data, in case a run was ended before its cell's line."""
        if self.force:
            return {}
        return self._by_origin.get((planned.line.weights, planned.line.manifest), {})

    @cached_property
    def _by_origin(self) -> Mapping[tuple[str, str], dict[str, Record]]:
        found: dict[tuple[str, str], dict[str, Record]] = {}
        for key, record in self.results.entries.items():
            origin = record.provenance
            found.setdefault((origin.weights, origin.manifest), {})[key] = record
        return found

    def _is_wanted(self, cells: Mapping[str, PlannedCell]) -> Callable[[Job], bool]:
        """Ask the file whether another matrix has done a cell meanwhile."""

        def wanted(job: Job) -> bool:
            if job.name not in cells or self.force:
                return True
            self.finished.refresh()
            self.results.refresh()
            return self._as_done(cells[job.name]).state == "to do"

        return wanted

    def _keep(self, planned: PlannedCell, result: JobResult) -> PlannedCell:
        """Write a cell's records, then the line that says that it is done."""
        if result.error:
            self.warn(f"{planned.cell.name}: {result.error}")
            return replace(planned, state="failed", reason=result.error)
        if not result.records:
            elsewhere = self._as_done(planned)
            if elsewhere.state == "done before":
                return elsewhere
        self.results.append(result.records, again=self.force)
        keys = tuple(record.key for record in result.records)
        line = planned.line.model_copy(update={"records": keys, "seconds": result.seconds})
        self.finished.append([line], again=self.force)
        return replace(
            planned, state="done", line=line, records=result.records, seconds=result.seconds
        )


def _count_silently(n: int = 1, *, note: str = "") -> None:
    """Satisfy `Advance` where nothing is shown."""


def _shown(progress: Progress | None, total: int) -> AbstractContextManager[Advance]:
    return nullcontext(_count_silently) if progress is None else progress("matrix", total)
