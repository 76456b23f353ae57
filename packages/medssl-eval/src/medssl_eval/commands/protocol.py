"""`medssl-eval protocol`: the settings of each experiment, and where the two protocols differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from medssl_models.console import Console, JsonOption, ProtocolOption, examples
from medssl_models.experiments.command import options_of
from medssl_models.experiments.registry import experiment_names, find_experiment
from medssl_models.experiments.settings import describe, differences

if TYPE_CHECKING:
    from medssl_models.experiments.experiment import Experiment
    from medssl_models.experiments.settings import Difference

__all__ = ["protocol_app"]

protocol_app = typer.Typer(
    no_args_is_help=True, help="The settings of an experiment: the study's, and the corrected ones."
)

ExperimentArgument = Annotated[
    str,
    typer.Argument(
        metavar="EXPERIMENT",
        help="Such as few-shot; a wrong name lists all that are installed.",
        autocompletion=experiment_names,
    ),
]


@protocol_app.command("show", epilog=examples("medssl-eval protocol show few-shot"))
def protocol_show(
    experiment: ExperimentArgument,
    protocol: ProtocolOption = "corrected",
    json: JsonOption = False,
) -> None:
    """Show the settings of an experiment, what each decides, and the option that sets it."""
    console, found = Console(json=json), find_experiment(experiment)
    options = options_of(found.settings)
    fields = describe(found.settings_for(protocol), found.reasons)
    console.table(
        ("setting", "value", "option", "what it decides"),
        [(name, _shown(value), options.get(name, ""), why) for name, value, why in fields],
        title=f"{experiment}, {protocol}",
    )
    console.document(
        {
            "experiment": experiment,
            "protocol": protocol,
            "settings": [
                {"setting": name, "value": value, "option": options.get(name), "why": why}
                for name, value, why in fields
            ],
        }
    )


@protocol_app.command("diff", epilog=examples("medssl-eval protocol diff few-shot"))
def protocol_diff(experiment: ExperimentArgument, json: JsonOption = False) -> None:
    """Show where the study's way and the corrected one differ, and why."""
    console, experiment_ = Console(json=json), find_experiment(experiment)
    found = _differences(experiment_)
    console.table(
        ("setting", "published", "corrected", "defects", "why"),
        [
            (d.field, _shown(d.published), _shown(d.corrected), " ".join(d.entries), d.why)
            for d in found
        ],
        title=f"{experiment}: published against corrected",
    )
    for entry, why in experiment_.alike.items():
        console.write(f"no difference: {entry}: {why}")
    console.document(
        {
            "experiment": experiment,
            "differences": [vars(difference) for difference in found],
            "alike": [{"entry": entry, "why": why} for entry, why in experiment_.alike.items()],
        }
    )


def _differences(experiment: Experiment) -> list[Difference]:
    published, corrected = (experiment.settings_for(one) for one in ("published", "corrected"))
    return differences(published, corrected, experiment.reasons)


def _shown(value: object) -> object:
    """Write a value as a person would, not as Python does."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ",".join(str(_shown(inner)) for inner in value) or "none"
    return "none" if value is None else value
