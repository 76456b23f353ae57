"""Maps of one picture under randomisations, and what they are compared by.

Importing this module imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from medssl_saliency.maps.statistics import agreement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medssl_saliency.maps.curves import Curves
    from medssl_saliency.maps.folder import StoredMap

__all__ = [
    "AREAS",
    "CASCADING",
    "CONTROL",
    "CONTROL_PAIR",
    "INDEPENDENT",
    "OTHER_TARGET",
    "OWN",
    "RANDOM",
    "Randomised",
    "SanityCheck",
]

CASCADING, INDEPENDENT, OTHER_TARGET = "cascading", "independent", "other target"
CONTROL, CONTROL_PAIR = "untrained control", "control pair"
OWN, RANDOM = "own map", "random blocks"
AREAS: tuple[Literal["deletion", "insertion"], ...] = ("deletion", "insertion")


@dataclass(frozen=True, eq=False)
class Randomised:
    """The map of a picture under one randomisation.

    Args:
        test: `cascading`, `independent`, `untrained control` or `other target`.
        what: What was randomised.
        stored: The map.
    """

    test: str
    what: str
    stored: StoredMap


@dataclass(frozen=True, eq=False)
class SanityCheck:
    """All checks of one model on one picture.

    Args:
        own: The map that is checked.
        randomised: Maps under randomisations.
        curves: Deletion and insertion by what ordered the pixels; several of random orders.
    """

    own: StoredMap
    randomised: list[Randomised] = field(default_factory=list)
    curves: dict[str, list[Curves]] = field(default_factory=dict)

    @property
    def picture(self) -> str:
        """Name of the picture."""
        return self.own.item.name

    def similarities(self) -> dict[tuple[str, str], Mapping[str, float]]:
        """Compare the map with each randomised one, and the controls' maps with each other."""
        mine = self.own.map.strength
        found: dict[tuple[str, str], Mapping[str, float]] = {
            (one.test, one.what): agreement(mine, one.stored.map.strength)
            for one in self.randomised
        }
        controls = [one for one in self.randomised if one.test == CONTROL]
        for first, second in pairwise(controls):
            pair = first.stored.map.strength, second.stored.map.strength
            found[CONTROL_PAIR, f"{first.what} and {second.what}"] = agreement(*pair)
        return found

    def areas(self) -> dict[str, dict[str, float]]:
        """Average the areas of deletion and insertion by order, where there are several."""
        return {
            order: {
                "deletion": float(np.mean([one.deletion_area for one in several])),
                "insertion": float(np.mean([one.insertion_area for one in several])),
            }
            for order, several in self.curves.items()
        }
