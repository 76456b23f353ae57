"""What a data set is to this package: a card and one callable that reads its layout.

Third packages offer a `Plugin` under the entry-point group `medssl.datasets`; nothing is inherited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medssl_data.manifest import Manifest

if TYPE_CHECKING:
    from medssl_data.card import DatasetCard

__all__ = ["Options", "Plugin", "Reader"]


@dataclass(frozen=True)
class Options:
    """What a reader may be asked for.

    Args:
        protocol: "published" repeats the 2022 study, "corrected" avoids its defects.
        labels: label policy; None takes the card's for this protocol.
        target: finding that becomes the label, where the files hold several.
        official: the owner's own splits are wanted, with all the files that they need.
    """

    protocol: Literal["published", "corrected"] = "corrected"
    labels: str | None = None
    target: str | None = None
    official: bool = False


Reader = Callable[[Path, Options], Manifest]
"""`read(root, options)`: the data set's own folder -> all its rows in the order of its files.

Rows that the label policy leaves out carry the label `UNLABELLED`; no image is opened.
"""


@dataclass(frozen=True)
class Plugin:
    """One data set.

    Args:
        card: its facts.
        read: turns its folder into a manifest.
    """

    card: DatasetCard
    read: Reader
