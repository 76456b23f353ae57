"""What leaves the program: records of maps and of sets of maps, and the rows of their tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_models.experiments.record import Record

from medssl_saliency.concentration import describe
from medssl_saliency.pictures import heat_map_path, overlay_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medssl_saliency.mapping import Mapped

__all__ = ["MAP_COLUMNS", "UNITS", "map_documents", "map_records", "map_rows", "notes_of"]

UNITS = {"attentive diffusion": "%"}
MAP_COLUMNS = ("picture", "model", "diffusion %", "gini", "entropy", "border", "corners", "map")


def map_records(mapped: Mapped) -> list[Record]:
    """Give the record of each number of a map."""
    made = mapped.made
    details = {
        "file": mapped.path.name,
        "overlay": str(overlay_path(mapped)),
        "seconds": round(made.seconds, 2),
        "norm": made.norm,
        "near_exact": made.error,
    }
    return [
        Record(
            experiment="saliency",
            metric=metric,
            unit=UNITS.get(metric, ""),
            value=value,
            settings=mapped.settings.model_dump(mode="json") | {"picture": mapped.subject.name},
            details=details,
            notes=notes_of(mapped),
            provenance=mapped.provenance,
        )
        for metric, value in describe(made.strength).items()
    ]


def map_rows(everything: Sequence[Mapped]) -> list[tuple[object, ...]]:
    """Give a row of `MAP_COLUMNS` for each map."""
    return [_map_row(mapped, describe(mapped.made.strength)) for mapped in everything]


def map_documents(everything: Sequence[Mapped]) -> list[dict[str, object]]:
    """Give what `--json` tells of each map."""
    return [
        {
            "picture": mapped.subject.name,
            "model": mapped.model,
            "numbers": describe(mapped.made.strength),
            "norm": mapped.made.norm,
            "near_exact": mapped.made.error,
            "seconds": mapped.made.seconds,
            "notes": notes_of(mapped),
            "map": mapped.path.with_suffix(".npy"),
            "record": mapped.path,
            "heat_map": heat_map_path(mapped),
            "overlay": overlay_path(mapped),
        }
        for mapped in everything
    ]


def notes_of(mapped: Mapped) -> tuple[str, ...]:
    """Give what every number of a map must carry."""
    made = mapped.made
    signed = ("signed map: numbers of its absolute values",) if made.values.min() < 0 else ()
    near = (str(made.error),) if made.error else ()
    control = ("control: the network is untrained",) if mapped.is_control else ()
    return (*control, *mapped.subject.notes, *made.notes, *near, *signed)


def _map_row(mapped: Mapped, numbers: Mapping[str, float]) -> tuple[object, ...]:
    return (
        mapped.subject.name,
        mapped.model,
        f"{numbers['attentive diffusion']:.2f}",
        *(f"{numbers[name]:.3f}" for name in ("gini", "entropy", "border mass", "corner mass")),
        mapped.path.name,
    )
