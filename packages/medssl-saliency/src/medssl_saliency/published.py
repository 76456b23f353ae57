"""The attentive diffusion that the 2022 study released, cell by cell, and what its own maps say."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["PublishedDiffusion", "published_diffusion"]


@dataclass(frozen=True)
class PublishedDiffusion:
    """One cell of the study's table; one image of the data set was occluded.

    Attributes:
        dataset: Name of the data set.
        model: Name of the model.
        published: The released value in percent; None where none was released.
        recovered: The value recomputed from the released heat map.
        lower: Its lower bound: a heat map has only 256 levels.
        upper: Its upper bound.
        status: `agrees`, `disagrees` (the map should be believed, J (D3)) or `not published`.
    """

    dataset: str
    model: str
    published: float | None
    recovered: float
    lower: float
    upper: float
    status: str

    @property
    def value(self) -> float:
        """The value to compare with: the released one unless its own map contradicts it."""
        if self.published is None or self.status == "disagrees":
            return self.recovered
        return self.published


def published_diffusion(*, dataset: str, model: str) -> PublishedDiffusion | None:
    """Give the study's cell for a data set and a model, or None where it has none."""
    return _table().get((dataset, model))


def _table() -> dict[tuple[str, str], PublishedDiffusion]:
    text = (files("medssl_saliency") / "data" / "attentive_diffusion.csv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines())
    return {(row["dataset"], row["model"]): _cell(row) for row in rows}


def _cell(row: dict[str, str]) -> PublishedDiffusion:
    return PublishedDiffusion(
        dataset=row["dataset"],
        model=row["model"],
        published=float(row["published"]) if row["published"] else None,
        recovered=float(row["recovered"]),
        lower=float(row["lower"]),
        upper=float(row["upper"]),
        status=row["status"],
    )
