"""A toy experiment for tests and examples: how many images a data set has, and how bright they are.

It is all that an experiment needs: its arithmetic, and its declaration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medssl_models.experiments.experiment import Experiment
from medssl_models.experiments.metric import Metric
from medssl_models.experiments.settings import ExperimentSettings, Option, setting

if TYPE_CHECKING:
    from medssl_models.experiments.context import RunContext
    from medssl_models.experiments.record import Record

__all__ = ["COUNT_IMAGES", "CountSettings", "declared_metrics"]


class CountSettings(ExperimentSettings):
    """How images are counted."""

    every: int = setting(
        "Every so manieth image is counted. The study counted half of them.",
        corrected=1,
        published=2,
        entries=("I-99",),
        option=Option(("--every", "-n"), metavar="N"),
    )


def _run(backbone: Any, data: Any, settings: CountSettings, context: RunContext) -> list[Record]:  # noqa: ANN401 # any
    from medssl_models.experiments.record import Record as Result

    kept = [np.asarray(data[row][0]) for row in range(0, len(data), settings.every)]
    provenance = context.provenance(backbone, data, settings, preprocessing="none")
    values = {"images": float(len(kept)), "brightness": float(np.mean([k.mean() for k in kept]))}
    return [
        Result(
            experiment=COUNT_IMAGES.name,
            metric=name,
            value=value,
            n=len(kept),
            settings=context.settings_of(settings),
            provenance=provenance,
        )
        for name, value in values.items()
    ]


COUNT_IMAGES = Experiment(
    name="count-images",
    title="number of images",
    summary="Count the images of a data set.",
    settings=CountSettings,
    metrics=(
        Metric("images", "images", "neither", bounds=(0, None)),
        Metric("brightness", "mean brightness", "neither", bounds=(0, 255)),
    ),
    run=_run,
    label=lambda settings: f"every {settings['every']}",
    sorted_by=("every",),
)


def declared_metrics(experiment: str, *metrics: Metric) -> Experiment:
    """Declare metrics of an experiment that does nothing, for tests that only need records.

    Example:
        >>> from medssl_models.experiments.registry import declared
        >>> toy = declared_metrics("toy", Metric("score", "score", "higher"))
        >>> with declared(toy):
        ...     from medssl_models import Provenance, Record
        ...
        ...     origin = Provenance(model="m")
        ...     Record(experiment="toy", metric="score", value=1.0, provenance=origin).unit
        ''
    """
    return Experiment(
        name=experiment,
        title=experiment,
        summary="Measures nothing.",
        settings=CountSettings,
        metrics=metrics,
        run=lambda *_: (),
    )
