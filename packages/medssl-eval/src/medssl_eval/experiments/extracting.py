"""Features of all pairs of models and data sets, computed ahead of any experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medssl_eval.experiments.features import prepare
from medssl_eval.experiments.settings import KnnSettings, preset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_data import ImageDataset
    from medssl_models import RunContext
    from medssl_models.experiments.settings import ProtocolName

__all__ = ["Extraction", "extract_all"]


@dataclass(frozen=True)
class Extraction:
    """What was extracted.

    Args:
        model: Its name.
        dataset: Its name.
        images: How many images have features.
        dimension: D.
        computed: How many were computed now; the others were there.
        unreadable: Names of the images that were skipped.
        key: The store's key.
    """

    model: str
    dataset: str
    images: int
    dimension: int
    computed: int
    unreadable: tuple[str, ...]
    key: str


def extract_all(
    models: Sequence[str],
    datasets: Sequence[ImageDataset],
    *,
    protocol: ProtocolName,
    context: RunContext,
) -> list[Extraction]:
    """Extract the features that the experiments of a protocol use.

    Under `corrected` all experiments use the same features. Under `published` the geometry is the
    experiment's; this computes those of linear and k-NN evaluation, few-shot has its own.

    Args:
        models: Names; a model that is named twice counts once.
        datasets: Opened data sets.
        protocol: Decides geometry and normalisation.
        context: Extraction settings, store and progress.

    Raises:
        UnknownModelError: A name that no model bears, before anything is computed.
    """
    from medssl_models.backbone import create_model
    from medssl_models.experiments.models import check_models, distinct_models
    from medssl_models.features.extraction import extract

    check_models(models)
    settings = preset(KnnSettings, protocol)
    found = []
    for name in distinct_models(models, protocol=protocol).values():
        backbone = create_model(name, protocol=protocol)
        for data in datasets:
            table = extract(
                backbone,
                data,
                preprocessing=prepare(backbone, settings),
                settings=context.extracting,
                store=context.store,
                progress=context.progress,
            )
            skipped = np.flatnonzero(~table.readable)
            found.append(
                Extraction(
                    model=backbone.name,
                    dataset=data.name,
                    images=int(table.readable.sum()),
                    dimension=int(table.features.shape[1]),
                    computed=table.computed,
                    unreadable=tuple(data.ids[row] for row in skipped),
                    key=table.key,
                )
            )
    return found
