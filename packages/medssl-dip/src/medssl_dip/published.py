"""The perceptual distances that the 2022 study released; facts to compare with, no arithmetic."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

__all__ = ["published_distance", "published_models"]


@cache
def _table() -> dict[tuple[str, str], dict[str, float]]:
    text = (files("medssl_dip") / "data" / "perceptual_distance.csv").read_text("utf-8")
    table = {}
    for row in csv.DictReader(text.splitlines()):
        cell = row.pop("dataset"), row.pop("model")
        table[cell] = {net: float(value) for net, value in row.items()}
    return table


def published_distance(*, dataset: str, model: str, net: str = "average") -> float | None:
    """Look up a released LPIPS distance: one picture, one unseeded run, layer 4.

    Args:
        dataset: Name of the data set.
        model: Name of the model.
        net: `alex`, `vgg`, `squeeze`, or `average` for the plain mean of the three.

    Returns:
        The distance, or None where the study has no such cell.

    Example:
        >>> round(published_distance(dataset="shenzhencxr", model="simclr-v1"), 3)
        0.901
    """
    return _table().get((dataset, model), {}).get(net)


def published_models() -> tuple[str, ...]:
    """List the study's models, sorted."""
    return tuple(sorted({model for _, model in _table()}))
