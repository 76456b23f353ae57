"""Maps of pictures, one record a picture and number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_models.experiments.record import Record

from medssl_saliency.experiments.means import open_folder, origin_of, settings_in_record
from medssl_saliency.figures.maps import draw_map, draw_models, overlay_path
from medssl_saliency.images import items_of
from medssl_saliency.maps.preparation import FeatureExtractor
from medssl_saliency.maps.statistics import describe
from medssl_saliency.maps.storage import read_map

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Records, RunContext
    from medssl_models.experiments.experiment import ImageFiles
    from medssl_models.experiments.settings import ProtocolName

    from medssl_saliency.maps.folder import StoredMap
    from medssl_saliency.maps.settings import PicturesSettings

__all__ = ["draw_all_models", "map_images", "run_map"]


def map_images(
    backbone: Backbone,
    data: ImageDataset | ImageFiles,
    *,
    protocol: ProtocolName = "corrected",
    settings: PicturesSettings | None = None,
    context: RunContext | None = None,
    **changes: object,
) -> Records:
    """Compute a model's map of each picture, and describe it in numbers.

    Args:
        backbone: The model.
        data: A data set, or picture files.
        protocol: `published` or `corrected`, where there are no settings.
        settings: How maps are asked for, ready made.
        context: Where maps are kept and how they are computed; None keeps none.
        changes: Fields of `PicturesSettings` as keywords, such as `stride=8`.

    Returns:
        A record for each picture and metric.

    Raises:
        SettingsError: A value is not allowed.
        ImageError: A picture cannot be occluded.

    Example:
        >>> from medssl_data import load_dataset
        >>> from medssl_models import create_model
        >>> data = load_dataset("phantom:chest-xray,count=4")
        >>> small = {"resize": 32, "crop": 32, "stride": 8}
        >>> records = map_images(create_model("random_r18"), data, pictures=1, **small)
        >>> records[0].metric
        'attentive_diffusion'
    """
    from medssl_models.experiments.runner import measure

    from medssl_saliency.experiments.declarations import MAP

    return measure(
        MAP, backbone, data, protocol=protocol, settings=settings, context=context, **changes
    )


def run_map(
    backbone: Backbone,
    data: ImageDataset | ImageFiles,
    settings: PicturesSettings,
    context: RunContext,
) -> Iterator[Record]:
    """Map the pictures; see `map_images`."""
    extractor = FeatureExtractor(backbone, settings)
    for stored in open_folder(context).maps(extractor, items_of(data, settings)):
        draw_map(stored)
        yield from _records(stored, data, settings, context)


def draw_all_models(
    data: ImageDataset | ImageFiles,
    settings: PicturesSettings,
    context: RunContext,
    records: Sequence[Record],
) -> list[Record]:
    """Draw the maps of all models side by side, a panel for each picture.

    Args:
        data: As for `run_map`.
        settings: As for `run_map`.
        context: As for `run_map`; the panels are added to its files.
        records: Of `run_map`, for all models.

    Returns:
        No further records.
    """
    maps = open_folder(context)
    for item in items_of(data, settings):
        folder = maps.folder(item)
        if folder is None:
            continue
        of_picture = [
            record
            for record in records
            if record.settings["picture"] == item.name and record.metric == "attentive_diffusion"
        ]
        found = {
            record.provenance.model: read_map(folder / str(record.details["file"]))
            for record in of_picture
        }
        kept = {model: one for model, one in found.items() if one is not None}
        if kept:
            path = folder / f"panel-{settings.method}.png"
            draw_models(kept, path, title=item.name)
            context.files.append(path)
    return []


def _records(
    stored: StoredMap,
    data: ImageDataset | ImageFiles,
    settings: PicturesSettings,
    context: RunContext,
) -> Iterator[Record]:
    made, name = stored.map, stored.item.name
    approximation = (str(made.approximation),) if made.approximation else ()
    files = {}
    if stored.path is not None:
        files = {"file": stored.path.name, "overlay": str(overlay_path(stored.path))}
    provenance = origin_of(
        stored, data, context, images=stored.fingerprint, dataset=stored.item.dataset or name
    )
    for metric, value in describe(made.strength).items():
        yield Record(
            experiment="saliency-map",
            metric=metric,
            value=value,
            settings=settings_in_record(context, settings, picture=name),
            details={
                **files,
                "seconds": round(made.seconds, 2),
                "norm": made.norm,
                "approximation": made.approximation,
            },
            notes=(*stored.notes, *approximation),
            provenance=provenance,
        )
