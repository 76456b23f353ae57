"""What the experiments share: where maps are kept, and means over pictures as records."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from medssl_models.experiments.intervals import bootstrap_mean
from medssl_models.experiments.record import Record

from medssl_saliency.experiments.settings import MapOptions
from medssl_saliency.maps.folder import MapFolder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medssl_data import ImageDataset
    from medssl_models import Provenance, RunContext
    from medssl_models.experiments.experiment import ImageFiles

    from medssl_saliency.maps.folder import StoredMap
    from medssl_saliency.maps.settings import PicturesSettings

__all__ = ["Means", "open_folder", "origin_of", "settings_in_record"]

GIB = 2**30
LEFT_OUT = frozenset({"fast", "named", "pictures", "reading"})


def open_folder(context: RunContext) -> MapFolder:
    """Return the folder of maps that a run works in.

    Args:
        context: Its output folder, else a folder beside its results; nothing is kept where it
            names neither.
    """
    if context.output is None and context.results is not None:
        context = replace(context, output=context.results.parent / "saliency")
    options: MapOptions = context.options or MapOptions()
    return MapFolder(context, memory=int(options.memory * GIB))


def settings_in_record(
    context: RunContext, settings: PicturesSettings, **resolved: object
) -> dict[str, Any]:
    """Return settings as a record keeps them.

    Args:
        context: The run's.
        settings: How maps are asked for. What stands for other fields, and how the pictures were
            chosen, is left out: the fingerprint of the images tells which they were.
        resolved: Further facts, such as the name of the `picture`, or how many `pictures` it were.
    """
    shown = context.settings_of(settings)
    return {name: shown[name] for name in shown if name not in LEFT_OUT} | resolved


def origin_of(
    stored: StoredMap, data: ImageDataset | ImageFiles, context: RunContext, **facts: object
) -> Provenance:
    """Describe where a number of a map, or of several of one model, comes from.

    Args:
        stored: The map, or one of them.
        data: What the images belong to.
        context: The run's.
        facts: Fields of the provenance, such as the fingerprint of the `images`.
    """
    extractor = stored.extractor
    return context.provenance(
        extractor.backbone,
        data,
        extractor.settings,
        preprocessing=extractor.preprocessing.fingerprint,
        manifest="",
        label_policy="",
        device=open_folder(context).device.type,
        precision=extractor.settings.precision,
        **facts,
    )


@dataclass(frozen=True, eq=False)
class Means:
    """What the records of one model on a set of pictures have in common.

    Args:
        experiment: Its name.
        settings: As in the records.
        provenance: As in the records.
        groups: Picture to patient, "" where unknown.
        notes: As in the records.
        details: As in the records.
    """

    experiment: str
    settings: Mapping[str, Any]
    provenance: Provenance
    groups: Mapping[str, str]
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        experiment: str,
        maps: Sequence[StoredMap],
        data: ImageDataset | ImageFiles,
        settings: PicturesSettings,
        context: RunContext,
        *,
        pictures: int,
    ) -> Means:
        """Describe the maps of one model.

        Args:
            experiment: Its name.
            maps: One for each picture that could be read, at least one.
            data: What the pictures belong to.
            settings: How the maps were asked for.
            context: The run's.
            pictures: How many there were to read.
        """
        fingerprints = "".join(stored.fingerprint for stored in maps)
        images = hashlib.sha256(fingerprints.encode()).hexdigest()
        return cls(
            experiment,
            settings_in_record(context, settings, pictures=pictures),
            origin_of(maps[0], data, context, images=images),
            groups={stored.item.name: stored.item.group for stored in maps},
            notes=tuple(dict.fromkeys(note for stored in maps for note in stored.notes)),
            details={"unreadable": pictures - len(maps)},
        )

    def record(
        self,
        metric: str,
        by_picture: Mapping[str, float],
        *,
        details: Mapping[str, Any] | None = None,
        **settings: object,
    ) -> Record:
        """Average one number over pictures, with its interval over patients.

        Args:
            metric: What the number means.
            by_picture: Picture to number; at least one.
            details: Further details of the record.
            settings: What tells the number from others of this metric.
        """
        values = np.array(list(by_picture.values()))
        groups = [self.groups[name] for name in by_picture]
        (mean,) = bootstrap_mean(values[:, None], groups=groups, seed=self.provenance.seed)
        low, high = mean.interval
        return Record(
            experiment=self.experiment,
            metric=metric,
            value=mean.value,
            ci_low=low,
            ci_high=high,
            n=len(values),
            settings={**self.settings, **settings},
            details={**(self.details or {}), "values": by_picture, **(details or {})},
            notes=self.notes,
            provenance=self.provenance,
        )
