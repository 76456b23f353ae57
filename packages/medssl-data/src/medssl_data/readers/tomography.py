"""STOIC: a table of patients beside one CT volume each; the picture is a slice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_data.manifest import Manifest, Row
from medssl_data.tables.text import blaming, read_table
from medssl_data.targets import levels_label

if TYPE_CHECKING:
    from pathlib import Path

    from medssl_data.card import DatasetCard, Options

__all__ = ["read_stoic"]


def read_stoic(card: DatasetCard, root: Path, options: Options) -> Manifest:
    """Read STOIC in the order of its table; slice and window are the card's for the protocol.

    Raises:
        LabelError: `probCOVID` is neither 0 nor 1.
    """
    table = read_table(root / card.tables[0])
    patients, covid = table.required("PatientID"), table.required("probCOVID")
    rows = [
        Row(
            patient,
            f"{card.images}/{patient}.mha",
            levels_label(cell, 2, table.where(index)),
            patient,
        )
        for index, (patient, cell) in enumerate(zip(patients, covid, strict=True))
    ]
    reading = card.reading[options.protocol]
    with blaming(table.where):
        return Manifest.from_rows(card.name, root, card.classes, rows, reading=reading)
