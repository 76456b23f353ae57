"""`medssl-eval demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from medssl_models.console import (
    Console,
    DeviceOption,
    ForceOption,
    JsonOption,
    QuietOption,
    SeedOption,
)

from medssl_eval.commands.shared import gather_means, show

__all__ = ["demo"]


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where pictures and results go.")
    ] = Path("medssl-demo"),
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Try everything without a download: three untrained controls on synthetic radiographs."""
    from medssl_eval.demo import run_demo

    console = Console(json=json, quiet=quiet)
    means = gather_means(console, device=device, force=force)
    outcome = run_demo(output, seed=seed, force=force, means=means, say=console.say)
    show(console, outcome.records, outcome.results)
    for path in (outcome.chart, outcome.sheet, outcome.results):
        console.write(str(path))
