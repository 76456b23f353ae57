"""The numbers that say how much of a picture survived; nothing is measured here, and no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from medssl_models.experiments.metric import Metric

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["METRICS", "NETS", "NetName", "meaning"]

NetName = Literal["alex", "vgg", "squeeze"]
"""Trunks of LPIPS."""
NETS: tuple[NetName, ...] = get_args(NetName)

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("lpips_alex", "LPIPS, AlexNet", "lower", bounds=(0, None)),
        Metric("lpips_vgg", "LPIPS, VGG-16", "lower", bounds=(0, None)),
        Metric("lpips_squeeze", "LPIPS, SqueezeNet", "lower", bounds=(0, None)),
        Metric("lpips_average", "LPIPS, plain mean of the three", "lower", bounds=(0, None)),
        Metric("ssim", "structural similarity", "higher", bounds=(-1, 1)),
        Metric("psnr", "peak signal to noise", "higher", "dB", bounds=(0, None)),
        Metric("feature_distance", "distance of pooled features", "lower", bounds=(0, None)),
        Metric("loss", "loss", "lower", bounds=(0, None)),
    )
}


def meaning(metric: Metric) -> str:
    """Say in a line what a metric measures and which value two equal pictures have.

    Example:
        >>> meaning(METRICS["ssim"]), meaning(METRICS["psnr"])
        ('structural similarity; 1 is the same', 'peak signal to noise; infinite is the same')
    """
    same = metric.bounds[0 if metric.direction == "lower" else 1]
    return f"{metric.title}; {'infinite' if same is None else same} is the same"
