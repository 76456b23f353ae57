"""Two views of one patient: frontal and lateral, left and right."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal

import numpy as np

from medssl_data.errors import PairError
from medssl_data.splits import shuffle_order

if TYPE_CHECKING:
    import numpy.typing as npt

    from medssl_data.card import DatasetCard, ProtocolName
    from medssl_data.manifest import Manifest

    Pairs = npt.NDArray[np.int64]

__all__ = ["PairRule", "card_pairs", "pair_views"]

PairRule = Literal["same-folder", "first-frontal", "alternate-rows"]


def pair_views(
    manifest: Manifest, first: str, second: str, *, rule: PairRule = "same-folder"
) -> Pairs:
    """Pair the images of one patient by their views.

    Args:
        manifest: The rows.
        first: View of the left column.
        second: View of the right column.
        rule: "same-folder" joins by patient and folder, each image of the first view with the first
            image, by id, of the second. The others repeat the 2022 study: "first-frontal" gives
            each lateral image the file `view1_frontal.jpg` of its folder; "alternate-rows" takes
            rows of a split two by two, keeps those of equal labels, and shuffles with seed 42, so
            the manifest must be in file order.

    Returns:
        (P, 2) int64 positions in the manifest. Images without a partner are left out.

    Raises:
        PairError: No pair exists.

    Example:
        >>> from pathlib import Path
        >>> from medssl_data import Manifest, Row
        >>> views = ["frontal", "lateral", "frontal"]
        >>> rows = [Row(f"{i}", f"{i}.png", 0, "Ann", view) for i, view in enumerate(views)]
        >>> manifest = Manifest.from_rows("mine", Path(), ("normal",), rows)
        >>> pair_views(manifest, "frontal", "lateral").tolist()
        [[0, 1], [2, 1]]
    """
    if rule == "first-frontal":
        pairs = _first_frontal(manifest, first)
    elif rule == "alternate-rows":
        pairs = _alternate_rows(manifest, first, second)
    else:
        pairs = _by_folder(manifest, first, second)
    if not pairs:
        views = ", ".join(sorted(set(manifest.views) - {""})) or "none"
        message = f"{manifest.name} has no pair of {first} and {second} (its views: {views})"
        raise PairError(message)
    return np.array(pairs, np.int64)


def card_pairs(
    manifest: Manifest, card: DatasetCard | None, *, protocol: ProtocolName = "corrected"
) -> Pairs:
    """Pair by the card's two views and rule, or by the only two views that the rows have.

    Args:
        manifest: The rows.
        card: The data set's card, where it has one.
        protocol: "published" pairs as the 2022 study did.

    Returns:
        (P, 2) int64 positions, as `pair_views`.

    Raises:
        PairError: There are not exactly two views, or no pairs.
    """
    if card is not None and card.views is not None:
        rule: PairRule = card.published_pairs if protocol == "published" else "same-folder"
        return pair_views(manifest, *card.views, rule=rule)
    views = sorted(set(manifest.views) - {""})
    if len(views) != 2:
        listed = ", ".join(views) or "none"
        message = f"{manifest.name} has the views {listed}; pairs need exactly two"
        raise PairError(message)
    return pair_views(manifest, views[0], views[1])


def _by_folder(manifest: Manifest, first: str, second: str) -> list[tuple[int, int]]:
    partners: dict[tuple[str, str], list[int]] = defaultdict(list)
    folders = [
        (group, path.rpartition("/")[0])
        for group, path in zip(manifest.groups, manifest.paths, strict=True)
    ]
    for index, view in enumerate(manifest.views):
        if view == second:
            partners[folders[index]].append(index)
    for found in partners.values():
        found.sort(key=manifest.ids.__getitem__)
    return [
        (index, partners[folders[index]][0])
        for index, view in enumerate(manifest.views)
        if view == first and manifest.groups[index] and folders[index] in partners
    ]


def _first_frontal(manifest: Manifest, first: str) -> list[tuple[int, int]]:
    place = {path: index for index, path in enumerate(manifest.paths)}
    pairs = []
    for index, (path, view) in enumerate(zip(manifest.paths, manifest.views, strict=True)):
        if view == "lateral":
            partner = place.get(f"{path.rpartition('/')[0]}/view1_frontal.jpg")
            if partner is not None:
                pairs.append((index, partner) if first == "lateral" else (partner, index))
    return pairs


def _alternate_rows(manifest: Manifest, first: str, second: str) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for split in dict.fromkeys(manifest.splits):
        rows = [index for index, name in enumerate(manifest.splits) if name == split]
        twos = list(zip(rows[::2], rows[1::2], strict=False))
        for left, right in twos:
            if (manifest.views[left], manifest.views[right]) != (first, second):
                message = (
                    f"{manifest.name}: rows of {manifest.ids[left]} and {manifest.ids[right]} do "
                    f"not alternate {first}, {second}; keep the table in its owner's order and "
                    "load it with split official"
                )
                raise PairError(message)
        kept = [two for two in twos if manifest.labels[two[0]] == manifest.labels[two[1]]]
        pairs += [kept[index] for index in shuffle_order(len(kept)).tolist()]
    return pairs
