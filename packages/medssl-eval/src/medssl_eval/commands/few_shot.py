"""`medssl-eval few-shot`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer
from medssl_models.console import (
    BatchSizeOption,
    Console,
    DatasetsOption,
    DeviceOption,
    ForceOption,
    JsonOption,
    ModelsOption,
    PrecisionOption,
    ProtocolOption,
    QuietOption,
    ResultsOption,
    RootOption,
    SeedOption,
    WorkersOption,
)

from medssl_eval.commands.shared import DATA, RESULTS, SkipOption, gather_means, show

__all__ = ["few_shot"]

ShotsOption = Annotated[
    str,
    typer.Option("--shots", metavar="K,...", help="Support images of a class; several at once."),
]
WaysOption = Annotated[
    str | None,
    typer.Option("--ways", metavar="N|all", help="Classes in an episode; else the protocol's."),
]


def few_shot(
    model: ModelsOption,
    dataset: DatasetsOption,
    root: RootOption = DATA,
    protocol: ProtocolOption = "corrected",
    shots: ShotsOption = "20",
    ways: WaysOption = None,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Query images of a class.")] = 15,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="How many episodes.")] = 600,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    batch_size: BatchSizeOption = None,
    workers: WorkersOption = None,
    skip_unreadable: SkipOption = False,
    results: ResultsOption = RESULTS,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Classify by prototypes of a few images each, over many episodes."""
    from medssl_eval.experiments.few_shot import feasible
    from medssl_eval.experiments.few_shot import few_shot as evaluate
    from medssl_eval.experiments.settings import FewShotSettings, preset
    from medssl_eval.sweep import Sweep, open_datasets

    console = Console(json=json, quiet=quiet)
    settings = preset(
        FewShotSettings,
        protocol,
        shots=_numbers("--shots", shots),
        ways=None if ways is None else _ways(ways),
        queries=queries,
        episodes=episodes,
        seed=seed,
    )
    means = gather_means(
        console,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        skip_unreadable=skip_unreadable,
        force=force,
    )
    sweep = Sweep(
        models=model,
        datasets=open_datasets(dataset, root=root, labels=settings.labels),
        results=results,
        networks="published" if settings.padding == "study" else "corrected",
        force=force,
        say=console.say,
        warn=console.warn,
    )
    records = sweep.run(
        lambda backbone, data, given: evaluate(backbone, data, settings=settings, means=given),
        check=partial(feasible, settings=settings),
        means=means,
    )
    show(console, records, results)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """Read `1,5,20`; what is no number above 0 is refused."""
    from medssl_eval.errors import SettingsError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        message = f"{option} is {text!r}; give numbers above 0 with commas between, such as 1,5,20"
        raise SettingsError(message)
    return tuple(dict.fromkeys(int(part) for part in parts))


def _ways(text: str) -> int | str:
    from medssl_eval.errors import SettingsError

    if text in {"all", "study"}:
        return text
    if not text.isdecimal() or int(text) < 2:
        message = f"--ways is {text!r}; give a number from 2 on, all, or study"
        raise SettingsError(message)
    return int(text)
