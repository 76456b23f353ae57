"""How much of a picture survived: one small record of distances for each pair of pictures."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medssl_dip.perceptual.lpips import check_pictures
from medssl_dip.perceptual.metrics import NETS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medssl_dip.feature_extractor import FeatureExtractor
    from medssl_dip.perceptual.lpips import LPIPS

__all__ = ["Fidelity", "feature_distance", "measure", "spread"]

SMALLEST = 11
"""Side of SSIM's window, pixels."""


@dataclass(frozen=True)
class Fidelity:
    """The distances between two pictures.

    Args:
        values: Metric to value, out of `METRICS`; PSNR of equal pictures is infinite.
    """

    values: Mapping[str, float] = field(default_factory=dict)

    def finite(self) -> dict[str, float]:
        """Return the values that are finite numbers."""
        return {name: value for name, value in self.values.items() if math.isfinite(value)}


def measure(
    original: Tensor,
    other: Tensor,
    *,
    lpips: Mapping[str, LPIPS] | None = None,
    extractor: FeatureExtractor | None = None,
) -> Fidelity:
    """Compare two pictures.

    Args:
        original: (3, H, W) float32 in [0, 1], at least 11 x 11, and 32 x 32 for LPIPS.
        other: The same shape.
        lpips: By net; see `medssl_dip.load_lpips`.
        extractor: A backbone in whose pooled features the distance is measured too.

    Returns:
        All distances that could be measured; `lpips_average` where all three nets are given.

    Raises:
        ImageRangeError: A value is not finite or outside [0, 1].
        ImageSizeError: The sizes differ or are too small.

    Example:
        >>> grey = torch.full((3, 16, 16), 0.5)
        >>> measure(grey, grey).values["psnr"]
        inf
    """
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    first, second = original[None], other[None]
    check_pictures(first, second, smallest=SMALLEST)
    with torch.no_grad():
        values = {
            f"lpips_{net}": float(metric(first, second)) for net, metric in (lpips or {}).items()
        }
        if values.keys() == {f"lpips_{net}" for net in NETS}:
            values["lpips_average"] = statistics.fmean(values.values())
        similarity = structural_similarity_index_measure(second, first, data_range=1.0)
        assert isinstance(similarity, Tensor)  # noqa: S101 # a pair only with further arguments
        values["ssim"] = float(similarity)
        values["psnr"] = float(peak_signal_noise_ratio(second, first, data_range=1.0))
        if extractor is not None:
            values["feature_distance"] = feature_distance(extractor, first, second)
    return Fidelity(values)


def feature_distance(extractor: FeatureExtractor, original: Tensor, other: Tensor) -> float:
    """Measure how far apart two pictures are in a model's pooled features.

    Args:
        extractor: The model.
        original: (1, 3, H, W) in [0, 1].
        other: The same shape.

    Returns:
        L2 distance over the norm of the original's features; 0 is the same.
    """
    with torch.no_grad():
        features = extractor(torch.cat([original, other]), extractor.network.layers[-1]).flatten(1)
    norm = torch.linalg.vector_norm(features[0])
    return float(torch.linalg.vector_norm(features[1] - features[0]) / norm)


def spread(values: Sequence[float]) -> dict[str, object]:
    """Describe how restarts differ: the values, their standard deviation, least and greatest."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {
        "values": list(values),
        "standard_deviation": deviation,
        "least": min(values),
        "greatest": max(values),
    }
