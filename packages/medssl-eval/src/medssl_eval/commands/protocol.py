"""`medssl-eval protocol`: the settings of each experiment, and where the two protocols differ."""

from __future__ import annotations

from typing import Annotated

import typer
from medssl_models.console import Console, JsonOption, ProtocolOption, examples

__all__ = ["protocol_app"]

protocol_app = typer.Typer(
    no_args_is_help=True, help="The settings of an experiment: the study's, and the corrected ones."
)

ExperimentArgument = Annotated[
    str,
    typer.Argument(
        metavar="EXPERIMENT",
        help="Such as few-shot; a wrong name lists all that are installed.",
    ),
]


@protocol_app.command("show", epilog=examples("medssl-eval protocol show few-shot"))
def protocol_show(
    experiment: ExperimentArgument,
    protocol: ProtocolOption = "corrected",
    json: JsonOption = False,
) -> None:
    """Show the settings of an experiment, and what each decides."""
    from medssl_eval.experiments.declarations import describe

    console = Console(json=json)
    fields = describe(experiment, protocol)
    console.table(
        ("setting", "value", "what it decides"),
        [(name, _shown(value), why) for name, value, why in fields],
        title=f"{experiment}, {protocol}",
    )
    console.document(
        {"experiment": experiment, "protocol": protocol, "settings": [
            {"setting": name, "value": value, "why": why} for name, value, why in fields
        ]}
    )  # fmt: skip


@protocol_app.command("diff", epilog=examples("medssl-eval protocol diff few-shot"))
def protocol_diff(experiment: ExperimentArgument, json: JsonOption = False) -> None:
    """Show where the study's way and the corrected one differ, and why."""
    from medssl_eval.experiments.declarations import differences

    console = Console(json=json)
    found = differences(experiment)
    console.table(
        ("setting", "published", "corrected", "defects", "why"),
        [
            (d.field, _shown(d.published), _shown(d.corrected), " ".join(d.entries), d.why)
            for d in found
        ],
        title=f"{experiment}: published against corrected",
    )
    console.document({"experiment": experiment, "differences": [vars(d) for d in found]})


def _shown(value: object) -> object:
    return "none" if value is None else value
