"""The demonstration: untrained controls on synthetic radiographs, without a download."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from medssl_eval.experiments.few_shot import feasible, few_shot
from medssl_eval.experiments.settings import FewShotSettings, preset
from medssl_eval.sweep import Sweep, open_datasets

if TYPE_CHECKING:
    from collections.abc import Callable

    from medssl_models import Record

    from medssl_eval.experiments.features import Means

__all__ = ["CONTROLS", "DATASET", "Demonstration", "run_demo"]

CONTROLS = ("random_r18", "random_r50", "random_d121")
DATASET = "phantom:chest-xray,difficulty=0.2"
SHOTS = (1, 5, 20)


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration made.

    Attributes:
        records: One for each control and number of shots.
        chart: Bar chart with intervals.
        sheet: Contact sheet of the images.
        results: Records as JSON lines.
    """

    records: list[Record]
    chart: Path
    sheet: Path
    results: Path


def run_demo(
    output: Path,
    *,
    seed: int = 0,
    force: bool = False,
    means: Means,
    models: tuple[str, ...] = CONTROLS,
    dataset: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Demonstration:
    """Run the whole way: images, features, episodes, table, pictures.

    Args:
        output: Folder for pictures and results; created.
        seed: Of the episodes and of what the contact sheet shows.
        force: Do again what has records.
        means: How features are computed and kept.
        models: Names of the controls.
        dataset: Name of the phantom; `DATASET` where left out.
        say: Takes notes on how far it is.
    """
    from medssl_data.images.preview import contact_sheet, save_sheet

    from medssl_eval.report.drawing import bar_chart

    settings = preset(FewShotSettings, "corrected", shots=SHOTS, seed=seed)
    datasets = open_datasets([dataset or DATASET], root=Path("data"), labels=settings.labels)
    results = output / "results.jsonl"
    sweep = Sweep(models=models, datasets=datasets, results=results, force=force, say=say)
    records = sweep.run(
        lambda backbone, data, given: few_shot(backbone, data, settings=settings, means=given),
        check=partial(feasible, settings=settings),
        means=means,
    )
    sheet, chart = output / "contact-sheet.png", output / "few-shot.png"
    save_sheet([contact_sheet(datasets[0], seed=seed)], sheet)
    bar_chart(records, chart, title="Few-shot accuracy of untrained controls")
    return Demonstration(records=records, chart=chart, sheet=sheet, results=results)
