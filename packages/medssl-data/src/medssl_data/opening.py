"""Data sets by name, as commands open them: several at once, under one protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from medssl_data.card import DatasetCard
    from medssl_data.dataset import ImageDataset

__all__ = ["open_datasets"]


def open_datasets(
    names: Sequence[str],
    *,
    root: Path = Path("data"),
    protocol: Literal["published", "corrected"] = "corrected",
    labels: str | None = None,
    split: str | None = None,
    seed: int = 0,
    of_card: Callable[[DatasetCard], Mapping[str, str]] = lambda _: {},
) -> list[ImageDataset]:
    """Open data sets by name; no image is decoded.

    Args:
        names: As for `load_dataset`; a name counts once.
        root: The folder that holds the data sets.
        protocol: Whose labels and file selection.
        labels: Name of a label policy; None takes the protocol's.
        split: As for `load_dataset`; None is the protocol's.
        seed: Of a split by patient.
        of_card: Options, `labels` or `split`, that a card asks for where the caller names none.

    Example:
        >>> [data.name for data in open_datasets(["phantom:chest-xray"])]
        ['phantom-chest-xray']
    """
    from medssl_data.catalog import load_dataset

    opened = []
    for name in dict.fromkeys(names):
        chosen: dict[str, Any] = {"labels": labels, "split": split}
        data = load_dataset(name, root=root, protocol=protocol, seed=seed, **chosen)
        asked = of_card(data.card) if data.card is not None else {}
        more = {option: value for option, value in asked.items() if chosen[option] is None}
        if more:
            data = load_dataset(name, root=root, protocol=protocol, seed=seed, **chosen | more)
        opened.append(data)
    return opened
