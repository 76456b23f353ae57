"""Sanity checks from beginning to end: randomised maps, curves, records, tables and pictures."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from medssl_data.files import replacing

from medssl_saliency import sanity
from medssl_saliency.check_pictures import draw_checks, draw_randomised
from medssl_saliency.curves import brightest_first, deletion_and_insertion, random_first
from medssl_saliency.mapping import Target, Viewer
from medssl_saliency.occluders import occluding_picture
from medssl_saliency.randomisation import learnt_layers, redraw
from medssl_saliency.saliency_map import prepare
from medssl_saliency.sanity import (
    CASCADING,
    CONTROL,
    INDEPENDENT,
    OTHER_TARGET,
    OWN,
    RANDOM,
    Check,
    Randomised,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from medssl_models.experiments.record import Record
    from numpy.typing import NDArray

    from medssl_saliency.mapping import Mapped, Maps
    from medssl_saliency.saliency_map import Prepared
    from medssl_saliency.subjects import Subject

__all__ = ["SanityOutcome", "check_all"]


@dataclass(frozen=True)
class SanityOutcome:
    """What the checks found.

    Attributes:
        records: Means with intervals.
        findings: A sentence for each model and data set.
        tables: CSV files.
        plots: Pictures.
    """

    records: list[Record]
    findings: list[str]
    tables: list[Path]
    plots: list[Path]


def check_all(
    viewers: Iterable[Viewer], subjects: Sequence[Subject], *, maps: Maps, controls: int
) -> SanityOutcome:
    """Check every model's maps of every picture.

    Maps that are there already are read, so an interrupted run goes on where it stopped.

    Args:
        viewers: The models.
        subjects: The pictures.
        maps: Where maps are found or made; randomised ones go to its folder `sanity`.
        controls: How many untrained networks are compared, with seeds of their own.
    """
    aside = replace(maps, output=maps.output / "sanity")
    checks: list[Check] = []
    records: list[Record] = []
    findings, plots = [], []
    for viewer in viewers:
        for fellows in _by_dataset(_check(viewer, subjects, maps, aside, controls)):
            found = sanity.sanity_records(fellows, seed=viewer.settings.seed)
            records += found
            findings.append(sanity.finding(found))
            plots += _draw(fellows, aside)
            checks += fellows
    tables = [aside.output / "similarities.csv", aside.output / "curves.csv"]
    _write_csv(tables[0], sanity.similarity_table(checks))
    _write_csv(tables[1], sanity.curve_table(checks))
    return SanityOutcome(records, findings, tables, plots)


def _check(
    viewer: Viewer, subjects: Sequence[Subject], maps: Maps, aside: Maps, controls: int
) -> list[Check]:
    """Check one model: randomisation by randomisation, each over all pictures."""
    checks = {mapped.subject.name: Check(mapped) for mapped in maps.each(viewer, subjects)}
    usable = [check.own.subject for check in checks.values()]
    for test, what, randomised in _networks(viewer, controls):
        maps.voice.say(f"{viewer.name}, {test}: {what}")
        for mapped in aside.each(randomised, usable):
            checks[mapped.subject.name].randomised.append(Randomised(test, what, mapped))
    if viewer.settings.method == "occlusion":
        for number, subject in enumerate(usable):
            others = usable[number + 1 :] + usable[:number]
            for what, target in _targets(viewer, subject, others):
                mapped = aside.make(viewer, subject, target=target)
                one = Randomised(OTHER_TARGET, what, mapped)
                checks[subject.name].randomised.append(one)
    for check in checks.values():
        _add_curves(viewer, check, repeats=max(controls, 1))
    return list(checks.values())


def _networks(viewer: Viewer, controls: int) -> Iterator[tuple[str, str, Viewer]]:
    """Randomise layers from the output on, one more each time; then each alone; then all."""
    backbone, seed = viewer.backbone, viewer.settings.seed
    layers = list(reversed(learnt_layers(viewer.network)))

    def without(names: Sequence[str], *, seed: int) -> Viewer:
        return Viewer(redraw(backbone, names, seed=seed), viewer.settings)

    for number, layer in enumerate(layers, start=1):
        what = layer if number == 1 else f"{layer} and above"
        yield CASCADING, what, without(layers[:number], seed=seed)
    for layer in layers:
        yield INDEPENDENT, layer, without([layer], seed=seed)
    for number in range(1, controls + 1):  # the last cascade is the control of `seed` itself
        yield CONTROL, f"seed {seed + number}", without(layers, seed=seed + number)


def _targets(
    viewer: Viewer, subject: Subject, others: Sequence[Subject]
) -> Iterator[tuple[str, Target]]:
    """Give targets that do not belong to the picture: its shuffled pixels, another picture."""
    own = prepare(subject.read(), viewer.preprocessing, viewer.settings)
    seed = viewer.settings.seed
    shuffled = occluding_picture("noise", own.pixels, own.normalised, seed=seed)
    features = _features(viewer, shuffled)
    yield "shuffled pixels", Target(f"its pixels shuffled, seed {seed}", features)
    if others:
        other = prepare(others[0].read(), viewer.preprocessing, viewer.settings)
        features = _features(viewer, other.normalised)
        yield "another picture", Target(other.fingerprint, features)


@torch.inference_mode()
def _features(viewer: Viewer, image: torch.Tensor) -> torch.Tensor:
    features: torch.Tensor = viewer.network(image[None])[0]
    return features


def _add_curves(viewer: Viewer, check: Check, *, repeats: int) -> None:
    """Delete and insert by the map, by those of the controls, and in random order."""
    settings = viewer.settings
    prepared = prepare(check.own.subject.read(), viewer.preprocessing, settings)
    controls = [one.mapped for one in check.randomised if one.test == CONTROL]
    orders: dict[str, list[NDArray[np.int64]]] = {
        OWN: [_order(check.own, prepared)],
        f"{CONTROL}'s map": [_order(mapped, prepared) for mapped in controls],
        RANDOM: [
            random_first(prepared.size, block=settings.window, seed=settings.seed + number)
            for number in range(repeats)
        ],
    }
    for name, ranks in orders.items():
        if ranks:
            check.curves[name] = [
                deletion_and_insertion(
                    viewer.network, prepared.normalised, prepared.occluder, order
                )
                for order in ranks
            ]


def _order(mapped: Mapped, prepared: Prepared) -> NDArray[np.int64]:
    return brightest_first(mapped.made.strength, prepared.size)


def _by_dataset(checks: Sequence[Check]) -> Iterator[list[Check]]:
    names = dict.fromkeys(check.own.subject.dataset for check in checks)
    for name in names:
        yield [check for check in checks if check.own.subject.dataset == name]


def _draw(fellows: Sequence[Check], aside: Maps) -> list[Path]:
    drawn = []
    stem = fellows[0].own.path.stem
    for check in fellows:
        drawn.append(aside.folder(check.own.subject) / f"{check.own.path.stem}-randomised.png")
        draw_randomised(check, drawn[-1])
    folder = aside.folder(fellows[0].own.subject).parent
    drawn.append(folder / f"{stem.rpartition('-')[0]}-sanity.png")
    draw_checks(fellows, drawn[-1])
    return drawn


def _write_csv(path: Path, rows: Iterable[tuple[object, ...]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
