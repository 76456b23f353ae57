"""Feature extraction against the plain way: eager float32, NCHW, batches of 64.

Both run in turns in one process, so that a busy machine slows both; ratios carry over to other
machines, times do not. Run it as `python bench_extraction.py [--quick] [MODEL ...]`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from medssl_models import Backbone, create_model
from medssl_models.console import Console
from medssl_models.features.runtime import (
    FeatureNetwork,
    PrecisionName,
    probe_batch_size,
    relative_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

MODELS = ("random_r18", "random_r50", "random_d121")
PLAIN_BATCH = 64
TARGETS = {"fp32": 1.5, "bf16": 2.4}


@dataclass(frozen=True)
class Outcome:
    """One network in one precision.

    Args:
        model: The network.
        precision: Of our way; the plain way is always fp32.
        batch_size: Of our way.
        plain: Images a second, plain way, median.
        ours: Images a second, our way, median.
        ratio: Median of the rounds' ratios.
        error: Relative L2 error of the features against the plain way.
    """

    model: str
    precision: str
    batch_size: int
    plain: float
    ours: float
    ratio: float
    error: float


def run_plainly(backbone: Backbone, images: Tensor) -> Tensor:
    """Compute features as a script would: eager, NCHW, batches of 64, without gradients."""
    with torch.no_grad():
        return torch.cat([backbone(batch) for batch in images.split(PLAIN_BATCH)])


def run_ours(network: FeatureNetwork, images: Tensor, batch_size: int) -> Tensor:
    """Compute features as `extract` does once images are decoded."""
    return torch.cat([network(batch) for batch in images.split(batch_size)])


def time_it(compute: Callable[[], Tensor]) -> float:
    """Give the seconds of one call."""
    begin = time.perf_counter()
    compute()
    return time.perf_counter() - begin


def measure(model: str, precision: PrecisionName, *, rounds: int, side: int) -> Outcome:
    """Measure one network in both ways, in turns."""
    backbone = create_model(model)
    backbone.checks_input = False
    network = FeatureNetwork.prepare(backbone, device=torch.device("cpu"), crop=side)
    network = network.in_precision(precision)
    size = probe_batch_size(network, side, rows=10_000)
    images = torch.rand((PLAIN_BATCH, 3, side, side), generator=torch.Generator().manual_seed(0))
    images = (images - 0.45) / 0.225

    error = relative_error(run_ours(network, images, size), run_plainly(backbone, images))
    turns = [
        (
            time_it(lambda: run_plainly(backbone, images)),
            time_it(lambda: run_ours(network, images, size)),
        )
        for _ in range(rounds)
    ]
    return Outcome(
        model=model,
        precision=precision,
        batch_size=size,
        plain=PLAIN_BATCH / statistics.median(plain for plain, _ in turns),
        ours=PLAIN_BATCH / statistics.median(ours for _, ours in turns),
        ratio=statistics.median(plain / ours for plain, ours in turns),
        error=error,
    )


def report(outcomes: Sequence[Outcome]) -> None:
    """Write a table and one JSON line."""
    columns = ("model", "precision", "batch", "plain/s", "ours/s", "ratio", "target", "error")
    rows = [
        (
            one.model,
            one.precision,
            one.batch_size,
            f"{one.plain:.1f}",
            f"{one.ours:.1f}",
            f"{one.ratio:.2f}",
            f"{TARGETS[one.precision]:.1f}",
            f"{one.error:.1e}",
        )
        for one in outcomes
    ]
    Console().table(columns, rows, title="Images a second, eager fp32 NCHW batch 64 against ours")
    summary = {"benchmark": "extraction", "threads": torch.get_num_threads()}
    summary["cpu"] = torch.backends.cpu.get_cpu_capability()
    summary["outcomes"] = [asdict(one) for one in outcomes]
    sys.stdout.write(json.dumps(summary) + "\n")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--precision", nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it runs")
    given = parser.parse_args()
    rounds = 2 if given.quick else given.rounds
    report(
        [
            measure(model, precision, rounds=rounds, side=given.side)
            for model in given.models
            for precision in given.precision
        ]
    )


if __name__ == "__main__":
    main()
