"""The similarities that the 2022 study released, with the flags of those that cannot be trusted."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medssl_models import Record

__all__ = ["PublishedSimilarity", "published_similarity", "released"]


@dataclass(frozen=True)
class PublishedSimilarity:
    """One number of the study: the mean cosine of whitened deviations.

    Attributes:
        dataset: Name of the data set.
        model: Name of the model.
        transform: A family's name, or `views`.
        setting: What is known of k, and how.
        value: The number; the identity is averaged in, except for views.
        flag: Why not to trust it, empty where there is no such reason.
    """

    dataset: str
    model: str
    transform: str
    setting: str
    value: float
    flag: str


def released() -> tuple[PublishedSimilarity, ...]:
    """Give all numbers, in the order in which the study listed them."""
    return tuple(_table().values())


def published_similarity(record: Record) -> PublishedSimilarity | None:
    """Give the study's number for a record, or None where it has none.

    A phantom bears the name of the data set that it stands in for, and nothing else of it.
    """
    if record.metric != "whitened cosine" or record.details.get("synthetic"):
        return None
    model = record.provenance.model.partition(":")[0]
    return _table().get((record.provenance.dataset, model, str(record.settings["transform"])))


@cache
def _table() -> Mapping[tuple[str, str, str], PublishedSimilarity]:
    text = (files("medssl_invariance") / "data" / "published.csv").read_text("utf-8")
    return {
        (row["dataset"], row["model"], row["transform"]): PublishedSimilarity(
            row["dataset"],
            row["model"],
            row["transform"],
            row["setting"],
            float(row["value"]),
            row["flag"],
        )
        for row in csv.DictReader(text.splitlines())
    }
