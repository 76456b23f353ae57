"""Where the jobs of a matrix are done: in processes of this machine, or on Ray (see `cluster`)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Protocol

from medssl_eval.matrix.jobs import JobResult, perform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from medssl_eval.matrix.jobs import Job, SharedContext

__all__ = ["Executor", "LocalExecutor"]

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Executor(Protocol):
    """Does jobs in an order in which each comes after those that it needs."""

    @property
    def workers(self) -> int:
        """How many jobs can be done at once, as far as is known."""

    @property
    def shard(self) -> int | None:
        """Images of one piece of an extraction; None extracts in one piece."""

    def run(
        self, jobs: Sequence[Job], shared: SharedContext, *, wanted: Callable[[Job], bool]
    ) -> Iterator[JobResult]:
        """Do jobs and yield their results as they come, one for each job.

        Args:
            jobs: Each after those that it needs.
            shared: What all of them share.
            wanted: Asked before a job is begun where that is possible; what is no longer wanted
                has a result without records.
        """


@dataclass(frozen=True)
class LocalExecutor:
    """Processes of this machine, fresh ones (spawned), each with its share of the threads.

    Args:
        workers: How many.
        retries: How often a job is tried again whose process was killed.
        shard: Always None: one process extracts a data set.
    """

    workers: int
    retries: int = 2
    shard: None = None

    def run(
        self, jobs: Sequence[Job], shared: SharedContext, *, wanted: Callable[[Job], bool]
    ) -> Iterator[JobResult]:
        """Do jobs, the first that can be begun first."""
        waiting, done = list(jobs), dict[str, JobResult]()
        tries = dict.fromkeys((job.name for job in jobs), 0)
        workers = [_Worker(shared) for _ in range(min(self.workers, len(jobs)))]
        try:
            while len(done) < len(jobs):
                for result in _begin(workers, waiting, done, wanted):
                    done[result.job] = result
                    yield result
                for worker, found in _finished(workers):
                    if found is None and tries[worker.job.name] < self.retries:
                        tries[worker.job.name] += 1
                        waiting.insert(0, worker.job)
                        worker.renew()
                        continue
                    worker.busy = False
                    result = found or JobResult(worker.job.name, error=_killed(worker.renew()))
                    done[result.job] = result
                    yield result
        finally:
            for worker in workers:
                worker.close()


def _begin(
    workers: Sequence[_Worker],
    waiting: list[Job],
    done: dict[str, JobResult],
    wanted: Callable[[Job], bool],
) -> Iterator[JobResult]:
    """Hand every idle worker a job; what is not wanted, or cannot be done, is over at once."""
    for job in list(waiting):
        if any(name not in done for name in job.after):
            continue
        failed = next((done[name] for name in job.after if done[name].error), None)
        if failed or not wanted(job):
            waiting.remove(job)
            yield JobResult(job.name, error=failed.error if failed else "")
            continue
        idle = next((worker for worker in workers if not worker.busy), None)
        if idle is None:
            return
        waiting.remove(job)
        idle.begin(job)


def _finished(workers: Sequence[_Worker]) -> Iterator[tuple[_Worker, JobResult | None]]:
    """Wait until a worker has a result, or None where its process is gone."""
    busy = {worker.pipe: worker for worker in workers if worker.busy}
    for pipe in wait(list(busy)) if busy else ():
        worker = busy[pipe]  # type: ignore[index] # we gave it pipes only
        try:
            yield worker, worker.pipe.recv()
        except (EOFError, OSError):  # killed before its result, or in the middle of sending it
            yield worker, None


class _Worker:
    """A process that does one job after the other."""

    def __init__(self, shared: SharedContext) -> None:
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
        """Forget a process that is gone, and return its exit code."""
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


def _serve(pipe: Connection, shared: SharedContext) -> None:
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
    if code is None or code >= 0:
        return f"worker ended with exit code {code}"
    memory = ", probably out of memory; try fewer processes" if code == -signal.SIGKILL else ""
    return f"worker killed by signal {-code}{memory}"
