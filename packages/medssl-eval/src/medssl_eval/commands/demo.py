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
    from medssl_models.experiments.command import show
    from medssl_models.experiments.context import RunContext

    from medssl_eval.demo import run_demo
    from medssl_eval.experiments.declarations import FEW_SHOT

    console = Console(json=json, quiet=quiet)
    context = RunContext.of_command(
        console, results=output / "results.jsonl", device=device, force=force
    )
    records = run_demo(output, seed=seed, context=context)
    show(console, FEW_SHOT, records, context)
