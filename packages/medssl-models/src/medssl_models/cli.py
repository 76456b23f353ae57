"""The command line of medssl-models: parse, call the library, report."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medssl_models.console import (
    Console,
    ForceOption,
    JsonOption,
    ModelsOption,
    QuietOption,
    create_app,
    create_group,
    examples,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medssl_models.conversion.convert import Conversion
    from medssl_models.hub.library import Fetched

__all__ = ["app", "main"]

app = create_app(
    "medssl-models",
    "Pretrained backbones for medical imaging: find, fetch, convert and check their weights.",
    epilog=examples(
        "medssl-models list",
        "medssl-models fetch moco-v2",
        "medssl-models import moco-v2 moco_v2_800ep_pretrain.pth.tar",
    ),
)
bundle_app = create_group("Carry models to a machine without a network, in one archive.")
app.add_typer(bundle_app, name="bundle")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A card's name or alias.")]
FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="A weights file as it was downloaded.")
]
PlaceArgument = Annotated[
    str,
    typer.Argument(metavar="NAME|DIR", help="A card's name, or a converted folder: ./NAME."),
]
OutOption = Annotated[Path, typer.Option("--out", help="What is written.")]


def main() -> None:
    """Run the command line; the entry point of the console script."""
    sys.exit(run(app))


@app.command("list", epilog=examples("medssl-models list", "medssl-models list --json"))
def list_(json: JsonOption = False) -> None:
    """List the models, whether they can be created now, and their licences."""
    from medssl_models.catalog import available_models, broken_plugins, list_models

    console = Console(json=json)
    available = frozenset(available_models())
    rows = [(card, card.name in available) for card in list_models()]
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
    from medssl_models.catalog import resolve
    from medssl_models.conversion.model_folder import model_folder_of

    console = Console(json=json)
    model = resolve(name)
    folder = model.folder or model_folder_of(model.card)
    _report(
        console,
        {**model.card.model_dump(mode="json"), "here": model.is_here, "folder": str(folder)},
    )


@app.command(epilog=examples("medssl-models inspect resnet18-f37072fd.pth"))
def inspect(file: FileArgument, json: JsonOption = False) -> None:
    """Say what a weights file holds, without running it, and which models it fits."""
    from medssl_models.conversion.inspection import inspect_file

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
    from medssl_models.hub.library import import_model
    from medssl_models.hub.lpips_trunks import TRUNKS, import_trunk

    console = Console(json=json, quiet=quiet)
    if name in TRUNKS:  # what LPIPS looks through is no model
        _report(console, {"measure": name, "file": import_trunk(name, file, force=force)})
        return
    _report_conversion(console, import_model(model_card(name), file, force=force))


@app.command(
    epilog=examples(
        "medssl-models fetch moco-v2",
        "medssl-models fetch byol --accept-licence",
        "medssl-models fetch swav --accept-licence --mirror https://files.hospital.example/models",
    ),
)
def fetch(
    name: NameArgument,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept a non-commercial licence.")
    ] = False,
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A folder with the published files, tried first; else MEDSSL_MIRROR.",
        ),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Download the weights of a model, check them, and keep them for `--model NAME`."""
    from medssl_models.catalog import model_card
    from medssl_models.hub.library import fetch_model

    console = Console(json=json, quiet=quiet)
    card = model_card(name)
    console.say(f"licence of {card.name}: {card.licence}")
    done = fetch_model(
        card,
        mirror=mirror or os.environ.get("MEDSSL_MIRROR"),
        accept_licence=accept_licence,
        force=force,
        progress=console.progress,
    )
    _report_fetch(console, done)


@app.command(epilog=examples("medssl-models convert ResNet50_1x.zip -m simclr-v1 --out simclr"))
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A weights file, or a TensorFlow folder.")
    ],
    model: ModelsOption,
    out: OutOption,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Convert a weights file to a folder of its own, outside the library."""
    from medssl_models.catalog import model_card
    from medssl_models.conversion.convert import convert as convert_file
    from medssl_models.errors import SettingsError

    console = Console(json=json, quiet=quiet)
    if len(model) != 1:
        message = "--model: give it once, a file holds one model"
        raise SettingsError(message)
    _report_conversion(console, convert_file(source, model_card(model[0]), out, force=force))


@app.command(epilog=examples("medssl-models verify byol", "medssl-models verify exported/byol"))
def verify(place: PlaceArgument, json: JsonOption = False) -> int:
    """Check that weights are whole and give the features that they gave when converted."""
    from medssl_models.conversion.verification import verify as verify_folder
    from medssl_models.errors import SettingsError
    from medssl_models.hub.library import locate

    console = Console(json=json)
    model = locate(place)
    if model.folder is None:
        message = f"model: {model.name} is made with its weights; there is no file to verify"
        raise SettingsError(message)
    result = verify_folder(model.folder)
    console.table(
        ["check", "holds", "found"],
        [[check.name, "yes" if check.passed else "NO", check.detail] for check in result.checks],
        title=f"{model.card.name} in {model.folder}",
    )
    console.document({"model": model.card.name, "passed": result.passed, **vars(result)})
    return 0 if result.passed else 3


@app.command(
    epilog=examples(
        "medssl-models export moco-v2 --to moco-v2",
        "medssl-models export byol:torchvision --to byol-as-the-study-used-it",
    ),
)
def export(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A model's name; NAME:torchvision pads so.")
    ],
    to: Annotated[Path, typer.Option("--to", help="The folder to write.")],
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a model as a folder in the Hugging Face layout, for timm and torchvision."""
    from medssl_models.hub.exporting import export_model

    console = Console(json=json, quiet=quiet)
    done = export_model(name, to, force=force)
    card = done.origin.card
    if not done.exact_elsewhere:
        console.warn(
            f"{card.name} pads as {card.padding}, which timm and torchvision do not; only "
            "medssl-models gives its exact features from this folder"
        )
    facts = {"model": card.name, "folder": done.folder, "padding": card.padding}
    _report(console, {**facts, "exact_elsewhere": done.exact_elsewhere})


@bundle_app.command(
    "export",
    epilog=examples(
        "medssl-models bundle export byol moco-v2 --out models.zip",
        "medssl-models bundle export --out all-that-are-here.zip",
    ),
)
def bundle_export(
    out: OutOption,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Imported models; all when none is named."),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Pack imported models with their cards and hashes into one archive."""
    from medssl_models.hub.bundles import export_bundle

    console = Console(json=json, quiet=quiet)
    table = export_bundle(names or [], out, force=force)
    console.table(
        ["model", "licence", "bytes"],
        [
            [model.name, model.licence, sum(file.size for file in model.files.values())]
            for model in table.models
        ],
        title=str(out),
    )
    console.document({"bundle": out, **table.model_dump(mode="json")})


@bundle_app.command("import", epilog=examples("medssl-models bundle import models.zip"))
def bundle_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What bundle export wrote.")],
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check every model of an archive and keep it for `--model NAME`."""
    from medssl_models.hub.bundles import import_bundle

    console = Console(json=json, quiet=quiet)
    done = import_bundle(file, force=force)
    console.table(
        ["model", "folder", ""],
        [[one.name, one.folder, "new" if one.new else "was here"] for one in done],
    )
    console.document(done)


def _report(console: Console, facts: Mapping[str, object]) -> None:
    """Write facts: all of them as a document, those that say something as a table."""
    rows = [[key, _told(value)] for key, value in facts.items() if value or value is False]
    console.table(["field", "value"], rows)
    console.document(facts)


def _report_conversion(console: Console, done: Conversion) -> None:
    origin = done.origin
    console.table(
        ["field", "value"],
        [
            ("model", origin.card.name),
            ("folder", done.folder),
            ("tensors used", done.used),
            *((f"left out: {rule}", count) for rule, count in origin.dropped.items()),
            *((f"sha256 of {source}", digest) for source, digest in origin.sources.items()),
        ],
    )
    console.document(
        {
            "model": origin.card.name,
            "folder": done.folder,
            "used": done.used,
            "dropped": origin.dropped,
            "sources": origin.sources,
        }
    )


def _report_fetch(console: Console, done: Fetched) -> None:
    if done.conversion is None:
        console.say(f"{done.folder}: was here already; --force fetches it anew")
    console.table(
        ["file", "sha256", "from"], [[file.path.name, file.sha256, file.url] for file in done.files]
    )
    console.document(
        {
            "folder": done.folder,
            "new": done.conversion is not None,
            "files": [
                {"file": file.path.name, "sha256": file.sha256, "url": file.url}
                for file in done.files
            ],
        }
    )


def _told(value: object) -> str:
    """Write a card's field for people: one fact a line."""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_told(item)}" for key, item in value.items() if item)
    if isinstance(value, list):
        return "\n".join(_told(item) for item in value)
    return str(value)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
