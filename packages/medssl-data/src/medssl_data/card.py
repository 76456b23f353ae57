"""What a data set is to this package: a card of facts and one callable that reads its layout.

Third packages offer a `Plugin` under the entry-point group `medssl.datasets`; nothing is inherited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from medssl_data.images.reading import Reading
from medssl_data.manifest import Manifest
from medssl_data.views import PairRule

__all__ = ["DatasetCard", "Options", "Plugin", "ProtocolName", "PublishedSplit", "Reader"]

ProtocolName = Literal["published", "corrected"]
"""`published` repeats the 2022 study, `corrected` avoids its defects."""


class PublishedSplit(BaseModel):
    """How the 2022 study split the data set.

    Args:
        rule: "shuffle" permutes all rows with seed 42 and cuts them in two; "files" shuffles each
            of the owner's files; "official" leaves them as they are.
        rows: Number of rows of the owner's distribution.
        train_rows: Training rows of that distribution.
        share: Training share of a copy with another number of rows, rounded down.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["shuffle", "files", "official"] = "shuffle"
    rows: int = Field(gt=0)
    train_rows: int = Field(gt=0)
    share: float = Field(default=0.8, gt=0, lt=1)


class DatasetCard(BaseModel):
    """Frozen facts about one data set.

    Args:
        name: What `-d` takes; also its folder under the root.
        title: Full name.
        summary: One sentence.
        modality: Such as "chest radiograph".
        classes: Class names in label order.
        metric: What the study reports: accuracy or mean per-class accuracy.
        ordered: Whether the classes are grades, each worse than the one before.
        ways: Classes of an episode in the study's few-shot runs.
        counts: Images of each class that the owner's distribution holds under the default labels.
        counts_policy: Label policy of these counts; "" is the policy of the corrected protocol.
        counts_certain: Whether another count is a fault; else it is only noted.
        rows: Images of the distribution, labelled or not.
        licence: Terms of use.
        citation: What to cite.
        address: Where to get it.
        tree: The files that are expected under the data set's folder.
        tables: The tables among them.
        images: Folder of the image files.
        groups: What a group is: "patient", or "" where the distribution does not tell.
        views: Pair of views of one patient, in order.
        published_pairs: How the 2022 study paired them; see `views.pair_views`.
        labels: Label policy of each protocol.
        published_training_labels: Label policy of the study's linear and fine-tuning runs, where
            it is another one than its few-shot runs had.
        label_policies: The policies that can be chosen.
        findings: All findings that the owner's table may name, where it names several a row.
        targets: Findings that can be chosen with `NAME,target=FINDING`.
        target: Finding of the class names.
        official: Images of each split of the owner, where the files tell.
        label_suffix: Whether file names end in _0 or _1, which must be the label.
        published_split: How the study split it.
        published_geometry: "squash" (exactly 257 x 257) or "short-side" of the study's few-shot
            runs.
        published_pool: Number of first images that the study's few-shot runs used; None is all.
        published_duplicates: Whether every image stood twice in the pool of those runs.
        published_pictures: Ids of the one picture of which the study made maps and
            reconstructions; the first that is here counts.
        reading: How files become pixels under each protocol.
        notes: Sentences that every record must carry.
        aliases: Other names.
        origin: "medssl" or the distribution of the plug-in.
        synthetic: Phantoms, no patients.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    title: str
    summary: str
    modality: str
    classes: tuple[str, ...] = ()
    metric: Literal["accuracy", "mean per-class accuracy"] = "accuracy"
    ordered: bool = False
    ways: int = 2
    counts: tuple[int, ...] = ()
    counts_policy: str = ""
    counts_certain: bool = True
    rows: int | None = None
    licence: str
    citation: str
    address: str
    tree: str = ""
    tables: tuple[str, ...] = ()
    images: str = ""
    groups: str = ""
    views: tuple[str, str] | None = None
    published_pairs: PairRule = "same-folder"
    labels: dict[ProtocolName, str] = {"published": "as given", "corrected": "as given"}
    published_training_labels: str = ""
    label_policies: tuple[str, ...] = ("as given",)
    findings: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    target: str = ""
    official: dict[str, int] = {}
    label_suffix: bool = False
    published_split: PublishedSplit | None = None
    published_geometry: Literal["squash", "short-side"] = "squash"
    published_pool: int | None = None
    published_duplicates: bool = False
    published_pictures: tuple[str, ...] = ()
    reading: dict[ProtocolName, Reading] = {"published": Reading(), "corrected": Reading()}
    notes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    origin: str = "medssl"
    synthetic: bool = False

    def __repr__(self) -> str:
        images = "any number of" if self.rows is None else f"{self.rows:,}"
        return (
            f"<DatasetCard {self.name}: {self.modality}, {images} images, "
            f"{len(self.classes)} classes, labels {self.labels['corrected']}>"
        )

    __str__ = __repr__


@dataclass(frozen=True)
class Options:
    """What a reader may be asked for.

    Args:
        protocol: Decides whatever of the following is None, and how files become pixels.
        labels: Label policy; None takes the card's for this protocol.
        target: Finding that becomes the label, where the files hold several.
        official: The owner's own splits are wanted, with all the files that they need.
    """

    protocol: ProtocolName = "corrected"
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
        card: Its facts.
        read: Turns its folder into a manifest.
    """

    card: DatasetCard
    read: Reader
