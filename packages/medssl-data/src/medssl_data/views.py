"""Two views of one patient: frontal and lateral, left and right.

Stands below `manifest`: it asks only for the columns that `Viewed` names.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from medssl_data.errors import PairError
from medssl_data.splits import shuffle_order

if TYPE_CHECKING:
    import numpy.typing as npt

    from medssl_data.card import DatasetCard

    Pairs = npt.NDArray[np.int64]

__all__ = ["PairRule", "Viewed", "card_pairs", "pair_views"]

PairRule = Literal["study", "first-frontal", "alternate-rows"]


class Viewed(Protocol):
    """Columns of images, (N,) each, as a `Manifest` has them."""

    @property
    def name(self) -> str:
        """What the images are called in messages."""
        ...

    @property
    def ids(self) -> tuple[str, ...]:
        """Unique names."""
        ...

    @property
    def paths(self) -> tuple[str, ...]:
        """Files."""
        ...

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels."""
        ...

    @property
    def groups(self) -> tuple[str, ...]:
        """Patients; "" is unknown."""
        ...

    @property
    def views(self) -> tuple[str, ...]:
        """Such as "frontal"; "" is unknown."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Such as "train"; "" is none."""
        ...


def pair_views(manifest: Viewed, first: str, second: str, *, rule: PairRule = "study") -> Pairs:
    """Pair the images of one patient by their views.

    Args:
        manifest: the rows.
        first: view of the left column.
        second: view of the right column.
        rule: "study" joins by patient and folder, each image of the first view with the first
            image, by id, of the second. The others repeat the 2022 study: "first-frontal" gives
            each lateral image the file `view1_frontal.jpg` of its folder; "alternate-rows" takes
            rows of a split two by two, keeps those of equal labels, and shuffles with seed 42, so
            the manifest must be in file order.

    Returns:
        (P, 2) int64 positions in the manifest. Images without a partner are left out.

    Raises:
        PairError: no pair exists.
    """
    if rule == "first-frontal":
        pairs = _first_frontal(manifest, first)
    elif rule == "alternate-rows":
        pairs = _alternate_rows(manifest, first, second)
    else:
        pairs = _by_study(manifest, first, second)
    if not pairs:
        views = ", ".join(sorted(set(manifest.views) - {""})) or "none"
        msg = f"{manifest.name} has no pair of {first} and {second} (its views: {views})"
        raise PairError(msg)
    return np.array(pairs, np.int64)


def card_pairs(
    manifest: Viewed,
    card: DatasetCard | None,
    *,
    protocol: Literal["published", "corrected"] = "corrected",
) -> Pairs:
    """Pair by the card's two views and rule, or by the only two views that the rows have.

    Raises:
        PairError: there are not exactly two views, or no pairs.
    """
    if card is not None and card.views is not None:
        rule = card.study_pairs if protocol == "published" else "study"
        return pair_views(manifest, *card.views, rule=rule)
    views = sorted(set(manifest.views) - {""})
    if len(views) != 2:
        listed = ", ".join(views) or "none"
        msg = f"{manifest.name} has the views {listed}; pairs need exactly two"
        raise PairError(msg)
    return pair_views(manifest, views[0], views[1])


def _by_study(manifest: Viewed, first: str, second: str) -> list[tuple[int, int]]:
    partners: dict[tuple[str, str], list[int]] = defaultdict(list)
    studies = [
        (group, path.rpartition("/")[0])
        for group, path in zip(manifest.groups, manifest.paths, strict=True)
    ]
    for index, view in enumerate(manifest.views):
        if view == second:
            partners[studies[index]].append(index)
    for found in partners.values():
        found.sort(key=manifest.ids.__getitem__)
    return [
        (index, partners[studies[index]][0])
        for index, view in enumerate(manifest.views)
        if view == first and manifest.groups[index] and studies[index] in partners
    ]


def _first_frontal(manifest: Viewed, first: str) -> list[tuple[int, int]]:
    place = {path: index for index, path in enumerate(manifest.paths)}
    pairs = []
    for index, (path, view) in enumerate(zip(manifest.paths, manifest.views, strict=True)):
        if view == "lateral":
            partner = place.get(f"{path.rpartition('/')[0]}/view1_frontal.jpg")
            if partner is not None:
                pairs.append((index, partner) if first == "lateral" else (partner, index))
    return pairs


def _alternate_rows(manifest: Viewed, first: str, second: str) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for split in dict.fromkeys(manifest.splits):
        rows = [index for index, name in enumerate(manifest.splits) if name == split]
        twos = list(zip(rows[::2], rows[1::2], strict=False))
        for left, right in twos:
            if (manifest.views[left], manifest.views[right]) != (first, second):
                msg = (
                    f"{manifest.name}: rows of {manifest.ids[left]} and {manifest.ids[right]} do "
                    f"not alternate {first}, {second}; keep the table in its owner's order and "
                    "load it with --split official"
                )
                raise PairError(msg)
        kept = [two for two in twos if manifest.labels[two[0]] == manifest.labels[two[1]]]
        pairs += [kept[index] for index in shuffle_order(len(kept)).tolist()]
    return pairs
