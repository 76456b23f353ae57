"""The declaration: settings, metric, and what is done with a model and a data set."""

from class_distance import distance_of_means
from medssl_data import ImageDataset
from medssl_models import Backbone, Experiment, Metric, Record, RunContext
from medssl_models.experiments.settings import ExperimentSettings, Option, setting


class Settings(ExperimentSettings):
    """Each field: what it decides, its default, and the study's way where that differs."""

    unit_length: bool = setting(
        "Bring features to length 1 first; long vectors decide otherwise.",
        corrected=True,
        published=False,
        option=Option(),
    )


def run(
    backbone: Backbone, data: ImageDataset, settings: Settings, context: RunContext
) -> list[Record]:
    """Measure one model on one data set; features come from the store where they are known."""
    from medssl_models import extract  # noqa: PLC0415 # it needs torch, a command line does not

    table = extract(backbone, data, settings=context.extracting, store=context.store)
    distance = distance_of_means(table.features, data.labels, unit_length=settings.unit_length)
    fingerprint = backbone.preprocessing.fingerprint
    return [
        Record(
            experiment="class-distance",
            metric="distance",
            value=distance,
            n=len(data),
            settings=context.settings_of(settings),
            provenance=context.provenance(backbone, data, settings, preprocessing=fingerprint),
        )
    ]


CLASS_DISTANCE = Experiment(
    name="class-distance",
    title="distance of class means",
    summary="Measure how far apart the mean features of two classes lie.",
    settings=Settings,
    metrics=(Metric("distance", "distance of means", "higher", bounds=(0, None)),),
    run=run,
    examples=("medssl-eval class-distance -m random_r18 -d folder:scans",),
)
