"""The command line of medssl-models: parse, call the library, report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from medssl_models.console import (
    Console,
    ForceOption,
    JsonOption,
    QuietOption,
    create_app,
    examples,
    run,
)

__all__ = ["app", "main"]

app = create_app(
    "medssl-models",
    "Pretrained backbones for medical imaging: find, check and import their weights.",
    epilog=examples(
        "medssl-models list",
        "medssl-models import moco-v2 moco_v2_800ep_pretrain.pth.tar",
    ),
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A card's name or alias.")]
FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="A weights file as it was downloaded.")
]


def main() -> None:
    """Run the command line; the entry point of the console script."""
    sys.exit(run(app))


@app.command("list", epilog=examples("medssl-models list", "medssl-models list --json"))
def list_(json: JsonOption = False) -> None:
    """List the models, whether their weights are here, and their licences."""
    from medssl_models.catalog import broken_plugins, list_models
    from medssl_models.library import is_imported

    console = Console(json=json)
    rows = [(card, is_imported(card)) for card in list_models()]
    broken = broken_plugins()
    console.table(
        ["model", "architecture", "dim", "here", "use", "summary"],
        [
            [
                card.name,
                card.architecture,
                card.feature_dim,
                "yes" if here else "no",
                "non-commercial" if card.non_commercial else "",
                card.summary,
            ]
            for card, here in rows
        ]
        + [[plugin.name, "plug-in", "", "", "", f"broken: {plugin.reason}"] for plugin in broken],
    )
    console.document(
        [{**card.model_dump(mode="json"), "here": here} for card, here in rows]
        + [{"name": plugin.name, "broken": plugin.reason} for plugin in broken]
    )


@app.command(epilog=examples("medssl-models show random_r50", "medssl-models show byol --json"))
def show(name: NameArgument, json: JsonOption = False) -> None:
    """Show all that is known about a model."""
    from medssl_models.catalog import model_card
    from medssl_models.library import is_imported, model_folder_of

    console = Console(json=json)
    card = model_card(name)
    here = is_imported(card)
    facts = {**card.model_dump(mode="json"), "here": here, "folder": str(model_folder_of(card))}
    console.table(
        ["field", "value"], [[key, _told(value)] for key, value in facts.items() if value]
    )
    console.document(facts)


@app.command(epilog=examples("medssl-models inspect resnet18-f37072fd.pth"))
def inspect(file: FileArgument, json: JsonOption = False) -> None:
    """Say what a weights file holds, without running it, and which models it fits."""
    from medssl_models.inspection import inspect_file

    console = Console(json=json)
    report = inspect_file(file)
    facts = [
        ("container", report.container),
        *((f"sha256 of {source}", digest) for source, digest in report.sources.items()),
        ("bytes", report.size),
        ("top level", ", ".join(report.top_level)),
        ("tensors", len(report.tensors)),
        ("fits", ", ".join(report.fits) or "no model that we know"),
    ]
    console.table(["field", "value"], facts, title=str(file))
    console.table(
        ["tensor", "shape"], [[name, _shape(shape)] for name, shape in report.tensors.items()]
    )
    console.document(report)


@app.command(
    "import",
    epilog=examples("medssl-models import supervised_r18 resnet18-f37072fd.pth"),
)
def import_(
    name: NameArgument,
    file: FileArgument,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check a weights file against a model's card and keep it for `--model NAME`."""
    from medssl_models.catalog import model_card
    from medssl_models.library import import_model
    from medssl_models.measure_trunks import TRUNKS, import_trunk

    console = Console(json=json, quiet=quiet)
    if name in TRUNKS:  # what LPIPS looks through is no model
        kept = import_trunk(name, file, force=force)
        console.table(["field", "value"], [("measure", name), ("file", kept)])
        console.document({"measure": name, "file": kept})
        return
    done = import_model(model_card(name), file, force=force)
    console.table(
        ["field", "value"],
        [
            ("model", done.origin.card.name),
            ("folder", done.folder),
            ("tensors used", done.used),
            *((f"left out: {rule}", count) for rule, count in done.origin.dropped.items()),
            *((f"sha256 of {source}", digest) for source, digest in done.origin.sources.items()),
        ],
    )
    console.document(
        {
            "model": done.origin.card.name,
            "folder": done.folder,
            "used": done.used,
            "dropped": done.origin.dropped,
            "sources": done.origin.sources,
        }
    )


def _told(value: object) -> str:
    """A card's field for people: one fact a line."""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_told(item)}" for key, item in value.items() if item)
    if isinstance(value, list):
        return "\n".join(_told(item) for item in value)
    return str(value)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
