"""Closed choices of settings and options, by name; importing them imports nothing else."""

from typing import Literal

__all__ = ["CaptumMethod", "MapMethod", "Occluder", "Precision"]

Precision = Literal["fp32", "bf16"]
Occluder = Literal["zero", "mean", "blur", "noise"]
CaptumMethod = Literal[
    "integrated-gradients",
    "gradient-shap",
    "grad-cam",
    "guided-grad-cam",
    "feature-ablation",
]
MapMethod = Literal["occlusion", CaptumMethod]
