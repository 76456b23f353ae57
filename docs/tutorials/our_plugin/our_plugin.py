"""A hospital's data set."""

from pathlib import Path

from medssl_data import DatasetCard, Manifest, Plugin, Row
from medssl_data.card import Options

CARD = DatasetCard(
    name="our-hospital",
    title="Our hospital's radiographs",
    summary="Files PATIENT_LABEL.png, label 0 or 1.",
    modality="chest radiograph",
    classes=("normal", "opacity"),
    groups="patient",
    licence="internal use",
    citation="none",
    address="the department's share",
)


def read(root: Path, options: Options) -> Manifest:
    """Return every row of the data set in the order of its files; no picture is opened."""
    del options  # label policies and official splits: this data set has none
    rows = []
    for path in sorted(root.glob("*_[01].png")):
        patient, label = path.stem.rsplit("_", 1)
        rows.append(Row(path.stem, path.name, int(label), group=patient))
    return Manifest.from_rows(CARD.name, root, CARD.classes, rows)


OUR_HOSPITAL = Plugin(CARD, read)
