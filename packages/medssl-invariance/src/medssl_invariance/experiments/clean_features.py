"""Features of the images as they are: out of the feature store, or batch by batch.

Where BatchNorm is in training mode a feature depends on what is in its batch. As the study's newest
code ran, images that are compared are then batches of one, and those behind the covariance come 256
together. None of these goes into the feature store, whose keys know no batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medssl_invariance.errors import FeatureError

if TYPE_CHECKING:
    import torch
    from medssl_data import ImageDataset
    from medssl_models import Backbone, Preprocessing
    from medssl_models.experiments.context import RunContext
    from medssl_models.features.runtime import FeatureNetwork
    from numpy.typing import NDArray

    from medssl_invariance.experiments.image_plan import ImagePlan
    from medssl_invariance.experiments.settings import ComparisonSettings

    Features = NDArray[np.float32]
    Rows = NDArray[np.int64]

__all__ = ["COVARIANCE_BATCH", "CleanFeatures", "collect_features", "prepare_network"]

COVARIANCE_BATCH = 256


@dataclass(frozen=True)
class CleanFeatures:
    """Features of the images that take part, as they are.

    Args:
        rows: `(n,)` their rows in the data set, ascending.
        features: `(n, D)` float32.
        unreadable: Names of the images that were skipped.
        device: Where they were computed.
        precision_error: Relative error of bf16, as text; `nan` for fp32.
        in_batches: `(m, D)` features of the images behind the covariance, where BatchNorm's batches
            make them others than `features`.
    """

    rows: Rows
    features: Features
    unreadable: tuple[str, ...]
    device: str
    precision_error: str
    in_batches: Features | None = None

    def readable(self, rows: Rows) -> Rows:
        """Keep those rows of the data set that could be read, in order."""
        return rows[np.isin(rows, self.rows)]

    def at(self, rows: Rows) -> Features:
        """Return the features of rows of the data set, `(len(rows), D)`; all must be here."""
        return self.features[np.searchsorted(self.rows, rows)]


def collect_features(
    backbone: Backbone,
    data: ImageDataset,
    preprocessing: Preprocessing,
    plan: ImagePlan,
    settings: ComparisonSettings,
    context: RunContext,
) -> CleanFeatures:
    """Compute features, or read them from the store.

    Args:
        backbone: The network.
        data: The images.
        preprocessing: From image to input.
        plan: Which images; where all take part, the store's key is that of other experiments.
        settings: What BatchNorm normalises with.
        context: Settings of the extraction, and the store.

    Raises:
        FeatureError: Features are not finite.
        medssl_data.UnreadableImageError: An image cannot be read and is not to be skipped.
    """
    if settings.batchnorm == "training":
        network = prepare_network(backbone, settings, context, crop=preprocessing.crop)
        return _collect_in_batches(network, data, preprocessing, plan)
    from medssl_models import extract

    rows = plan.needed
    table = extract(
        backbone,
        data if len(rows) == len(data) else data.select(rows),
        preprocessing=preprocessing,
        settings=context.extracting,
        store=context.store,
        progress=context.progress,
    )
    readable = np.flatnonzero(table.readable)
    return CleanFeatures(
        rows=rows[readable],
        features=_finite(table.features[readable], backbone),
        unreadable=tuple(data.ids[row] for row in rows[~table.readable]),
        device=table.provenance.get("device", ""),
        precision_error=table.provenance.get("precision_error", "nan"),
    )


def _collect_in_batches(
    network: FeatureNetwork, data: ImageDataset, preprocessing: Preprocessing, plan: ImagePlan
) -> CleanFeatures:
    """Compute features twice: each image alone, and those behind the covariance together.

    An image that cannot be read is an error: a batch without it would be another.
    """
    import torch

    def features(rows: Rows, size: int) -> Features:
        batches = (rows[start : start + size] for start in range(0, len(rows), size))
        made = [network(_batch(data, preprocessing, batch)) for batch in batches]
        return _finite(torch.cat(made).numpy(), network.backbone)

    alone, together = features(plan.needed, 1), features(plan.covariance, COVARIANCE_BATCH)
    return CleanFeatures(plan.needed, alone, (), network.device.type, "nan", together)


def _batch(data: ImageDataset, preprocessing: Preprocessing, rows: Rows) -> torch.Tensor:
    import torch

    return torch.stack([preprocessing(data[int(row)][0]) for row in rows])


def _finite(features: Features, backbone: Backbone) -> Features:
    """Refuse features that are not finite."""
    if not np.isfinite(features).all():
        message = f"{backbone.name} gives NaN or infinite features; check the weights"
        raise FeatureError(message)
    return features


def prepare_network(
    backbone: Backbone, settings: ComparisonSettings, context: RunContext, *, crop: int
) -> FeatureNetwork:
    """Make the fastest copy of a backbone that computes as the settings say.

    Args:
        backbone: It is not changed.
        settings: What BatchNorm normalises with.
        context: Layer, device and precision.
        crop: Side of the images.
    """
    from medssl_models.features.runtime import FeatureNetwork, resolve_device

    extraction = context.extracting
    return FeatureNetwork.prepare(
        backbone,
        layer=extraction.layer,
        device=resolve_device(extraction.device),
        precision=extraction.precision,
        batchnorm=settings.batchnorm,
        crop=crop,
    )
