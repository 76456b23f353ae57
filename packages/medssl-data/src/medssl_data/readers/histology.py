"""BACH: a headless table of file names and classes beside class folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_data.errors import LabelError
from medssl_data.manifest import Manifest, Row
from medssl_data.tables.text import blaming, read_table

if TYPE_CHECKING:
    from pathlib import Path

    from medssl_data.card import DatasetCard, Options

__all__ = ["read_bach"]


def read_bach(card: DatasetCard, root: Path, options: Options) -> Manifest:
    """Read BACH in the order of its table; the folders may hold more files than it names.

    Raises:
        LabelError: A class word is not one of the card's, as in a heading line.
    """
    del options
    table = read_table(root / card.tables[0], header=("file", "class"))
    rows = []
    for index, (name, word) in enumerate(
        zip(table.required("file"), table.required("class"), strict=True)
    ):
        if word not in card.classes:
            message = (
                f"{table.where(index)}: class {word!r} is not one of {', '.join(card.classes)}; "
                "this table has no heading line"
            )
            raise LabelError(message)
        rows.append(Row(name, f"{card.images}/{word}/{name}", card.classes.index(word)))
    with blaming(table.where):
        return Manifest.from_rows(card.name, root, card.classes, rows)
