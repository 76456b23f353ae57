"""Where the jobs of a matrix are done: in processes of this machine. Ray's way is in `cluster`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Protocol

from medssl_eval.matrix.jobs import Outcome, perform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from medssl_eval.matrix.jobs import Job, Surroundings

__all__ = ["Engine", "LocalEngine"]

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Engine(Protocol):
    """Does jobs in an order in which each comes after those that it needs."""

    @property
    def places(self) -> int:
        """How many jobs can be done at once, as far as is known."""

    @property
    def shard(self) -> int | None:
        """Images of one piece of an extraction; None extracts in one piece."""

    def run(
        self, jobs: Sequence[Job], shared: Surroundings, *, wanted: Callable[[Job], bool]
    ) -> Iterator[Outcome]:
        """Do jobs and give their outcomes as they come, one for each job.

        Args:
            jobs: Each after those that it needs.
            shared: What all of them share.
            wanted: Asked before a job is begun where that is possible; what is no longer wanted
                has an outcome without records.
        """


@dataclass(frozen=True)
class LocalEngine:
    """Processes of this machine, fresh ones (spawned), each with its share of the threads.

    Attributes:
        places: How many.
        retries: How often a job is tried again whose process was killed.
        shard: Always None: one process extracts a data set.
    """

    places: int
    retries: int = 2
    shard: None = None

    def run(
        self, jobs: Sequence[Job], shared: Surroundings, *, wanted: Callable[[Job], bool]
    ) -> Iterator[Outcome]:
        """Do jobs, the first that can be begun first."""
        waiting, done = list(jobs), dict[str, Outcome]()
        tries = dict.fromkeys((job.name for job in jobs), 0)
        places = [_Place(shared) for _ in range(min(self.places, len(jobs)))]
        try:
            while len(done) < len(jobs):
                for outcome in _begin(places, waiting, done, wanted):
                    done[outcome.job] = outcome
                    yield outcome
                for place, found in _finished(places):
                    if found is None and tries[place.job.name] < self.retries:
                        tries[place.job.name] += 1
                        waiting.insert(0, place.job)
                        place.renew()
                        continue
                    place.busy = False
                    outcome = found or Outcome(place.job.name, error=_killed(place.renew()))
                    done[outcome.job] = outcome
                    yield outcome
        finally:
            for place in places:
                place.close()


def _begin(
    places: Sequence[_Place],
    waiting: list[Job],
    done: dict[str, Outcome],
    wanted: Callable[[Job], bool],
) -> Iterator[Outcome]:
    """Give every idle place a job; what is no longer wanted, or cannot be done, is over at once."""
    for job in list(waiting):
        if any(name not in done for name in job.after):
            continue
        failed = next((done[name] for name in job.after if done[name].error), None)
        if failed or not wanted(job):
            waiting.remove(job)
            yield Outcome(job.name, error=failed.error if failed else "")
            continue
        idle = next((place for place in places if not place.busy), None)
        if idle is None:
            return
        waiting.remove(job)
        idle.begin(job)


def _finished(places: Sequence[_Place]) -> Iterator[tuple[_Place, Outcome | None]]:
    """Wait until a place has an outcome, or None where its process is gone."""
    busy = {place.pipe: place for place in places if place.busy}
    for pipe in wait(list(busy)) if busy else ():
        place = busy[pipe]  # type: ignore[index] # we gave it pipes only
        try:
            yield place, place.pipe.recv()
        except (EOFError, OSError):  # killed before its outcome, or in the middle of sending it
            yield place, None


class _Place:
    """A process that does one job after the other."""

    def __init__(self, shared: Surroundings) -> None:
        self.shared = shared
        self.busy = False
        self.job: Job
        self.process: SpawnProcess | None = None
        self.pipe: Connection

    def begin(self, job: Job) -> None:
        if self.process is None:
            self._start()
        self.busy, self.job = True, job
        try:
            self.pipe.send(job)
        except OSError:  # it was killed while it had nothing to do
            self.renew()
            self.begin(job)

    def renew(self) -> int | None:
        """Forget a process that is gone, and give its exit code."""
        process, self.process, self.busy = self.process, None, False
        if process is None:
            return None
        process.join()
        self.pipe.close()
        return process.exitcode

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.renew()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.shared), daemon=True)
        with _few_threads(self.shared.threads):
            self.process.start()
        theirs.close()


def _serve(pipe: Connection, shared: Surroundings) -> None:
    """Do jobs until the driver closes the pipe or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            return
        pipe.send(perform(job, shared))


def _end_with_parent() -> None:
    """A driver that was killed cannot end its processes; they watch it themselves."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _few_threads(count: int) -> Iterator[None]:
    """Let the libraries of a process that is started now begin with so many threads."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _killed(code: int | None) -> str:
    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    return f"its process was ended from outside ({how}), as for want of memory; try fewer processes"
