"""Which cells of a matrix are done: a line for each, in a file beside the records.

A line tells what a cell gave and how long it took. It is no record: nothing was measured.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from medssl_models.experiments.record_store import LineStore
from medssl_models.plain_json import canonical_json
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["FinishedCell", "finished_cells"]

_FORMERLY = "matrix-cell"
_IDENTITY = frozenset(
    {"experiment", "settings", "model", "weights", "dataset", "manifest", "protocol", "seed",
     "precision"}
)  # fmt: skip


class FinishedCell(BaseModel):
    """A cell that is done.

    Args:
        experiment: Its name.
        settings: The experiment's, without protocol and seed.
        model: The model's one name.
        weights: Fingerprint of its weights.
        dataset: The data set's name.
        manifest: Fingerprint of images, labels, groups and splits.
        protocol: `published` or `corrected`.
        seed: Of the experiment.
        precision: `fp32` or `bf16`.
        records: Keys of the records that it gave.
        seconds: What it took.
        images: Of the data set.
        passes: Images that ran through the network beyond the features; None is not known.
        reads_features: Whether it reads features, so that its time grows with the images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    model: str
    weights: str
    dataset: str
    manifest: str
    protocol: str = "corrected"
    seed: int = 0
    precision: str = "fp32"
    records: tuple[str, ...] = ()
    seconds: float = 0.0
    images: int = 0
    passes: int | None = None
    reads_features: bool = False

    @model_validator(mode="before")
    @classmethod
    def _of_version_0_1(cls, line: Any) -> Any:  # noqa: ANN401 # what a line holds
        """Read the records that were written in place of these lines: their times still count."""
        if not isinstance(line, dict) or line.get("experiment") != _FORMERLY:
            return line
        try:
            asked, origin = line["settings"], line["provenance"]
            facts = {name: origin[name] for name in _IDENTITY & origin.keys()}
            named = {"experiment": asked["probe"], "settings": asked["settings"]}
            return {**facts, **named, "seconds": line["value"], **line["details"]}
        except (KeyError, TypeError, AttributeError) as error:
            message = f"no finished cell: {error}"
            raise ValueError(message) from error

    @property
    def key(self) -> str:
        """SHA-256 of all that identifies the cell, 64 hex digits."""
        identity = self.model_dump(include=set(_IDENTITY))
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def finished_cells(
    results: Path, warn: Callable[[str], None] = lambda _: None
) -> LineStore[FinishedCell]:
    """Open the file of finished cells beside a file of records.

    Args:
        results: The records.
        warn: Takes a note for each line that is none of these.

    Example:
        >>> from pathlib import Path
        >>> finished_cells(Path("run.jsonl")).path.name
        'run-cells.jsonl'
    """
    name = f"{results.stem}-cells{results.suffix}"
    return LineStore(results.with_name(name), FinishedCell.model_validate_json, warn)
