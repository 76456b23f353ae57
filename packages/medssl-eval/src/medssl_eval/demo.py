"""The demonstration: untrained controls on synthetic radiographs, without a download."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from medssl_models import Records, RunContext

__all__ = ["CONTROLS", "DATASET", "run_demo"]

CONTROLS = ("random_r18", "random_r50", "random_d121")
DATASET = "phantom:chest-xray,difficulty=0.2"
SHOTS = (1, 5, 20)


def run_demo(
    output: Path,
    *,
    seed: int = 0,
    context: RunContext,
    models: tuple[str, ...] = CONTROLS,
    dataset: str | None = None,
) -> Records:
    """Run the whole way: images, features, episodes, records, pictures.

    Args:
        output: Folder for the pictures; created.
        seed: Of the episodes and of what the contact sheet shows.
        context: How features are computed, and where records go. The bar chart, the contact sheet
            of the images and the file of records are added to its files.
        models: Names of the controls.
        dataset: Name of the phantom; `DATASET` where left out.

    Returns:
        One record for each control and number of shots.
    """
    from medssl_data.images.preview import contact_sheet, save_sheet
    from medssl_data.opening import open_datasets
    from medssl_models.experiments.runner import run

    from medssl_eval.experiments.declarations import FEW_SHOT
    from medssl_eval.report.drawing import bar_chart

    datasets = open_datasets([dataset or DATASET])
    settings = FEW_SHOT.settings_for("corrected", {"shots": SHOTS, "seed": seed})
    records = run(FEW_SHOT, models, datasets, settings, context, controls=False)
    sheet, chart = output / "contact-sheet.png", output / "few-shot.png"
    save_sheet([contact_sheet(datasets[0], seed=seed)], sheet)
    bar_chart(records, chart, title="Few-shot accuracy of untrained controls")
    context.files.extend([chart, sheet, context.results_file])
    return records
