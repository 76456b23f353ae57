"""Which images take part in a comparison: a list that depends on their number and the seed alone.

What lies on disk, such as features that were kept, never changes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from medssl_invariance.errors import TooFewImagesError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medssl_invariance.experiments.settings import ComparisonSettings

    Rows = NDArray[np.int64]

__all__ = ["ImagePlan", "draw_with_replacement", "plan_images"]


@dataclass(frozen=True)
class ImagePlan:
    """Rows of the images that take part.

    Args:
        compared: `(n,)` rows that are compared; some several times where drawn with replacement.
        covariance: `(m,)` rows behind the covariance, likewise.
        beside: Further rows whose features are needed.
    """

    compared: Rows
    covariance: Rows
    beside: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def needed(self) -> Rows:
        """All rows that take part, ascending, each once."""
        return np.unique(np.concatenate([self.compared, self.covariance, self.beside]))


def plan_images(rows: int, settings: ComparisonSettings) -> ImagePlan:
    """Choose the images before the first one is opened.

    Args:
        rows: How many there are, N.
        settings: How many, how they are drawn, and the seed. Where the covariance is of others,
            at most half of all are compared.

    Raises:
        TooFewImagesError: Fewer than two images, or none left for the covariance.

    Example:
        >>> from medssl_invariance import SyntheticSettings
        >>> plan = plan_images(60, SyntheticSettings())
        >>> len(plan.compared), len(plan.covariance)
        (30, 30)
    """
    apart = settings.covariance_from == "others"
    least = 3 if apart else 2
    if rows < least:
        split = ": 1 to compare and 2 others for the covariance" if apart else ""
        message = f"at least {least} images are needed{split}; there are {rows}"
        raise TooFewImagesError(message)
    if settings.draw == "with_replacement":
        compared, covariance = _published_draws(rows, settings)
    else:
        order = np.random.default_rng(settings.seed).permutation(rows)
        count = rows // 2 if apart else rows
        compared, covariance = order[: min(settings.images, count)], order
        covariance = covariance[: settings.covariance_images + len(compared)]
    if apart:
        covariance = covariance[~np.isin(covariance, compared)]
    if len(covariance) < 2:
        message = f"of {rows} images {len(covariance)} are left for the covariance; 2 are needed"
        raise TooFewImagesError(message)
    return ImagePlan(compared, covariance)


def _published_draws(rows: int, settings: ComparisonSettings) -> tuple[Rows, Rows]:
    """Repeat the study's draws of a first run, when nothing was cached yet."""
    draws = np.random.RandomState(settings.seed)
    covariance: Rows = np.arange(rows)
    if rows >= settings.covariance_images:
        covariance = draw_with_replacement(draws, rows, max(settings.covariance_images, rows // 10))
    return draw_with_replacement(draws, rows, settings.images), covariance


def draw_with_replacement(draws: np.random.RandomState, rows: int, count: int) -> Rows:
    """Draw rows as the study did, from NumPy's legacy generator, which is frozen."""
    return draws.randint(0, rows, count).astype(np.int64)
