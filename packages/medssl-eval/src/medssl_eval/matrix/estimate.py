"""How long cells will take: told from cells that were done before, else from timing the network.

What neither can tell stays unknown; a total says how many cells it leaves out.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from medssl_data import ImageDataset
    from medssl_models import Backbone, ExtractionSettings

    from medssl_eval.matrix.finished import FinishedCell
    from medssl_eval.matrix.running import Matrix, PlannedCell

__all__ = ["Estimate", "estimate_cells", "total_seconds"]


@dataclass(frozen=True)
class Estimate:
    """How long a cell will take in one process.

    Args:
        features: Seconds to extract features that are not there; 0 where another cell does it.
        experiment: Seconds of the experiment itself; None where nothing is known about it.
        basis: What it rests on: `done before`, `such cells before` or `timed network`.
    """

    features: float
    experiment: float | None
    basis: str


def estimate_cells(matrix: Matrix, cells: Sequence[PlannedCell]) -> list[Estimate]:
    """Estimate each cell that is to be done; the others take nothing.

    The network is timed once for each architecture, on noise, with the threads of a cell.

    Args:
        matrix: Knows what cells took before.
        cells: Of `matrix.cells()`.
    """
    history = _history(matrix.finished.entries.values())
    clock = _Clock(matrix)
    begun: set[str] = set()
    return [_of(cell, history, clock, begun) for cell in cells]


def total_seconds(estimates: Iterable[Estimate], workers: int) -> float:
    """Sum what is known, spread over so many processes; no shorter than the longest cell."""
    each = [estimate.features + (estimate.experiment or 0.0) for estimate in estimates]
    return max(sum(each) / workers, max(each, default=0.0))


def _of(
    planned: PlannedCell,
    history: Mapping[tuple[str, str, str], list[float]],
    clock: _Clock,
    begun: set[str],
) -> Estimate:
    if planned.state != "to do":
        return Estimate(0.0, 0.0, planned.state)
    features = 0.0
    if planned.features and not planned.cached and planned.features not in begun:
        begun.add(planned.features)
        features = planned.images * clock.seconds(planned)
    kind, size = _size(planned.images, planned.passes, reads_features=bool(planned.features))
    for name in (planned.cell.model, ""):
        rates = history.get((planned.cell.experiment, name, kind))
        if rates:
            return Estimate(features, size * statistics.fmean(rates), "such cells before")
    if planned.passes is None:
        return Estimate(features, None, "timed network" if features else "")
    return Estimate(features, planned.passes * clock.seconds(planned), "timed network")


def _size(images: int, passes: int | None, *, reads_features: bool) -> tuple[str, float]:
    """What an experiment's time is proportional to.

    Those that read features grow with the images. Of those that run the network, the number of
    passes tells; where that is not known, their settings decide and not the size of the data set.
    """
    if reads_features:
        return "images", images
    return ("passes", passes) if passes else ("cells", 1.0)


def _history(lines: Iterable[FinishedCell]) -> dict[tuple[str, str, str], list[float]]:
    """Seconds for one of what counts, by experiment and model, and by experiment alone."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for line in lines:
        if line.images < 1:
            continue
        kind, size = _size(line.images, line.passes, reads_features=line.reads_features)
        for model in (line.model, ""):
            found.setdefault((line.experiment, model, kind), []).append(line.seconds / size)
    return found


class _Clock:
    """Times each architecture once."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        self.known: dict[tuple[object, ...], float] = {}

    def open(self, planned: PlannedCell) -> tuple[Backbone, ImageDataset]:
        """Open a cell's model and data set."""
        from medssl_eval.matrix.jobs import open_cell

        return open_cell(planned.cell, self.matrix.plan.root)

    def seconds(self, planned: PlannedCell) -> float:
        """Seconds of one image through the network."""
        from medssl_models.features.runtime import threads

        from medssl_eval.rank.cost import measure_cost

        backbone, _ = self.open(planned)
        card, crop = backbone.card, backbone.preprocessing.crop
        key = (card.architecture, card.width, crop)
        if key not in self.known:
            extraction: ExtractionSettings = self.matrix.shared.extraction
            with threads(self.matrix.plan.executor.cpus):
                self.known[key] = measure_cost(backbone, extraction).milliseconds / 1000
        return self.known[key]
