"""Clean features where BatchNorm is in training mode: they depend on what is in the batch.

As the study's newest code ran: images that are compared one at a time, those behind the covariance
256 together. None of them goes into the feature store, whose keys know no batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from medssl_invariance.experiments.reference_set import CleanFeatures, check_finite

if TYPE_CHECKING:
    import numpy as np
    from medssl_data import ImageDataset
    from medssl_models import Preprocessing
    from medssl_models.features.runtime import FeatureNetwork
    from numpy.typing import NDArray

    from medssl_invariance.experiments.reference_set import Plan

__all__ = ["COVARIANCE_BATCH", "collect_in_batches"]

COVARIANCE_BATCH = 256


def collect_in_batches(
    network: FeatureNetwork,
    data: ImageDataset,
    preprocessing: Preprocessing,
    plan: Plan,
    rows: NDArray[np.int64],
) -> tuple[CleanFeatures, NDArray[np.float32]]:
    """Compute clean features twice: each image alone, and those behind the covariance together.

    Args:
        network: Its BatchNorm normalises with the statistics of each batch.
        data: The images.
        preprocessing: From image to input.
        plan: Which images are behind the covariance, in the order of their batches.
        rows: All that take part, ascending.

    Returns:
        Features of `rows`, each image alone, and `(m, D)` features of `plan.covariance`.

    Raises:
        FeatureError: Features are not finite.
        medssl_data.UnreadableImageError: An image cannot be read; a batch without it is another.
    """

    def features(chosen: NDArray[np.int64], size: int) -> NDArray[np.float32]:
        starts = range(0, len(chosen), size)
        made = [network(_batch(data, preprocessing, chosen[at : at + size])) for at in starts]
        return check_finite(torch.cat(made).numpy(), network.backbone)

    alone = CleanFeatures(rows, features(rows, 1), (), network.device.type, "nan")
    return alone, features(plan.covariance, COVARIANCE_BATCH)


def _batch(
    data: ImageDataset, preprocessing: Preprocessing, rows: NDArray[np.int64]
) -> torch.Tensor:
    return torch.stack([preprocessing(data[int(row)][0]) for row in rows])
