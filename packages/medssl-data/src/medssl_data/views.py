"""Two views of one patient: frontal and lateral, left and right."""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from medssl_data.errors import PairError

if TYPE_CHECKING:
    import numpy.typing as npt

    from medssl_data.card import DatasetCard
    from medssl_data.manifest import Manifest

__all__ = ["pair_views", "two_views"]


def pair_views(manifest: Manifest, first: str, second: str) -> npt.NDArray[np.int64]:
    """Pair the images of one patient and study by their views.

    A study is the folder of the file. Each image of the first view goes with the first image, by
    id, of the second view in the same study; images without a partner are left out.

    Args:
        manifest: the rows.
        first: view of the left column.
        second: view of the right column.

    Returns:
        (P, 2) int64 positions in the manifest, in the order of the first view.

    Raises:
        PairError: no pair exists.
    """
    partners: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, row in enumerate(manifest.rows):
        if row.view == second:
            partners[_study(row.group, row.path)].append(index)
    for found in partners.values():
        found.sort(key=manifest.ids.__getitem__)
    pairs = [
        (index, partners[key][0])
        for index, row in enumerate(manifest.rows)
        if row.view == first and row.group and (key := _study(row.group, row.path)) in partners
    ]
    if not pairs:
        views = ", ".join(sorted(set(manifest.views) - {""})) or "none"
        msg = f"{manifest.name} has no pair of {first} and {second} (its views: {views})"
        raise PairError(msg)
    return np.array(pairs, np.int64)


def two_views(manifest: Manifest, card: DatasetCard | None) -> npt.NDArray[np.int64]:
    """Pair by the card's two views, or by the only two views that the rows have.

    Raises:
        PairError: there are not exactly two views.
    """
    if card is not None and card.views is not None:
        return pair_views(manifest, *card.views)
    views = sorted(set(manifest.views) - {""})
    if len(views) != 2:
        listed = ", ".join(views) or "none"
        msg = f"{manifest.name} has the views {listed}; pairs need exactly two"
        raise PairError(msg)
    return pair_views(manifest, views[0], views[1])


def _study(group: str, path: str) -> tuple[str, str]:
    return group, str(PurePosixPath(path).parent)
