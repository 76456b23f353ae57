"""Which pictures are drawn of maps, under which names; how they look is `drawing.py`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_saliency.figures.drawing import draw_heat_map, draw_overlay, draw_panel
from medssl_saliency.maps.statistics import attentive_diffusion

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from medssl_saliency.maps.computing import SaliencyMap
    from medssl_saliency.maps.folder import StoredMap

__all__ = ["draw_map", "draw_models", "heat_map_path", "overlay_path"]


def heat_map_path(path: Path) -> Path:
    """Name the heat map of a map's file."""
    return path.with_name(f"{path.stem}-heat.png")


def overlay_path(path: Path) -> Path:
    """Name the overlay of a map's file."""
    return path.with_name(f"{path.stem}-overlay.png")


def draw_map(stored: StoredMap) -> None:
    """Draw the heat map and the overlay of a map that is kept, unless they are there."""
    if stored.path is None:
        return
    heat, overlay, made = heat_map_path(stored.path), overlay_path(stored.path), stored.map
    if stored.fresh or not heat.exists():
        draw_heat_map(made.values, heat)
    if stored.fresh or not overlay.exists():
        title = f"{stored.model} on {stored.item.name}\n{_diffusion(made)}"
        draw_overlay(made.picture, made.values, overlay, title=title)


def draw_models(maps: Mapping[str, SaliencyMap], path: Path, *, title: str) -> None:
    """Draw all models' maps of a picture side by side.

    Args:
        maps: Model to map.
        path: The PNG.
        title: Above all.
    """
    draw_panel(
        [made.picture for made in maps.values()],
        {model: made.values for model, made in maps.items()},
        path,
        captions={model: _diffusion(made) for model, made in maps.items()},
        title=title,
    )


def _diffusion(made: SaliencyMap) -> str:
    return f"attentive diffusion {attentive_diffusion(made.strength):.1f} %"
