"""How much of a picture survived: one small record of distances for each pair of pictures."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medssl_dip.perceptual import check_pictures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medssl_dip.objective import FrozenEye
    from medssl_dip.perceptual import Perceptual

__all__ = ["METRICS", "Fidelity", "Metric", "feature_distance", "measure", "spread"]

SMALLEST = 11
"""Side of SSIM's window, pixels."""


@dataclass(frozen=True)
class Metric:
    """What a number of `Fidelity` means.

    Args:
        unit: Empty for a pure number.
        higher_is_better: A larger value means a better reconstruction.
        meaning: One line.
    """

    unit: str
    higher_is_better: bool
    meaning: str


METRICS: Mapping[str, Metric] = {
    "lpips-alex": Metric("", higher_is_better=False, meaning="LPIPS, AlexNet; 0 is the same"),
    "lpips-vgg": Metric("", higher_is_better=False, meaning="LPIPS, VGG-16; 0 is the same"),
    "lpips-squeeze": Metric("", higher_is_better=False, meaning="LPIPS, SqueezeNet; 0 is the same"),
    "lpips-average": Metric("", higher_is_better=False, meaning="plain mean of the three"),
    "ssim": Metric("", higher_is_better=True, meaning="structural similarity; 1 is the same"),
    "psnr": Metric(
        "dB", higher_is_better=True, meaning="peak signal to noise; infinite is the same"
    ),
    "feature-distance": Metric(
        "", higher_is_better=False, meaning="L2 of the model's pooled features over the original's"
    ),
}
LPIPS_NETS = 3


@dataclass(frozen=True)
class Fidelity:
    """The distances between two pictures.

    Args:
        values: Metric to value, out of `METRICS`; PSNR of equal pictures is infinite.
    """

    values: Mapping[str, float] = field(default_factory=dict)

    def finite(self) -> dict[str, float]:
        """Give the values that are finite numbers."""
        return {name: value for name, value in self.values.items() if math.isfinite(value)}


def measure(
    original: Tensor,
    other: Tensor,
    *,
    perceptual: Mapping[str, Perceptual] | None = None,
    eye: FrozenEye | None = None,
) -> Fidelity:
    """Compare two pictures.

    Args:
        original: (3, H, W) float32 in [0, 1], at least 11 x 11, and 32 x 32 for LPIPS.
        other: The same shape.
        perceptual: LPIPS by net; see `medssl_dip.load_perceptual`.
        eye: A backbone in whose pooled features the distance is measured too.

    Returns:
        All distances that could be measured; `lpips-average` where all three nets are given.

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
            f"lpips-{net}": float(metric(first, second))
            for net, metric in (perceptual or {}).items()
        }
        if len(values) == LPIPS_NETS:
            values["lpips-average"] = statistics.fmean(values.values())
        similarity = structural_similarity_index_measure(second, first, data_range=1.0)
        assert isinstance(similarity, Tensor)  # noqa: S101 # a pair only with further arguments
        values["ssim"] = float(similarity)
        values["psnr"] = float(peak_signal_noise_ratio(second, first, data_range=1.0))
        if eye is not None:
            values["feature-distance"] = feature_distance(eye, first, second)
    return Fidelity(values)


def feature_distance(eye: FrozenEye, original: Tensor, other: Tensor) -> float:
    """Measure how far apart two pictures are in a model's pooled features.

    Args:
        eye: The model.
        original: (1, 3, H, W) in [0, 1].
        other: The same shape.

    Returns:
        L2 distance over the norm of the original's features; 0 is the same.
    """
    with torch.no_grad():
        features = eye(torch.cat([original, other]), eye.network.layers[-1]).flatten(1)
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
