"""A hospital's data set, and an experiment of ours: how far apart the classes' means lie."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from medssl_data import DatasetCard, ImageDataset, Manifest, Plugin, Row
from medssl_data.card import Options
from medssl_models import Backbone, Provenance, Record, extract
from medssl_models.experiments.settings import Preset, ProtocolName, from_preset, setting
from medssl_models.probes import ProbePlugin, Work

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
    """Give every row of the data set in the order of its files; no picture is opened."""
    del options  # label policies and official splits: this data set has none
    rows = []
    for path in sorted(root.glob("*_[01].png")):
        patient, label = path.stem.rsplit("_", 1)
        rows.append(Row(path.stem, path.name, int(label), group=patient))
    return Manifest.from_rows(CARD.name, root, CARD.classes, rows)


OUR_HOSPITAL = Plugin(CARD, read)


class Settings(Preset):
    """Each field: what it decides, its default, and the study's way where that differs."""

    unit_length: bool = setting("Bring features to length 1 first.", corrected=True)


def preset(protocol: ProtocolName, changes: Mapping[str, object]) -> Settings:
    """Give the settings of a protocol."""
    return from_preset(Settings, protocol, changes)


def run(backbone: Backbone, data: ImageDataset, settings: Settings, work: Work) -> list[Record]:
    """Measure one model on one data set; features come from the store where they are known."""
    table = extract(backbone, data, settings=work.extraction, store=work.store)
    features = table.features
    if settings.unit_length:
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = [features[data.labels == label].mean(axis=0) for label in (0, 1)]
    origin = Provenance(
        model=backbone.name,
        weights=backbone.fingerprint,
        dataset=data.name,
        manifest=data.manifest.fingerprint,
        protocol=settings.protocol,
    )
    distance = float(np.linalg.norm(means[0] - means[1]))
    return [
        Record(
            experiment="class-distance",
            metric="distance",
            value=distance,
            n=len(data),
            settings=settings.model_dump(exclude={"protocol"}),
            provenance=origin,
        )
    ]


CLASS_DISTANCE = ProbePlugin(preset, run)
