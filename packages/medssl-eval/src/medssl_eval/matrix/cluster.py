"""The jobs of a matrix on a Ray cluster, or on one that Ray starts on this machine.

Order, places, retries and the loss of nodes are Ray's business. The nodes share a file system: the
data, the folder of features and the folder that the command was started in.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medssl_eval.errors import MissingExtraError, PlanError
from medssl_eval.matrix.jobs import JobResult, perform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from medssl_eval.matrix.jobs import Job, SharedContext

__all__ = ["RayExecutor"]

OF_OURS = {"include_dashboard": False, "object_store_memory": 128 * 2**20}
"""For a cluster that is started here: only results are passed between processes."""


@dataclass(frozen=True)
class RayExecutor:
    """Tasks of a Ray cluster.

    Args:
        address: Of the cluster, such as `auto` or `HOST:6379`; None starts one on this machine.
        cpus: Of a job.
        gpus: Of a job.
        retries: How often Ray tries a job again whose process or node is gone.
        shard: Images of one piece of an extraction.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float = 0.0
    retries: int = 2
    shard: int = 20_000

    @property
    def workers(self) -> int:
        """How many jobs the cluster can do at once, where it is connected; else 1."""
        ray = _ray()
        if not ray.is_initialized():
            return 1
        return max(int(ray.cluster_resources().get("CPU", 1) // self.cpus), 1)

    def run(
        self,
        jobs: Sequence[Job],
        shared: SharedContext,
        *,
        wanted: Callable[[Job], bool],  # noqa: ARG002 # all jobs are with Ray from the start
    ) -> Iterator[JobResult]:
        """Hand all jobs to Ray, each with the results that it comes after, and take what comes."""
        ray = _ray()
        with self._connected(ray):
            task = ray.remote(perform).options(
                num_cpus=self.cpus, num_gpus=self.gpus, max_retries=self.retries
            )
            refs: dict[str, Any] = {}
            common = ray.put(shared)
            for job in jobs:
                before = [refs[name] for name in job.after]
                refs[job.name] = task.remote(job, common, *before)
            names = {ref: name for name, ref in refs.items()}
            pending = list(names)
            while pending:
                done, pending = ray.wait(pending)
                yield from (_result(ray, names[ref], ref) for ref in done)

    @contextmanager
    def _connected(self, ray: Any) -> Iterator[None]:  # noqa: ANN401 # a module
        """Connect, unless whoever calls is connected already."""
        if ray.is_initialized():
            yield
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray's own niceness of 15 starves the cells beside anything else that the machine does.
        os.environ.setdefault("RAY_worker_niceness", "0")
        options = _of_theirs() if self.address else OF_OURS
        try:
            ray.init(
                self.address or "local", logging_level="warning", log_to_driver=False, **options
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            message = f"no Ray cluster at {self.address or 'this machine'}: {error}"
            raise PlanError(message) from error
        try:
            # Ray's own threads print what they notice, and stdout is the command's result.
            with redirect_stdout(sys.stderr):
                yield
        finally:
            ray.shutdown()


def _of_theirs() -> dict[str, Any]:
    """Let the processes of somebody's cluster find models and features where the driver does."""
    variables = {name: os.environ[name] for name in os.environ if name.startswith("MEDSSL_")}
    return {"runtime_env": {"env_vars": variables}} if variables else {}


def _result(ray: Any, name: str, ref: Any) -> JobResult:  # noqa: ANN401 # Ray's types
    try:
        found: JobResult = ray.get(ref)
    except ray.exceptions.RayError as error:
        first = str(error).strip().splitlines()[0]
        return JobResult(name, error=f"Ray gave it up: {type(error).__name__}: {first}")
    return found


def _ray() -> Any:  # noqa: ANN401 # a module without complete types
    try:
        import ray
    except ImportError as error:
        message = "Ray is not installed: pip install 'medssl-eval[ray]'"
        raise MissingExtraError(message) from error
    return ray
