"""What a data set is, as a flat record for people and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medssl_data.catalog import dataset_card, load_dataset

if TYPE_CHECKING:
    from typing import Literal

__all__ = ["describe"]


def describe(
    name: str,
    *,
    root: Path = Path("data"),
    protocol: Literal["published", "corrected"] = "corrected",
) -> dict[str, object]:
    """Collect the facts about a data set; for sources and data sets that are here, counts too.

    Args:
        name: a card's name or a source.
        root: folder that holds the data sets.
        protocol: decides labels and splits.
    """
    facts: dict[str, object] = {}
    if ":" not in name:
        card = dataset_card(name)
        facts = {
            "name": card.name,
            "title": card.title,
            "summary": card.summary,
            "modality": card.modality,
            "classes": ", ".join(card.classes),
            "images": card.rows,
            "licence": card.licence,
            "citation": card.citation,
            "address": card.address,
            "label policies": ", ".join(card.label_policies),
            "views": " and ".join(card.views or ()) or None,
            "origin": card.origin,
            "here": (root / card.name).is_dir(),
            "tree": card.tree,
        }
        if not facts["here"]:
            return facts
    return facts | _describe_rows(name, root, protocol)


def _describe_rows(
    name: str, root: Path, protocol: Literal["published", "corrected"]
) -> dict[str, object]:
    data = load_dataset(name, root=root, protocol=protocol)
    manifest = data.manifest
    splits = {split: manifest.splits.count(split) for split in dict.fromkeys(manifest.splits)}
    return {
        "name": data.name,
        "classes": ", ".join(data.classes),
        "images": len(data),
        "counts": ", ".join(f"{name} {count}" for name, count in manifest.counts().items()),
        "patients": len(set(manifest.groups) - {""}) or None,
        "splits": ", ".join(f"{split or 'none'} {count}" for split, count in splits.items()),
        "split policy": manifest.split_policy or None,
        "label policy": manifest.label_policy,
        "synthetic": manifest.synthetic,
        "notes": "; ".join(manifest.notes) or None,
        "fingerprint": manifest.fingerprint,
    }
