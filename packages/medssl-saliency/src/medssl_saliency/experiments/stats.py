"""Statistics of maps over pictures: means with intervals, and how models agree."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from medssl_saliency.experiments.means import Means, open_folder
from medssl_saliency.figures.drawing import draw_distributions, draw_heat_map, draw_matrix
from medssl_saliency.figures.maps import draw_map
from medssl_saliency.images import items_of
from medssl_saliency.maps.masks import find_masks, mask_on_map
from medssl_saliency.maps.preparation import FeatureExtractor
from medssl_saliency.maps.statistics import (
    agreement,
    border_mass,
    corner_mass,
    describe,
    mask_mass,
    pointing_game,
    rank_accuracy,
)
from medssl_saliency.maps.storage import read_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Record, Records, RunContext
    from medssl_models.experiments.experiment import ImageFiles
    from medssl_models.experiments.settings import ProtocolName
    from numpy.typing import NDArray

    from medssl_saliency.experiments.settings import StatsSettings
    from medssl_saliency.images import ImageItem
    from medssl_saliency.maps.folder import StoredMap

__all__ = ["agreement_matrix", "compare_models", "map_statistics", "mean_map", "run_stats"]

EXPERIMENT = "saliency-stats"
PLOTTED = ("attentive_diffusion", "border_mass", "corner_mass", "mask_mass")
SHORTCUTS: dict[str, Callable[[NDArray[np.floating]], float]] = {
    "border_mass": border_mass,
    "corner_mass": corner_mass,
}
"""Of a constant map these are the share of the area: what a map that knows nothing has."""


def map_statistics(
    backbone: Backbone,
    data: ImageDataset | ImageFiles,
    *,
    protocol: ProtocolName = "corrected",
    settings: StatsSettings | None = None,
    context: RunContext | None = None,
    **changes: object,
) -> Records:
    """Measure over pictures how concentrated a model's maps are, and where their mass lies.

    Args:
        backbone: The model.
        data: A data set, or picture files.
        protocol: `published` or `corrected`, where there are no settings.
        settings: How maps are asked for, ready made.
        context: Where maps are kept and how they are computed; None keeps none.
        changes: Fields of `StatsSettings` as keywords, such as `stride=8`.

    Returns:
        A record for each metric: the mean over pictures, with its interval over patients.

    Raises:
        SettingsError: A value is not allowed.
        ImageError: A picture cannot be occluded.

    Example:
        >>> from medssl_data import load_dataset
        >>> from medssl_models import create_model
        >>> data = load_dataset("phantom:chest-xray,count=4")
        >>> small = {"resize": 32, "crop": 32, "stride": 8}
        >>> records = map_statistics(create_model("random_r18"), data, pictures=2, **small)
        >>> records[0].metric, records[0].n
        ('attentive_diffusion', 2)
    """
    from medssl_models.experiments.runner import measure

    from medssl_saliency.experiments.declarations import STATS

    return measure(
        STATS, backbone, data, protocol=protocol, settings=settings, context=context, **changes
    )


def run_stats(
    backbone: Backbone,
    data: ImageDataset | ImageFiles,
    settings: StatsSettings,
    context: RunContext,
) -> Iterator[Record]:
    """Map the pictures, and average what describes the maps; see `map_statistics`.

    The context's options may name a folder of masks, for numbers of the masks too.

    Raises:
        MaskError: There is no mask of these pictures, or one has another size.
    """
    items = items_of(data, settings)
    extractor, folder = FeatureExtractor(backbone, settings), open_folder(context)
    masks = _find_masks(items, context)
    maps: list[StoredMap] = []
    numbers: dict[str, dict[str, float]] = defaultdict(dict)
    areas: list[float] = []
    for stored in folder.maps(extractor, items):
        draw_map(stored)
        maps.append(stored)
        name, values = stored.item.name, stored.map.strength
        found = dict(describe(values))
        if name in masks:
            mask = mask_on_map(masks[name], stored.item.read().size, extractor)
            areas.append(float(mask.mean()))
            found |= _mask_numbers(values, mask)
        for metric, value in found.items():
            numbers[metric][name] = value
    if not maps:
        return
    _draw_mean(maps, context)
    means = Means.of(EXPERIMENT, maps, data, settings, context, pictures=len(items))
    shape = maps[0].map.values.shape
    files = {stored.item.name: stored.path.name for stored in maps if stored.path is not None}
    for metric, by_picture in numbers.items():
        details: dict[str, object] = {}
        if metric == "attentive_diffusion":
            details["maps"] = files
        elif metric in SHORTCUTS:
            details["chance"] = SHORTCUTS[metric](np.ones(shape))
        elif metric in _MASK_METRICS:
            details["chance"] = float(np.mean(areas))
        yield means.record(metric, by_picture, details=details)


def compare_models(
    data: ImageDataset | ImageFiles,
    settings: StatsSettings,
    context: RunContext,
    records: Sequence[Record],
) -> Iterator[Record]:
    """Compare each two models' maps of the same pictures, and draw all models together.

    Args:
        data: As for `run_stats`.
        settings: As for `run_stats`.
        context: As for `run_stats`; what is drawn is added to its files.
        records: Of `run_stats`, for all models.

    Yields:
        A record for each two models and measure, with the mean over the pictures whose maps have
        one shape; none where maps are not kept.
    """
    items = {item.name: item for item in items_of(data, settings)}
    of_models = [record for record in records if record.metric == "attentive_diffusion"]
    agreements: list[Record] = []
    for one, other in combinations(of_models, 2):
        for measure, by_picture in _agreements(one, other, items, context).items():
            means = Means(
                EXPERIMENT,
                one.settings,
                one.provenance,
                groups={name: item.group for name, item in items.items()},
                notes=one.notes,
            )
            theirs = other.provenance
            record = means.record(
                f"agreement_{measure}",
                by_picture,
                other=theirs.model,
                other_weights=theirs.weights,
            )
            agreements.append(record)
    yield from agreements
    folder = next((open_folder(context).folder(item) for item in items.values()), None)
    if folder is not None:
        context.files.extend(_draw_numbers(records, folder.parent))
        context.files.extend(_draw_agreements(agreements, folder.parent))


def agreement_matrix(
    records: Sequence[Record], measure: str = "spearman"
) -> tuple[list[str], NDArray[np.float64]]:
    """Arrange how models agree.

    Args:
        records: Of one data set.
        measure: `pearson`, `spearman` or `overlap`.

    Returns:
        The models' names, and `(n, n)` means with ones on the diagonal; NaN where two models' maps
        could not be compared. No names where no two could.
    """
    pairs = {
        (record.provenance.model, str(record.settings["other"])): record.value
        for record in records
        if record.metric == f"agreement_{measure}"
    }
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    values = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(values, 1.0)
    for (one, other), value in pairs.items():
        row, column = names.index(one), names.index(other)
        values[row, column] = values[column, row] = value
    return names, values


def mean_map(maps: Sequence[StoredMap]) -> NDArray[np.float32]:
    """Average maps of one shape, each with unit mass: `(H, W)` float32."""
    shares = [stored.map.strength for stored in maps]
    scaled = [values / (values.mean(dtype=np.float64) or 1.0) for values in shares]
    mean: NDArray[np.float32] = np.mean(scaled, axis=0).astype(np.float32)
    return mean


def _find_masks(items: Sequence[ImageItem], context: RunContext) -> Mapping[str, Path]:
    folder = getattr(context.options, "masks", None)
    if folder is None:
        return {}
    found = find_masks(folder, items)
    if len(found) < len(items):
        context.say(f"masks of {len(found)} of {len(items)} pictures were found")
    return found


def _mask_numbers(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> dict[str, float]:
    return {
        "mask_mass": mask_mass(values, mask),
        "mask_rank_accuracy": rank_accuracy(values, mask),
        "pointing_game": float(pointing_game(values, mask)),
    }


_MASK_METRICS = ("mask_mass", "mask_rank_accuracy", "pointing_game")


def _agreements(
    one: Record, other: Record, items: Mapping[str, ImageItem], context: RunContext
) -> dict[str, dict[str, float]]:
    """Compare two models' maps of each picture; nothing where they differ in shape."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for name, item in items.items():
        mine, theirs = _strength(one, item, context), _strength(other, item, context)
        if mine is not None and theirs is not None and mine.shape == theirs.shape:
            for measure, value in agreement(mine, theirs).items():
                found[measure][name] = value
    return found


def _strength(record: Record, item: ImageItem, context: RunContext) -> NDArray[np.float32] | None:
    files, folder = record.details["maps"], open_folder(context).folder(item)
    if folder is None or not isinstance(files, dict) or item.name not in files:
        return None
    stored = read_map(folder / str(files[item.name]))
    return None if stored is None else stored.strength


def _draw_mean(maps: Sequence[StoredMap], context: RunContext) -> None:
    """Draw a model's mean map, where maps are kept and have one shape."""
    path = maps[0].path
    if path is not None and len({stored.map.values.shape for stored in maps}) == 1:
        model = path.stem.rpartition("-")[0]
        drawn = path.parent.parent / f"stats-mean-map-{model}.png"
        draw_heat_map(mean_map(maps), drawn)
        context.files.append(drawn)


def _draw_numbers(records: Sequence[Record], folder: Path) -> Iterator[Path]:
    """Draw the numbers of all pictures, a column for each model."""
    for metric in PLOTTED:
        values: dict[str, list[float]] = {}
        for record in records:
            by_picture = record.details.get("values")
            if record.metric == metric and isinstance(by_picture, dict):
                values[record.provenance.model] = [float(str(v)) for v in by_picture.values()]
        if values:
            path = folder / f"stats-{metric.replace('_', '-')}.png"
            draw_distributions(values, path, label=metric.replace("_", " "))
            yield path


def _draw_agreements(records: Sequence[Record], folder: Path) -> Iterator[Path]:
    """Draw how far each two models' maps agree, where there are two."""
    names, values = agreement_matrix(records)
    if names:
        path = folder / "stats-agreement.png"
        draw_matrix(names, values, path, label="rank correlation of maps, mean over pictures")
        yield path
