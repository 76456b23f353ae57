"""`medssl-data`: look at data sets, check them, draw them, split them. Parse, call, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medssl_data.console import (
    Console,
    DatasetsOption,
    ForceOption,
    JsonOption,
    ProtocolOption,
    QuietOption,
    RootOption,
    SeedOption,
    create_app,
    run,
)
from medssl_data.errors import SettingError

if TYPE_CHECKING:
    from medssl_data.confounders.search import Confounders

__all__ = ["app", "main"]

app = create_app(
    "medssl-data",
    "Medical image data sets and your own folders: list, check, split and look at them.",
    examples=(
        "medssl-data check -d folder:my-images",
        "medssl-data preview -d phantom:chest-xray --out sheet.png",
    ),
)

NameArgument = Annotated[str, typer.Argument(help="A card's name, or a source such as folder:DIR.")]
LabelsOption = Annotated[
    str | None, typer.Option("--labels", help="Label policy (default: the protocol's).")
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="published, patient, official, none, or a CSV file (default: the protocol's).",
    ),
]


def main() -> None:
    """Run the console script."""
    raise SystemExit(run(app))


@app.command("list", epilog="Example: [bold]medssl-data list --json[/bold]")
def list_command(root: RootOption = Path("data"), json: JsonOption = False) -> None:
    """List the data sets that have a name, and whether they are here."""
    from medssl_data.catalog import broken_plugins, list_datasets
    from medssl_data.synthetic.layouts import LAYOUTS
    from medssl_data.synthetic.phantom import PHANTOMS

    console = Console(json=json)
    cards = list_datasets()
    here = {card.name: (root / card.name).is_dir() for card in cards}
    console.document(
        {
            "datasets": [
                card.model_dump(mode="json") | {"here": here[card.name]} for card in cards
            ],
            "sources": ["folder:DIR", "table:FILE.csv", "medmnist:FILE.npz", "phantom:NAME"],
            "phantoms": [*PHANTOMS, *LAYOUTS],
            "broken": broken_plugins(),
        }
    )
    rows: list[tuple[object, ...]] = [
        (card.name, card.modality, len(card.classes), card.rows, "yes" if here[card.name] else "no")
        for card in cards
    ]
    rows += [(f"phantom:{name}", text, 2, "any", "drawn") for name, text in PHANTOMS.items()]
    console.table(("name", "modality", "classes", "images", "here"), rows)
    for name, fault in broken_plugins().items():
        console.warn(f"plug-in {name} is broken: {fault}")


@app.command("show", epilog="Example: [bold]medssl-data show phantom:chest-xray[/bold]")
def show_command(
    name: NameArgument,
    root: RootOption = Path("data"),
    protocol: ProtocolOption = "corrected",
    json: JsonOption = False,
) -> None:
    """Say what a data set is: where to get it, its licence, the tree that is expected."""
    from medssl_data.catalog import describe

    console = Console(json=json)
    facts = describe(name, root=root, protocol=protocol)
    console.document(facts)
    rows = [(key, value) for key, value in facts.items() if key != "tree"]
    console.table(("", ""), rows)
    if facts.get("tree"):
        console.line(f"\nexpected under {root}/\n{facts['tree']}")


@app.command("check", epilog="Example: [bold]medssl-data check -d folder:my-images[/bold]")
def check_command(
    dataset: DatasetsOption = None,
    root: RootOption = Path("data"),
    protocol: ProtocolOption = "corrected",
    labels: LabelsOption = None,
    fast: Annotated[bool, typer.Option("--fast", help="Do not decode images.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check counts, files and what the label follows; exit 3 where something must be repaired."""
    from medssl_data.audit import audit_dataset, report_findings

    console = Console(json=json, quiet=quiet)
    reports = [
        audit_dataset(
            name,
            root=root,
            protocol=protocol,
            labels=labels,
            decode=not fast,
            progress=console.progress,
        )
        for name in _named(dataset)
    ]
    console.document([report.as_dict() for report in reports])
    for report in reports:
        console.table(("class", "images"), list(report.counts.items()), title=report.name)
        console.table(("what", "where", "remedy"), report.rows())
        if report.confounders is not None:
            _show_confounders(console, report.confounders)
    report_findings(reports)


def _show_confounders(console: Console, found: Confounders) -> None:
    heads = ("the label against", "strength", "95 % interval", "p", "verdict")
    some = f" of {found.total:,}" if found.images < found.total else ""
    owners = f"{found.patients:,} patients" if found.patients else "unknown patients"
    title = f"{found.name}: {found.images:,}{some} images of {owners}"
    console.table(heads, found.rows(), title=title)
    for name, why in found.skipped.items():
        if why != "it has one value":
            console.say(f"{found.name}: {name} was not tested: {why}")


@app.command("preview", epilog="Example: [bold]medssl-data preview -d phantom:chest-xray[/bold]")
def preview_command(
    dataset: DatasetsOption = None,
    root: RootOption = Path("data"),
    protocol: ProtocolOption = "corrected",
    labels: LabelsOption = None,
    out: Annotated[Path, typer.Option("--out", help="PNG file to write.")] = Path("preview.png"),
    per_class: Annotated[int, typer.Option(help="Pictures for each class.", min=1, max=100)] = 6,
    views: Annotated[
        bool, typer.Option("--views", help="Draw pairs of views side by side.")
    ] = False,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Draw a labelled contact sheet of each class."""
    from medssl_data.catalog import load_dataset
    from medssl_data.images.preview import contact_sheet, pair_sheet, save_sheet

    console = Console(json=json)
    sheets = []
    for name in _named(dataset):
        data = load_dataset(name, root=root, protocol=protocol, labels=labels, split="none")
        draw = pair_sheet if views else contact_sheet
        sheets.append(draw(data, per_class=per_class, seed=seed))
    size = save_sheet(sheets, out)
    console.document({"path": str(out), "width": size[0], "height": size[1]})
    console.line(f"{out} ({size[0]} x {size[1]})")


@app.command("phantom", epilog="Example: [bold]medssl-data phantom chest-xray --root data[/bold]")
def phantom_command(
    name: Annotated[str, typer.Argument(help="chest-xray, hospital, or a card's name.")],
    root: RootOption = Path("data"),
    seed: SeedOption = 0,
    count: Annotated[int | None, typer.Option(help="Images of chest-xray.", min=2)] = None,
    difficulty: Annotated[
        float | None, typer.Option(help="From 0 (obvious) to 1 (invisible).", min=0, max=1)
    ] = None,
    confounder: Annotated[
        str | None,
        typer.Option(
            "--confounder", help="view, marker or brightness: planted so that it follows the class."
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option("--strength", help="Of the confounder: 0 random, 1 always.", min=0, max=1),
    ] = None,
    size: Annotated[
        Literal["small", "full"], typer.Option("--size", help="full has the real number of rows.")
    ] = "small",
    archive: Annotated[
        Literal["binary", "python"] | None,
        typer.Option("--archive", help="Which of CIFAR's two archives to write."),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a synthetic stand-in, in the layout of the data set, under the root."""
    from medssl_data.synthetic.phantom import write_phantom

    console = Console(json=json, quiet=quiet)
    settings: dict[str, object] = {
        "count": count,
        "difficulty": difficulty,
        "confounder": confounder,
        "strength": strength,
        "seed": seed,
        "archive": archive,
    }
    chosen = {key: str(value) for key, value in settings.items() if value is not None}
    facts = write_phantom(name, root, chosen, size=size, force=force, progress=console.progress)
    console.document(facts)
    console.line(f"wrote {facts['images']} synthetic images; use -d {facts['use']}")


@app.command("split", epilog="Example: [bold]medssl-data split -d chexpert --out s.csv[/bold]")
def split_command(
    dataset: DatasetsOption = None,
    root: RootOption = Path("data"),
    protocol: ProtocolOption = "corrected",
    labels: LabelsOption = None,
    split: SplitOption = None,
    seed: SeedOption = 0,
    out: Annotated[Path, typer.Option("--out", help="CSV file to write.")] = Path("split.csv"),
    validation: Annotated[
        bool,
        typer.Option(
            "--validation",
            help="Take validation images from the training images, as the study did.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write a split as CSV with its digest; use it again with --split FILE."""
    from medssl_data.catalog import load_dataset
    from medssl_data.splits import with_validation, write_split

    console = Console(json=json)
    name = _single(dataset)
    data = load_dataset(name, root=root, protocol=protocol, labels=labels, split=split, seed=seed)
    manifest = with_validation(data.manifest) if validation else data.manifest
    digest = write_split(manifest, out)
    counts = {side: manifest.splits.count(side) for side in dict.fromkeys(manifest.splits)}
    facts = {"path": str(out), "digest": digest, "split": manifest.split_policy, "counts": counts}
    console.document(facts)
    console.table(("split", "images"), list(counts.items()), title=f"{manifest.split_policy}")
    console.line(f"{out}  sha256 {digest}")


@app.command("leaks", epilog="Example: [bold]medssl-data leaks -d chexpert --split patient[/bold]")
def leaks_command(
    dataset: DatasetsOption = None,
    root: RootOption = Path("data"),
    protocol: ProtocolOption = "corrected",
    labels: LabelsOption = None,
    split: SplitOption = None,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="PNG file for the pairs that were found.")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Do not decode the images.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Look for patients, files and near-duplicates on two sides of a split; exit 3 if found."""
    from medssl_data.catalog import load_dataset
    from medssl_data.images.preview import save_sheet
    from medssl_data.leaks import find_leaks, leak_sheet, report_leaks

    console = Console(json=json, quiet=quiet)
    reports, sheets = [], []
    for name in _named(dataset):
        data = load_dataset(
            name, root=root, protocol=protocol, labels=labels, split=split, seed=seed
        )
        report = find_leaks(data, pixels=not fast, progress=console.progress)
        reports.append(report)
        if out is not None and report.leaks:
            sheets.append(leak_sheet(data, report.leaks))
        if not report.patients:
            console.say(f"{name}: its patients are unknown, so only pictures were compared")
        if report.skipped:
            some = ", ".join(report.skipped[:3])
            left = f"{len(report.skipped)} image(s) that cannot be read ({some})"
            console.warn(f"{name}: {left} were not compared; `medssl-data check` lists them")
    if sheets and out is not None:
        save_sheet(sheets, out)
    console.document([report.as_dict() for report in reports])
    rows = [(r.name, r.split_policy, r.patients, *r.counts().values()) for r in reports]
    heads = ("data set", "split", "patients", "patient", "identical", "near-duplicate")
    console.table(heads, rows)
    report_leaks(reports)


def _single(datasets: list[str] | None) -> str:
    names = _named(datasets)
    if len(names) != 1:
        message = f"expected one data set, got {len(names)}"
        raise SettingError(message)
    return names[0]


def _named(datasets: list[str] | None) -> list[str]:
    if not datasets:
        message = "no data set is named; add --dataset NAME (`medssl-data list` shows all)"
        raise SettingError(message)
    return datasets
