"""The distance of two pictures as an experiment: pixels once, features for each model."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from medssl_models import Provenance, Record
from medssl_models.versions import package_versions

from medssl_dip.experiments.reconstruct import chosen_lpips, warn_of_slow_precision
from medssl_dip.feature_extractor import preprocessing_of
from medssl_dip.images import from_files
from medssl_dip.perceptual.comparison import compare, compare_features
from medssl_dip.perceptual.fidelity import Fidelity
from medssl_dip.settings import DistanceOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_models import Backbone, RunContext
    from medssl_models.experiments.experiment import ImageFiles

    from medssl_dip.images import ImageItem
    from medssl_dip.settings import DistanceSettings

__all__ = ["compare_pixels", "run_distance"]


def run_distance(
    backbone: Backbone | None, data: ImageFiles, settings: DistanceSettings, context: RunContext
) -> list[Record]:
    """Measure how far apart two pictures are in a model's features; without a model, nothing."""
    if backbone is None:
        return []
    warn_of_slow_precision(context)
    pair, extraction = _pair(data, settings), context.extracting
    seen = settings.replace(size=settings.feature_size)
    value = compare_features(
        backbone,
        *pair,
        seen,
        device=extraction.device,
        precision=extraction.precision,
    )
    provenance = context.provenance(
        backbone,
        data,
        settings,
        preprocessing=preprocessing_of(backbone, seen).fingerprint,
        **_facts(pair),
    )
    return [_record("feature_distance", value, pair, settings, provenance, context)]


def compare_pixels(
    data: ImageFiles,
    settings: DistanceSettings,
    context: RunContext,
    _records: Sequence[Record],
) -> list[Record]:
    """Measure what needs no model: LPIPS, SSIM and PSNR."""
    pair = _pair(data, settings)
    found = compare(
        *pair,
        size=settings.size,
        lpips=chosen_lpips((context.options or DistanceOptions()).net),
        device=context.extracting.device,
    )
    provenance = Provenance(
        model="none",
        layer="",
        protocol=settings.protocol,
        device=context.extracting.device,
        versions=package_versions("torchmetrics"),
        **_facts(pair),
    )
    finite = Fidelity(found).finite()
    equal = ["psnr is infinite: the pictures are equal"] * ("psnr" not in finite)
    return [
        _record(name, value, pair, settings, provenance, context, notes=tuple(equal))
        for name, value in finite.items()
    ]


def _pair(data: ImageFiles, settings: DistanceSettings) -> tuple[ImageItem, ImageItem]:
    first, second = from_files(data.paths, reading=settings.reading, protocol=settings.labels)
    return first, second


def _facts(pair: Sequence[ImageItem]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for item in pair:
        digest.update(repr(item.image.size).encode() + item.image.tobytes())
    return {
        "dataset": " ".join(f"file:{item.name}" for item in pair),
        "images": digest.hexdigest(),
    }


def _record(
    metric: str,
    value: float,
    pair: Sequence[ImageItem],
    settings: DistanceSettings,
    provenance: Provenance,
    context: RunContext,
    *,
    notes: tuple[str, ...] = (),
) -> Record:
    first, second = pair
    return Record(
        experiment="distance",
        metric=metric,
        value=value,
        settings=context.settings_of(settings, first=first.name, second=second.name),
        notes=(*first.notes, *second.notes, *notes),
        provenance=provenance,
    )
