"""The command line of medssl-invariance: parse, call the library, show what came back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from medssl_models.console import (
    BatchNormOption,
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
    choice,
    create_app,
    examples,
    run,
)

if TYPE_CHECKING:
    from medssl_models import Record

    from medssl_invariance.experiments.runs import Means
    from medssl_invariance.experiments.settings import Comparison

__all__ = ["app", "main"]

RESULTS, DATA = Path("results.jsonl"), Path("data")
Covariance = Literal["ledoit-wolf", "pca", "sample"]
Missing = Literal["skip", "refuse"]
Metric = Literal[
    "whitened cosine", "raw cosine", "Mahalanobis distance", "retrieval", "raw retrieval"
]

app = create_app(
    "medssl-invariance",
    "What a pretrained backbone ignores: how stable its features are.",
    epilog=examples(
        "medssl-invariance synthetic -m random_r18 -d folder:scans -t rotation -t h_flip"
    ),
)

TransformsOption = Annotated[
    list[str],
    typer.Option(
        "--transform",
        "-t",
        metavar="NAME",
        help="Such as rotation; all, study or medical mean several; repeatable. A wrong name "
        "lists them.",
    ),
]
MembersOption = Annotated[
    int | None,
    typer.Option("--k", min=1, help="Versions of an image; each family's own when left out."),
]
ImagesOption = Annotated[
    int | None, typer.Option("--images", min=1, help="How many are compared; else 100.")
]
CovarianceOption = Annotated[
    Covariance | None,
    typer.Option(
        "--covariance",
        help="How features are whitened; else the protocol's way.",
        **choice(Covariance),
    ),
]
ControlsOption = Annotated[
    bool,
    typer.Option(
        "--controls/--no-controls", help="Add the untrained network of each architecture."
    ),
]
SkipOption = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave unreadable images out, and record it.")
]


@app.command(
    epilog=examples(
        "medssl-invariance synthetic -m moco-v2 -d shenzhencxr -t rotation -t gamma",
        "medssl-invariance synthetic -m random_r18 -d medmnist:pneumoniamnist.npz -t study "
        "--protocol published --k 16",
    )
)
def synthetic(
    model: ModelsOption,
    dataset: DatasetsOption,
    transform: TransformsOption,
    root: RootOption = DATA,
    protocol: ProtocolOption = "corrected",
    k: MembersOption = None,
    images: ImagesOption = None,
    covariance: CovarianceOption = None,
    batchnorm: BatchNormOption = None,
    controls: ControlsOption = True,
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
    """Compare features of images with those of their transformed versions."""
    console = Console(json=json, quiet=quiet)
    means = _means(
        console,
        results,
        force=force,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        skip_unreadable=skip_unreadable,
    )
    records = _measure_synthetic(
        model,
        dataset,
        transform,
        means,
        root=root,
        results=results,
        controls=controls,
        protocol=protocol,
        members=k,
        images=images,
        covariance=covariance,
        batchnorm=batchnorm,
        seed=seed,
    )
    _show(console, records, results)


@app.command(
    epilog=examples(
        "medssl-invariance views -m moco-v2 -d chexpert",
        "medssl-invariance views -m random_r50 -d table:pairs.csv --missing refuse",
    )
)
def views(
    model: ModelsOption,
    dataset: DatasetsOption,
    root: RootOption = DATA,
    protocol: ProtocolOption = "corrected",
    images: ImagesOption = None,
    missing: Annotated[
        Missing,
        typer.Option("--missing", help="What to do with views without partner.", **choice(Missing)),
    ] = "skip",
    covariance: CovarianceOption = None,
    batchnorm: BatchNormOption = None,
    controls: ControlsOption = True,
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
    """Compare the two views of a patient: frontal and lateral, left and right."""
    from medssl_invariance.experiments import runs
    from medssl_invariance.experiments.settings import ViewsSettings, preset
    from medssl_invariance.experiments.views import plan_pairs
    from medssl_invariance.experiments.views import views as measure

    console = Console(json=json, quiet=quiet)
    means = _means(
        console,
        results,
        force=force,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        skip_unreadable=skip_unreadable,
    )
    settings = preset(
        ViewsSettings,
        protocol,
        images=images,
        missing=missing,
        covariance=covariance,
        batchnorm=batchnorm,
        seed=seed,
    )
    datasets = runs.open_datasets(
        dataset, root=root, labels=settings.labels, pairing=settings.pairing
    )
    for data in datasets:
        plan_pairs(data, settings)
    records = runs.run_all(
        runs.with_controls(model) if controls else model,
        datasets,
        lambda backbone, data, given: measure(backbone, data, settings=settings, means=given),
        means=means,
        networks=_networks(settings),
        results=results,
    )
    _show(console, records, results)


@app.command(
    epilog=examples(
        "medssl-invariance curve -m moco-v2 -m pirl -d shenzhencxr -t all -o curves",
        "medssl-invariance curve -m random_r18 -d phantom:chest-xray -t medical --images 20",
    )
)
def curve(
    model: ModelsOption,
    dataset: DatasetsOption,
    transform: TransformsOption,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where CSV and pictures go.")
    ] = Path("invariance-curves"),
    metric: Annotated[
        Metric, typer.Option("--metric", help="What the pictures show.", **choice(Metric))
    ] = "whitened cosine",
    root: RootOption = DATA,
    protocol: ProtocolOption = "corrected",
    k: MembersOption = None,
    images: ImagesOption = None,
    covariance: CovarianceOption = None,
    batchnorm: BatchNormOption = None,
    controls: ControlsOption = True,
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
    """Draw similarity against the parameter, and models against families."""
    from medssl_data.files import check_writable

    from medssl_invariance.figures.curves import write_curves

    console = Console(json=json, quiet=quiet)
    check_writable(output, option="--output")
    means = _means(
        console,
        results,
        force=force,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        skip_unreadable=skip_unreadable,
    )
    records = _measure_synthetic(
        model,
        dataset,
        transform,
        means,
        root=root,
        results=results,
        controls=controls,
        protocol=protocol,
        members=k,
        images=images,
        covariance=covariance,
        batchnorm=batchnorm,
        seed=seed,
    )
    files = write_curves(records, output, metric=metric)
    _show(console, records, results, files)


def main() -> None:
    """Run the command line; the entry point of the distribution."""
    sys.exit(run(app))


def _means(console: Console, results: Path, *, force: bool, **extraction: object) -> Means:
    """Gather what an experiment may use from a command's options."""
    from medssl_data.files import check_writable
    from medssl_models import ExtractionSettings, FeatureStore, home

    from medssl_invariance.experiments.runs import Means, known_records

    check_writable(results.parent, option="--results")
    return Means(
        extraction=ExtractionSettings.model_validate({**extraction, "force": force}),
        store=FeatureStore(),
        unfinished=home() / "invariance",
        progress=console.progress,
        known={} if force else known_records(results, console.warn),
    )


def _measure_synthetic(
    models: list[str],
    datasets: list[str],
    transforms: list[str],
    means: Means,
    *,
    root: Path,
    results: Path,
    controls: bool,
    protocol: Literal["published", "corrected"],
    **changes: object,
) -> list[Record]:
    """Check everything that can be checked, then run all models on all data sets."""
    from medssl_invariance.experiments import runs
    from medssl_invariance.experiments.settings import SyntheticSettings, preset
    from medssl_invariance.experiments.synthetic import feasible
    from medssl_invariance.experiments.synthetic import synthetic as measure
    from medssl_invariance.transforms.families import find_families

    settings = preset(SyntheticSettings, protocol, **changes)
    families = find_families(transforms)
    opened = runs.open_datasets(datasets, root=root, labels=settings.labels)
    for data in opened:
        feasible(data, families, settings)
    return runs.run_all(
        runs.with_controls(models) if controls else models,
        opened,
        lambda backbone, data, given: measure(
            backbone, data, families, settings=settings, means=given
        ),
        means=means,
        networks=_networks(settings),
        results=results,
    )


def _networks(settings: Comparison) -> Literal["published", "corrected"]:
    return "published" if settings.padding == "study" else "corrected"


def _show(
    console: Console, records: list[Record], results: Path, files: list[Path] | None = None
) -> None:
    """Show the table, the study's numbers where it has them, and what must be known of them."""
    from medssl_invariance.figures import tables

    console.table(tables.COLUMNS, tables.rows(records))
    published = tables.comparison(records)
    if published:
        console.table(tables.PUBLISHED_COLUMNS, published, title="against the 2022 study")
    console.document(
        {
            "records": records,
            "published": [
                dict(zip(tables.PUBLISHED_COLUMNS, row, strict=True)) for row in published
            ],
            "files": files or [],
            "results": str(results),
        }
    )
    for path in files or []:
        console.write(str(path))
    for note in dict.fromkeys(note for record in records for note in record.notes):
        console.say(f"note: {note}")


if __name__ == "__main__":
    main()
