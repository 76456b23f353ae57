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
from typing import TYPE_CHECKING, Literal

from medssl_eval.errors import PlanError
from medssl_eval.experiments.declarations import find_experiment
from medssl_eval.matrix.jobs import Cell, Job, Outcome, Surroundings, open_cell
from medssl_eval.matrix.ledger import Ledger
from medssl_eval.matrix.plan import probe_settings

if TYPE_CHECKING:
    from medssl_models import Provenance, Record
    from medssl_models.console import Advance, Progress

    from medssl_eval.matrix.executors import Engine
    from medssl_eval.matrix.plan import Plan

__all__ = ["CellState", "Matrix", "PlannedCell"]

Say = Callable[[str], None]
CellState = Literal["to do", "done", "done before", "impossible", "failed"]
FEATURES = "features"


@dataclass(frozen=True)
class PlannedCell:
    """A cell, and how it stands.

    Attributes:
        cell: Which.
        state: `to do`, `done before` or `impossible`; after a run `done` or `failed` too.
        images: Of its data set.
        provenance: What identifies it, for the line that says that it is done.
        passes: Images that run through the network beyond the features; None is not known.
        features: Key of the features that it reads; empty where it runs the network itself.
        cached: Whether those are there.
        reason: Why it is impossible, or failed.
        records: What it gave.
        seconds: What it took, or took before.
    """

    cell: Cell
    state: CellState
    images: int
    provenance: Provenance
    passes: int | None = None
    features: str = ""
    cached: bool = False
    reason: str = ""
    records: tuple[Record, ...] = ()
    seconds: float | None = None


@dataclass
class Matrix:
    """A plan that is carried out.

    Attributes:
        plan: What is asked for.
        say: Takes notes.
        warn: Takes warnings.
        progress: Shows how many cells are done, and the time left.
        force: Do again what is done; the new records are appended, the newest of equal ones counts.
        skip_impossible: Leave out cells that a data set cannot carry, instead of refusing the plan.
    """

    plan: Plan
    say: Say = lambda _: None
    warn: Say = lambda _: None
    progress: Progress | None = None
    force: bool = False
    skip_impossible: bool = False

    @cached_property
    def results(self) -> Ledger:
        """The records."""
        return Ledger(self.plan.results, self.warn)

    @cached_property
    def finished(self) -> Ledger:
        """A line for each cell that is done."""
        name = f"{self.plan.results.stem}-cells{self.plan.results.suffix}"
        return Ledger(self.plan.results.with_name(name), self.warn)

    @cached_property
    def surroundings(self) -> Surroundings:
        """What all jobs share."""
        from medssl_models import ExtractionSettings, FeatureStore

        extraction = ExtractionSettings.model_validate(self.plan.extraction.model_dump())
        store = FeatureStore(self.plan.store).root
        return Surroundings(
            folder=Path.cwd(),
            root=self.plan.root,
            results=self.plan.results,
            store=store,
            extraction=extraction,
            threads=self.plan.engine.cpus,
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
        settings = {name: probe_settings(self.plan, name) for name in self.plan.probes}
        return [
            self._look(Cell(model, dataset, probe, settings[probe]))
            for model in dict.fromkeys(self.plan.models)
            for dataset in dict.fromkeys(self.plan.datasets)
            for probe in self.plan.probes
        ]

    def run(self, engine: Engine) -> list[PlannedCell]:
        """Do what is not done; a cell that fails does not stop the others.

        Returns:
            All cells, with what became of them.

        Raises:
            PlanError: Cells are impossible; said before anything is computed.
            OSError: The results cannot be written. What was written before is kept.
        """
        cells = self.cells()
        impossible = [planned for planned in cells if planned.state == "impossible"]
        if impossible and not self.skip_impossible:
            first = impossible[0]
            message = (
                f"{len(impossible)} of {len(cells)} cells are impossible, {first.cell.name}: "
                f"{first.reason}; --dry-run lists them, --skip-impossible leaves them out"
            )
            raise PlanError(message)
        by_name = {planned.cell.name: planned for planned in cells}
        open_ = [planned for planned in cells if planned.state == "to do"]
        try:
            for done in self._carry_out(open_, engine):
                by_name[done.cell.name] = done
        except KeyboardInterrupt as stop:
            kept = sum(p.state in {"done", "done before"} for p in by_name.values())
            stop.add_note(
                f"{kept} of {len(cells)} cells are kept in {self.plan.results}, the same command "
                "goes on from there"
            )
            raise
        return list(by_name.values())

    def _look(self, cell: Cell) -> PlannedCell:
        from medssl_models.features.sharding import feature_request

        backbone, data = open_cell(cell, self.plan.root)
        plugin = find_experiment(cell.probe)
        provenance = _provenance(cell, backbone, data, self.surroundings)
        planned = PlannedCell(cell, "to do", len(data), provenance)
        try:
            if plugin.check is not None:
                plugin.check(data, cell.settings)
        except Exception as error:
            if not isinstance(getattr(error, "exit_code", None), int):
                raise
            return replace(planned, state="impossible", reason=str(error))
        passes = plugin.passes(data, cell.settings) if plugin.passes is not None else None
        planned = self._as_done(replace(planned, passes=passes))
        if plugin.preprocessing is None:
            return planned
        request = feature_request(
            backbone,
            data,
            preprocessing=plugin.preprocessing(backbone, data, cell.settings),
            settings=self.surroundings.extraction,
        )
        return replace(planned, features=request.key, cached=self._has(request))

    def _has(self, request: object) -> bool:
        from medssl_models import FeatureStore

        return FeatureStore(self.surroundings.store).load_fresh(request) is not None  # type: ignore[arg-type] # of feature_request

    def _as_done(self, planned: PlannedCell) -> PlannedCell:
        """Say `done before` where its line is there and every record of it too."""
        line = self.finished.records.get(_line(planned, 0.0).key)
        if line is None or self.force:
            return planned
        keys = [str(key) for key in _list(line.details.get("records"))]
        if any(key not in self.results.records for key in keys):
            return planned
        records = tuple(self.results.records[key] for key in keys)
        return replace(planned, state="done before", records=records, seconds=line.value)

    def _carry_out(self, cells: Sequence[PlannedCell], engine: Engine) -> Iterator[PlannedCell]:
        jobs = list(self._jobs(cells, engine.shard))
        by_job = {planned.cell.name: planned for planned in cells}
        if not jobs:
            return
        with _shown(self.progress, len(jobs)) as advance:
            for outcome in engine.run(jobs, self.surroundings, wanted=self._is_wanted(by_job)):
                planned = by_job.get(outcome.job)
                if planned is not None:
                    yield self._keep(planned, outcome)
                elif outcome.error:
                    self.warn(f"{outcome.job}: {outcome.error}")
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
        origin = planned.provenance
        return self._by_origin.get((origin.weights, origin.manifest), {})

    @cached_property
    def _by_origin(self) -> Mapping[tuple[str, str], dict[str, Record]]:
        found: dict[tuple[str, str], dict[str, Record]] = {}
        for key, record in self.results.records.items():
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

    def _keep(self, planned: PlannedCell, outcome: Outcome) -> PlannedCell:
        """Write a cell's records, then the line that says that it is done."""
        if outcome.error:
            self.warn(f"{planned.cell.name}: {outcome.error}")
            return replace(planned, state="failed", reason=outcome.error)
        if not outcome.records:
            elsewhere = self._as_done(planned)
            if elsewhere.state == "done before":
                return elsewhere
        self.results.add(outcome.records, again=self.force)
        done = replace(planned, state="done", records=outcome.records, seconds=outcome.seconds)
        self.finished.add([_line(done, outcome.seconds)], again=self.force)
        return done


def _line(planned: PlannedCell, seconds: float) -> Record:
    from medssl_models import Record

    cell = planned.cell
    settings = cell.settings.model_dump(mode="json", exclude={"protocol", "seed"})
    return Record(
        experiment="matrix-cell",
        metric="seconds",
        unit="s",
        value=seconds,
        settings={"probe": cell.probe, "settings": settings},
        details={
            "records": [r.key for r in planned.records],
            "images": planned.images,
            "passes": planned.passes,
            "reads_features": bool(planned.features),
        },
        provenance=planned.provenance,
    )


def _provenance(
    cell: Cell, backbone: object, data: object, surroundings: Surroundings
) -> Provenance:
    from medssl_models import Provenance

    return Provenance(
        model=backbone.name,  # type: ignore[attr-defined] # of open_cell
        weights=backbone.fingerprint,  # type: ignore[attr-defined] # as above
        dataset=data.name,  # type: ignore[attr-defined] # as above
        manifest=data.manifest.fingerprint,  # type: ignore[attr-defined] # as above
        protocol=str(getattr(cell.settings, "protocol", "corrected")),
        seed=int(getattr(cell.settings, "seed", 0)),
        precision=surroundings.extraction.precision,
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _count_silently(n: int = 1, *, note: str = "") -> None:
    """Satisfy `Advance` where nothing is shown."""


def _shown(progress: Progress | None, total: int) -> AbstractContextManager[Advance]:
    return nullcontext(_count_silently) if progress is None else progress("matrix", total)
