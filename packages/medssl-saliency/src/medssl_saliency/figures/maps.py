"""Which pictures are drawn of maps, under which names; how they look is `rendering.py`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_saliency.concentration import attentive_diffusion
from medssl_saliency.rendering import draw_heat_map, draw_overlay, draw_panel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from medssl_saliency.mapping import Mapped, Maps

__all__ = ["draw_map", "draw_panels", "heat_map_path", "overlay_path"]


def heat_map_path(mapped: Mapped) -> Path:
    """Where a map's heat map lies."""
    return mapped.path.with_name(f"{mapped.path.stem}-heat.png")


def overlay_path(mapped: Mapped) -> Path:
    """Where a map's overlay lies."""
    return mapped.path.with_name(f"{mapped.path.stem}-overlay.png")


def draw_map(mapped: Mapped) -> None:
    """Draw the heat map and the overlay of a map, unless they are there."""
    heat, overlay = heat_map_path(mapped), overlay_path(mapped)
    made = mapped.made
    if mapped.fresh or not heat.exists():
        draw_heat_map(made.values, heat)
    if mapped.fresh or not overlay.exists():
        title = f"{mapped.model} on {mapped.subject.name}\n{_diffusion(mapped)}"
        draw_overlay(made.picture, made.values, overlay, title=title)


def draw_panels(everything: Sequence[Mapped], maps: Maps) -> list[Path]:
    """Draw all models' maps of each picture side by side.

    Args:
        everything: Maps of several models on several pictures.
        maps: Knows the folders.

    Returns:
        The panels, one for each picture.
    """
    of_picture: dict[Path, list[Mapped]] = {}
    for mapped in everything:
        of_picture.setdefault(maps.folder(mapped.subject), []).append(mapped)
    panels = []
    for folder, fellows in of_picture.items():
        panels.append(folder / f"panel-{fellows[0].settings.method}.png")
        draw_panel(
            [mapped.made.picture for mapped in fellows],
            {mapped.model: mapped.made.values for mapped in fellows},
            panels[-1],
            captions={mapped.model: _diffusion(mapped) for mapped in fellows},
            title=fellows[0].subject.name,
        )
    return panels


def _diffusion(mapped: Mapped) -> str:
    return f"attentive diffusion {attentive_diffusion(mapped.made.strength):.1f} %"
