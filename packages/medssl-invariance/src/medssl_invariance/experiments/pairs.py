"""Which views of which patients are compared, and which images stand beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medssl_invariance.errors import PairError, TooFewImagesError
from medssl_invariance.experiments.image_plan import ImagePlan, draw_with_replacement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_data import ImageDataset
    from medssl_models.experiments.settings import ProtocolName
    from numpy.typing import NDArray

    from medssl_invariance.experiments.settings import ViewsSettings

    Rows = NDArray[np.int64]

__all__ = ["PairPlan", "list_views", "plan_pairs"]

LISTED = 5
"""Views without a partner that a note names."""


@dataclass(frozen=True)
class PairPlan:
    """Which pairs are compared, and which images stand beside them.

    Args:
        pairs: `(P, 2)` rows of the pairs that are compared; some repeat where the study drew so.
        plan: The first views, the rows behind the covariance, and all others that take part.
        gallery: Rows of second views among which the partner must be found, ascending.
        names: The two views.
        lonely: Rows of either view without a partner.
        available: How many pairs there are.
    """

    pairs: NDArray[np.int64]
    plan: ImagePlan
    gallery: Rows
    names: tuple[str, str]
    lonely: Rows
    available: int


def plan_pairs(data: ImageDataset, settings: ViewsSettings) -> PairPlan:
    """Choose the pairs before an image is opened.

    Args:
        data: Images with views and patients.
        settings: How views are paired and drawn.

    Raises:
        medssl_data.PairError: No pairs, or not exactly two views.
        PairError: A view has no partner, where the settings refuse that.
        TooFewImagesError: Too few images for a covariance of others.
    """
    from medssl_data.views import card_pairs

    protocol: ProtocolName = "published" if settings.pairing == "published" else "corrected"
    pairs = card_pairs(data.manifest, data.card, protocol=protocol)
    seen = np.asarray(data.views)
    names = (str(seen[pairs[0, 0]]), str(seen[pairs[0, 1]]))
    lonely = np.setdiff1d(np.flatnonzero(np.isin(seen, names)), pairs)
    if settings.missing == "refuse" and len(lonely):
        message = f"{data.name}: {list_views(data, lonely)} without a partner; skip leaves them out"
        raise PairError(message)
    compared = pairs[_choose(len(pairs), settings)]
    covariance = _covariance_rows(len(data), compared, settings)
    others = np.setdiff1d(pairs[:, 1], compared[:, 1])
    gallery = np.union1d(compared[:, 1], others[: max(settings.gallery - len(compared), 0)])
    plan = ImagePlan(compared[:, 0], covariance, beside=np.union1d(compared.ravel(), gallery))
    return PairPlan(compared, plan, gallery, names, lonely, len(pairs))


def _choose(count: int, settings: ViewsSettings) -> Rows:
    """Choose among the pairs; the study drew from a shuffled loader instead."""
    if settings.draw == "with_replacement":
        return draw_with_replacement(np.random.RandomState(settings.seed), count, settings.images)
    most = max(count // 2, 1) if settings.covariance_from == "others" else count
    order = np.random.default_rng(settings.seed).permutation(count)
    return order[: min(settings.images, most)].astype(np.int64)


def _covariance_rows(rows: int, compared: Rows, settings: ViewsSettings) -> Rows:
    available: Rows = np.arange(rows)
    if settings.covariance_from == "others":
        available = np.setdiff1d(available, compared)
    count = len(available)
    if count < 2:
        message = f"{count} images are left for the covariance beside the pairs; 2 are needed"
        raise TooFewImagesError(message)
    if settings.draw == "with_replacement":
        if count < settings.covariance_images:
            return available
        draws = np.random.RandomState(settings.seed)
        most = max(settings.covariance_images, rows // 10)
        return available[draw_with_replacement(draws, count, most)]
    order = np.random.default_rng([settings.seed, 1]).permutation(available)
    return order[: settings.covariance_images]


def list_views(data: ImageDataset, rows: Sequence[int] | Rows) -> str:
    """Count views and name the first of them, as `2 views (a.png, b.png)`."""
    names = ", ".join(data.ids[int(row)] for row in rows[:LISTED])
    more = f" and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
    return f"{len(rows)} view{'s' if len(rows) > 1 else ''} ({names}{more})"
