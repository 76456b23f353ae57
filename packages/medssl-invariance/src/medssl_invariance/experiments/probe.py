"""Both experiments as others can plan them: entry points of `medssl.probes`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_models.experiments.settings import setting
from medssl_models.probes import ProbePlugin

from medssl_invariance.experiments.settings import SyntheticSettings, ViewsSettings, preset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Record
    from medssl_models.experiments.settings import ProtocolName
    from medssl_models.probes import Work

    from medssl_invariance.experiments.runs import Means
    from medssl_invariance.transforms.families import Family

__all__ = ["SYNTHETIC", "VIEWS", "FamiliesSettings"]


class FamiliesSettings(SyntheticSettings):
    """Several families of transforms under the same settings."""

    transforms: tuple[str, ...] = setting(
        "Families of transforms; all, study and medical mean several.",
        corrected=("medical",),
        published=("study",),
    )

    @property
    def of_a_family(self) -> SyntheticSettings:
        """What concerns a single family."""
        return SyntheticSettings.model_validate(self.model_dump(exclude={"transforms"}))

    @property
    def families(self) -> list[Family]:
        """The families by their names."""
        from medssl_invariance.transforms.families import find_families

        return find_families(self.transforms)


def _means(work: Work) -> Means:
    from medssl_models import home

    from medssl_invariance.experiments.runs import Means

    return Means(
        extraction=work.extraction,
        store=work.store,
        unfinished=home() / "invariance",
        known=work.known,
    )


def _families_preset(protocol: ProtocolName, changes: Mapping[str, object]) -> FamiliesSettings:
    return preset(FamiliesSettings, protocol, **changes)


def _views_preset(protocol: ProtocolName, changes: Mapping[str, object]) -> ViewsSettings:
    return preset(ViewsSettings, protocol, **changes)


def _check_families(data: ImageDataset, settings: FamiliesSettings) -> None:
    from medssl_invariance.experiments.synthetic import feasible

    feasible(data, settings.families, settings.of_a_family)


def _check_views(data: ImageDataset, settings: ViewsSettings) -> None:
    from medssl_invariance.experiments.views import plan_pairs

    plan_pairs(data, settings)


def _run_families(
    backbone: Backbone, data: ImageDataset, settings: FamiliesSettings, work: Work
) -> list[Record]:
    from medssl_invariance.experiments.synthetic import synthetic

    found = synthetic(
        backbone, data, settings.families, settings=settings.of_a_family, means=_means(work)
    )
    return list(found)


def _run_views(
    backbone: Backbone, data: ImageDataset, settings: ViewsSettings, work: Work
) -> list[Record]:
    from medssl_invariance.experiments.views import views

    return list(views(backbone, data, settings=settings, means=_means(work)))


def _transformed_images(_: ImageDataset, settings: FamiliesSettings) -> int:
    versions = (len(f.members(settings.ranges, settings.members)) for f in settings.families)
    return settings.images * sum(versions)


SYNTHETIC = ProbePlugin(
    _families_preset, _run_families, _check_families, passes=_transformed_images
)
VIEWS = ProbePlugin(_views_preset, _run_views, _check_views)
