"""Does a map show what the network has learnt? Maps under randomisations, and their curves.

Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018: a map that stays as it is when
weights or data are randomised cannot explain them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.experiments.cells import csv_text
from medssl_models.files import write_atomically

from medssl_saliency.experiments.means import Means, open_folder
from medssl_saliency.experiments.randomisation import learnt_layers, redraw
from medssl_saliency.figures.sanity import draw_checks, draw_randomised
from medssl_saliency.images import items_of
from medssl_saliency.maps.checks import (
    CASCADING,
    CONTROL,
    INDEPENDENT,
    OTHER_TARGET,
    OWN,
    RANDOM,
    Randomised,
    SanityCheck,
)
from medssl_saliency.maps.curves import brightest_first, deletion_and_insertion, random_first
from medssl_saliency.maps.folder import Target
from medssl_saliency.maps.occluders import occluding_picture
from medssl_saliency.maps.preparation import FeatureExtractor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Record, Records, RunContext
    from medssl_models.experiments.experiment import ImageFiles
    from medssl_models.experiments.settings import ProtocolName
    from numpy.typing import NDArray

    from medssl_saliency.experiments.settings import SanitySettings
    from medssl_saliency.images import ImageItem
    from medssl_saliency.maps.folder import MapFolder, StoredMap
    from medssl_saliency.maps.preparation import Prepared

__all__ = ["run_sanity", "sanity_checks", "sanity_records"]

EXPERIMENT = "saliency-sanity"
MEASURES = ("pearson", "spearman", "overlap")


def sanity_checks(
    backbone: Backbone,
    data: ImageDataset | ImageFiles,
    *,
    protocol: ProtocolName = "corrected",
    settings: SanitySettings | None = None,
    context: RunContext | None = None,
    **changes: object,
) -> Records:
    """Check that a model's maps depend on what it has learnt.

    Args:
        backbone: The model.
        data: A data set, or picture files.
        protocol: `published` or `corrected`, where there are no settings.
        settings: How maps are asked for, ready made.
        context: Where maps are kept and how they are computed; None keeps none.
        changes: Fields of `SanitySettings` as keywords, such as `method="grad-cam"`.

    Returns:
        A record for each randomisation and measure of similarity, and for each order of pixels the
        areas of deletion and insertion.

    Raises:
        SettingsError: A value is not allowed.
        ImageError: A picture cannot be occluded.

    Example:
        >>> from medssl_data import load_dataset
        >>> from medssl_models import create_model
        >>> data = load_dataset("phantom:chest-xray,count=4")
        >>> quick = {"resize": 32, "crop": 32, "method": "grad-cam", "untrained": 0}
        >>> records = sanity_checks(create_model("random_r18"), data, pictures=1, **quick)
        >>> records[0].settings["test"]
        'cascading'
    """
    from medssl_models.experiments.runner import measure

    from medssl_saliency.experiments.declarations import SANITY

    return measure(
        SANITY, backbone, data, protocol=protocol, settings=settings, context=context, **changes
    )


def run_sanity(
    backbone: Backbone,
    data: ImageDataset | ImageFiles,
    settings: SanitySettings,
    context: RunContext,
) -> list[Record]:
    """Check one model's maps of the pictures; see `sanity_checks`.

    Maps that are there already are read, so an interrupted run goes on where it stopped;
    randomised ones lie in the folder `sanity` of the folder of maps.
    """
    items, maps = items_of(data, settings), open_folder(context)
    checks = _check(FeatureExtractor(backbone, settings), items, maps, settings.untrained)
    if not checks:
        return []
    context.files.extend(_write(checks, maps.aside("sanity")))
    own = [check.own for check in checks]
    means = Means.of(EXPERIMENT, own, data, settings, context, pictures=len(items))
    return sanity_records(checks, means)


def sanity_records(checks: Sequence[SanityCheck], means: Means) -> list[Record]:
    """Average one model's checks over pictures.

    Args:
        checks: One for each picture.
        means: What the records have in common.
    """
    similarities: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for check in checks:
        for (test, what), measures in check.similarities().items():
            for measure, value in measures.items():
                similarities[test, what, measure][check.picture] = value
    records = [
        means.record(f"similarity_{measure}", by_picture, test=test, randomised=what)
        for (test, what, measure), by_picture in similarities.items()
    ]
    for (order, curve), by_picture in _by_order(checks).items():
        details = {"curve": _mean_curve(checks, order, curve)}
        records.append(means.record(f"{curve}_area", by_picture, details=details, order=order))
    return records


# -------------------------------------------------------------------------------------- the checks


def _check(
    extractor: FeatureExtractor, items: Sequence[ImageItem], maps: MapFolder, untrained: int
) -> list[SanityCheck]:
    """Check one model: randomisation by randomisation, each over all pictures."""
    aside = maps.aside("sanity")
    checks = {own.item.name: SanityCheck(own) for own in maps.maps(extractor, items)}
    usable = [check.own.item for check in checks.values()]
    for test, what, randomised in _networks(extractor, untrained):
        maps.context.say(f"{extractor.name}, {test}: {what}")
        for stored in aside.maps(randomised, usable):
            checks[stored.item.name].randomised.append(Randomised(test, what, stored))
    if extractor.settings.method == "occlusion":
        for number, item in enumerate(usable):
            others = usable[number + 1 :] + usable[:number]
            for what, target in _targets(extractor, item, others):
                stored = aside.load_or_compute(extractor, item, target=target)
                checks[item.name].randomised.append(Randomised(OTHER_TARGET, what, stored))
    for check in checks.values():
        _add_curves(extractor, check, repeats=max(untrained, 1))
    return list(checks.values())


def _networks(
    extractor: FeatureExtractor, untrained: int
) -> Iterator[tuple[str, str, FeatureExtractor]]:
    """Randomise layers from the output on, one more each time; then each alone; then all."""
    backbone, settings = extractor.backbone, extractor.settings
    layers = list(reversed(learnt_layers(extractor.network)))

    def without(names: Sequence[str], *, seed: int) -> FeatureExtractor:
        return FeatureExtractor(redraw(backbone, names, seed=seed), settings)

    for number, layer in enumerate(layers, start=1):
        what = layer if number == 1 else f"{layer} and above"
        yield CASCADING, what, without(layers[:number], seed=settings.seed)
    for layer in layers:
        yield INDEPENDENT, layer, without([layer], seed=settings.seed)
    for number in range(1, untrained + 1):  # the last cascade is the control of `seed` itself
        seed = settings.seed + number
        yield CONTROL, f"seed {seed}", without(layers, seed=seed)


def _targets(
    extractor: FeatureExtractor, item: ImageItem, others: Sequence[ImageItem]
) -> Iterator[tuple[str, Target]]:
    """Yield targets that do not belong to the picture: its shuffled pixels, another picture."""
    own, seed = extractor.prepare(item.read()), extractor.settings.seed
    shuffled = occluding_picture("noise", own.pixels, own.normalised, seed=seed)
    features = extractor.features(shuffled)
    yield "shuffled pixels", Target(f"its pixels shuffled, seed {seed}", features)
    if others:
        other = extractor.prepare(others[0].read())
        features = extractor.features(other.normalised)
        yield "another picture", Target(other.fingerprint, features)


def _add_curves(extractor: FeatureExtractor, check: SanityCheck, *, repeats: int) -> None:
    """Delete and insert by the map, by those of the controls, and in random order."""
    settings, prepared = extractor.settings, extractor.prepare(check.own.item.read())
    controls = [one.stored for one in check.randomised if one.test == CONTROL]
    orders: dict[str, list[NDArray[np.int64]]] = {
        OWN: [_order(check.own, prepared)],
        f"{CONTROL}'s map": [_order(stored, prepared) for stored in controls],
        RANDOM: [
            random_first(prepared.size, block=settings.window, seed=settings.seed + number)
            for number in range(repeats)
        ],
    }
    image, occluder = prepared.normalised, prepared.occluder
    for name, ranks in orders.items():
        if ranks:
            check.curves[name] = [
                deletion_and_insertion(extractor.network, image, occluder, order) for order in ranks
            ]


def _order(stored: StoredMap, prepared: Prepared) -> NDArray[np.int64]:
    return brightest_first(stored.map.strength, prepared.size)


def _by_order(checks: Sequence[SanityCheck]) -> dict[tuple[str, str], dict[str, float]]:
    """Collect areas, and how far those of the map are above those of the other orders."""
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for check in checks:
        areas = check.areas()
        for order, both in areas.items():
            for curve, value in both.items():
                found[order, curve][check.picture] = value
                if order != OWN:
                    above = areas[OWN][curve] - value
                    found[f"{OWN} less {order}", curve][check.picture] = above
    return found


def _mean_curve(checks: Sequence[SanityCheck], order: str, curve: str) -> list[float]:
    every: list[NDArray[np.float64]] = [
        getattr(one, curve) for check in checks for one in check.curves.get(order, [])
    ]
    return np.mean(every, axis=0).tolist() if every else []


# ------------------------------------------------------------------------------ pictures and tables


def _write(checks: Sequence[SanityCheck], aside: MapFolder) -> Iterator[Path]:
    """Draw one model's checks, and write every number of them; nothing where no maps are kept."""
    model: Path | None = None
    for check in checks:
        folder, own = aside.folder(check.own.item), check.own.path
        if folder is None or own is None:
            return
        draw_randomised(check, folder / f"{own.stem}-randomised.png")
        yield folder / f"{own.stem}-randomised.png"
        model = folder.parent / own.stem.rpartition("-")[0]
    if model is not None:
        drawn, similarities, curves = (
            model.with_name(f"{model.name}-{name}")
            for name in ("sanity.png", "similarities.csv", "curves.csv")
        )
        draw_checks(checks, drawn)
        write_atomically(similarities, csv_text(_similarity_table(checks)).encode())
        write_atomically(curves, csv_text(_curve_table(checks)).encode())
        yield from (drawn, similarities, curves)


def _similarity_table(checks: Sequence[SanityCheck]) -> Iterator[tuple[object, ...]]:
    """Yield the heading and a row for each similarity, picture by picture."""
    yield ("model", "picture", "test", "randomised", *MEASURES)
    for check in checks:
        for (test, what), measures in check.similarities().items():
            numbers = (measures[name] for name in MEASURES)
            yield (check.own.model, check.picture, test, what, *numbers)


def _curve_table(checks: Sequence[SanityCheck]) -> Iterator[tuple[object, ...]]:
    """Yield the heading and a row for each point of a curve."""
    yield ("model", "picture", "order", "repeat", "share", "deletion", "insertion")
    for check in checks:
        for order, several in check.curves.items():
            for repeat, one in enumerate(several):
                shares = np.linspace(0, 1, len(one.deletion))
                for share, out, back in zip(shares, one.deletion, one.insertion, strict=True):
                    yield (check.own.model, check.picture, order, repeat, share, out, back)
