"""A survey from beginning to end: maps of all models and pictures, masks, records, pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medssl_saliency import survey
from medssl_saliency.masks import find_masks, mask_on_map
from medssl_saliency.pictures import draw_map
from medssl_saliency.rendering import draw_distributions, draw_heat_map, draw_matrix
from medssl_saliency.survey import Survey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from medssl_models.experiments.record import Record

    from medssl_saliency.mapping import Maps, Viewer
    from medssl_saliency.subjects import Subject

__all__ = ["SurveyOutcome", "survey_all"]

PLOTTED = ("attentive diffusion", "border mass", "corner mass", "mask mass")


@dataclass(frozen=True)
class SurveyOutcome:
    """What a survey found.

    Attributes:
        records: Means with intervals, and agreement between models.
        alarms: Sentences for the user.
        plots: Pictures that were drawn.
    """

    records: list[Record]
    alarms: list[str]
    plots: list[Path]


def survey_all(
    viewers: Iterable[Viewer], subjects: Sequence[Subject], *, maps: Maps, masks: Path | None
) -> SurveyOutcome:
    """Map every picture by every model, and summarise each data set by itself.

    Args:
        viewers: The models.
        subjects: The pictures.
        maps: Where maps are found or made.
        masks: A folder of masks.

    Raises:
        MaskError: There is no mask of these pictures, or one has another size.
    """
    found = {} if masks is None else find_masks(masks, subjects)
    if found and len(found) < len(subjects):
        maps.voice.say(f"masks of {len(found)} of {len(subjects)} pictures were found")
    by_set: dict[str, list[Survey]] = {}
    seed = 0
    for viewer in viewers:
        seed = viewer.settings.seed
        for name, one in _survey(viewer, subjects, found, maps=maps).items():
            by_set.setdefault(name, []).append(one)
    records: list[Record] = []
    plots: list[Path] = []
    for fellows in by_set.values():
        measured = survey.survey_records(fellows, seed=seed)
        records += measured
        plots += [*_plots(fellows, maps), *_agreement_plot(fellows, measured, maps)]
    return SurveyOutcome(records, survey.alarms(records), plots)


def _survey(
    viewer: Viewer, subjects: Sequence[Subject], masks: dict[str, Path], *, maps: Maps
) -> dict[str, Survey]:
    """Map all pictures by one model; a survey for each data set."""
    surveys: dict[str, Survey] = {}
    for mapped in maps.each(viewer, subjects):
        draw_map(mapped)
        name = mapped.subject.name
        one = surveys.setdefault(mapped.subject.dataset, Survey([], {}))
        one.maps.append(mapped)
        if name in masks:
            size = mapped.subject.read().size
            one.masks[name] = mask_on_map(masks[name], size, viewer.preprocessing, viewer.settings)
    return surveys


def _agreement_plot(
    fellows: Sequence[Survey], records: Sequence[Record], maps: Maps
) -> Iterator[Path]:
    """Draw how far each two models' maps agree, where there are two."""
    names, values = survey.agreement_matrix(records)
    if names:
        path = maps.folder(fellows[0].maps[0].subject).parent / "stats-agreement.png"
        draw_matrix(names, values, path, label="rank correlation of maps, mean over pictures")
        yield path


def _plots(fellows: Sequence[Survey], maps: Maps) -> list[Path]:
    folder = maps.folder(fellows[0].maps[0].subject).parent
    numbers = {one.model: one.numbers() for one in fellows}
    drawn = []
    for metric in PLOTTED:
        values = {m: list(n[metric].values()) for m, n in numbers.items() if metric in n}
        if values:
            drawn.append(folder / f"stats-{metric.replace(' ', '-')}.png")
            draw_distributions(values, drawn[-1], label=metric)
    for one in fellows:
        if len({mapped.made.values.shape for mapped in one.maps}) == 1:
            stem = one.maps[0].path.stem.rpartition("-")[0]
            drawn.append(folder / f"stats-mean-map-{stem}.png")
            draw_heat_map(survey.mean_map(one), drawn[-1])
    return drawn
