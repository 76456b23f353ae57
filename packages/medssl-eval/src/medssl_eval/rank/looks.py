"""How much of the error may be spent at each look: a ranking looks at growing parts of its images.

Every look is another chance to call a difference proven that is none. Together they may do so in
one run of twenty, so that each look has a part of the 5 % only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from medssl_eval.errors import SettingsError

__all__ = ["Looks", "spent_by"]

LEVEL = 0.05


def spent_by(share: float) -> float:
    """Return what may be spent by the time that a share of the images has been seen.

    Pocock's type of spending, which lets a clear difference be seen early: 0.05 ln(1 + (e - 1) t).

    Args:
        share: t, of all images, in 0..1.

    References:
        Lan and DeMets, Discrete sequential boundaries for clinical trials, 1983.

    Example:
        >>> [round(spent_by(share), 4) for share in (0, 0.06, 0.24, 1)]
        [0.0, 0.0049, 0.0173, 0.05]
    """
    if not 0 <= share <= 1:
        message = f"share is {share}; it must lie in 0..1"
        raise SettingsError(message)
    return LEVEL * math.log(1 + (math.e - 1) * share)


@dataclass
class Looks:
    """The looks of one ranking; their levels add up to 5 % (Bonferroni's inequality).

    Args:
        total: How many images there are.

    Example:
        >>> looks = Looks(1600)
        >>> round(looks.level(96), 4), round(looks.level(384), 4), round(looks.last_level(384), 4)
        (0.0049, 0.0123, 0.0451)
    """

    total: int
    _levels: dict[int, float] = field(default_factory=dict)

    def level(self, images: int) -> float:
        """Spend what is due at a look after which the ranking may go on, and return it."""
        if images not in self._levels:
            due = spent_by(images / self.total)
            self._levels[images] = max(0.0, due - sum(self._levels.values()))
        return self._levels[images]

    def last_level(self, images: int) -> float:
        """Return the level of the last look: all that earlier ones have left.

        What was proven at the same look while the ranking could still go on is proven here too, so
        nothing is spent twice.
        """
        before = (level for size, level in self._levels.items() if size < images)
        return LEVEL - sum(before)
