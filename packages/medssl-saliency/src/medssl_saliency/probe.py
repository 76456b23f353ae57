"""Statistics of maps as an experiment that others can plan: an entry point of `medssl.probes`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from medssl_models.experiments.settings import ProtocolName, from_preset, setting
from medssl_models.probes import ProbePlugin
from pydantic import PositiveInt  # noqa: TC002 # pydantic reads it

from medssl_saliency.errors import SettingsError
from medssl_saliency.protocols import MapSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Record
    from medssl_models.probes import Work

__all__ = ["PROBE", "StatsSettings"]


class StatsSettings(MapSettings):
    """A map of each of some pictures of a data set."""

    pictures: PositiveInt = setting("Pictures, drawn evenly over the classes.", corrected=20)

    @property
    def of_a_map(self) -> MapSettings:
        """What concerns a single map."""
        return MapSettings.model_validate(self.model_dump(exclude={"pictures"}))


def _preset(protocol: ProtocolName, changes: Mapping[str, object]) -> StatsSettings:
    return from_preset(StatsSettings, protocol, changes, refusal=SettingsError)


def _run(
    backbone: Backbone, data: ImageDataset, settings: StatsSettings, work: Work
) -> list[Record]:
    """Map the pictures, and summarise them; maps are kept beside the results, a folder a model."""
    from medssl_models.features.runtime import resolve_device

    from medssl_saliency.mapping import Maps, Viewer
    from medssl_saliency.subjects import from_dataset
    from medssl_saliency.surveying import survey_all

    subjects = from_dataset(data, limit=settings.pictures, seed=settings.seed)
    folder = re.sub(r"[^\w.+-]+", "-", backbone.name).strip(".-")
    maps = Maps(
        work.results.parent / "saliency" / folder,
        device=resolve_device(work.extraction.device),
        force=work.extraction.force,
        skip_unreadable=work.extraction.skip_unreadable,
    )
    viewer = Viewer(backbone, settings.of_a_map)
    return survey_all([viewer], subjects, maps=maps, masks=None).records


PROBE = ProbePlugin(_preset, _run)
