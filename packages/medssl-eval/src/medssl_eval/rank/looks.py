"""How much of the error may be spent at each look: a ranking looks at growing parts of its images.

Every look is another chance to call a difference proven that is none. Together they may do so in
one run of twenty, so that each look has a part of the 5 % only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from medssl_eval.errors import SettingsError

__all__ = ["Looks", "spent_by"]

LEVEL, POWER = 0.05, 1 / 3


def spent_by(share: float) -> float:
    """Return what may be spent by the time that a share of the images has been seen.

    The power family of spending, 0.05 t^(1/3). A third lets a clear difference be seen early: each
    round has four times the images of the one before, and most models leave in the first ones.

    Args:
        share: t, of all images, in 0..1.

    References:
        Lan and DeMets, Discrete sequential boundaries for clinical trials, 1983 (spending by the
        share of the information); Kim and DeMets, Design and analysis of group sequential tests
        based on the type I error spending rate function, 1987 (the family).

    Example:
        >>> [round(spent_by(share), 4) for share in (0, 0.06, 0.24, 1)]
        [0.0, 0.0196, 0.0311, 0.05]
    """
    if not 0 <= share <= 1:
        message = f"share is {share}; it must lie in 0..1"
        raise SettingsError(message)
    return float(LEVEL * share**POWER)


@dataclass
class Looks:
    """The looks of one ranking; their levels add up to 5 % (Bonferroni's inequality).

    Args:
        total: How many images there are.

    Example:
        >>> looks = Looks(1600)
        >>> round(looks.level(96), 4), round(looks.level(384), 4), round(looks.last_level(384), 4)
        (0.0196, 0.0115, 0.0304)
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
