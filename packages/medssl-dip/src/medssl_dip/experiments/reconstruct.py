"""Reconstructions as an experiment that others can plan: an entry point of `medssl.probes`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_models.experiments.settings import from_preset, setting
from medssl_models.probes import ProbePlugin
from pydantic import NonNegativeInt  # noqa: TC002 # pydantic reads it

from medssl_dip.errors import SettingsError
from medssl_dip.settings import (
    QUICK,
    PresetName,  # pydantic reads it
    ReconstructionSettings,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Record
    from medssl_models.probes import ProtocolName, Work

__all__ = ["PROBE", "PicturesSettings"]


class PicturesSettings(ReconstructionSettings):
    """Reconstructions of some pictures of a data set."""

    pictures: tuple[str, ...] = setting(
        "Ids of images, or the file names that they end in; none takes the first image.",
        corrected=(),
    )
    scale: PresetName = setting(
        "quick makes the prior, the picture and the run small enough for a CPU.", corrected="full"
    )
    lpips: bool = setting(
        "Also measure the perceptual distance, by every trunk that is here.", corrected=True
    )
    seed: NonNegativeInt = setting("Of the first restart; the others count upwards.", corrected=0)

    @property
    def of_a_run(self) -> ReconstructionSettings:
        """What concerns a single reconstruction."""
        names = set(ReconstructionSettings.model_fields)
        return ReconstructionSettings.model_validate({n: getattr(self, n) for n in names})


def _preset(protocol: ProtocolName, changes: Mapping[str, object]) -> PicturesSettings:
    smaller = QUICK if changes.get("scale") == "quick" else {}
    return from_preset(PicturesSettings, protocol, {**smaller, **changes}, refusal=SettingsError)


def _run(
    backbone: Backbone, data: ImageDataset, settings: PicturesSettings, work: Work
) -> list[Record]:
    """Reconstruct, and measure; the runs are kept beside the results."""
    from medssl_dip.experiments.records import records_of
    from medssl_dip.images import from_dataset
    from medssl_dip.inversion.reconstruction import Work as Effort
    from medssl_dip.inversion.reconstruction import reconstruct
    from medssl_dip.perceptual.lpips import load_perceptual, nets_here

    nets = load_perceptual(nets_here()) if settings.lpips else {}
    effort = Effort(
        device=work.extraction.device,
        precision=work.extraction.precision,
        force=work.extraction.force,
        perceptual={str(net): metric for net, metric in nets.items()},
    )
    found = reconstruct(
        backbone,
        from_dataset(data, settings.pictures, reading=settings.reading),
        settings=settings.of_a_run,
        out=work.results.parent / "reconstructions",
        seed=settings.seed,
        work=effort,
    )
    return records_of(backbone, found, settings.of_a_run)


def _passes(_: ImageDataset, settings: PicturesSettings) -> int:
    """Each step runs forwards and backwards; the prior itself comes on top."""
    return 3 * settings.steps * settings.restarts * max(len(settings.pictures), 1)


PROBE = ProbePlugin(_preset, _run, passes=_passes)
