"""What version 0.1 wrote reads as what is written today."""

import json

from medssl_dip.settings import settings_for
from medssl_models import Provenance, Record, read_records

SETTINGS = {
    "protocol": "corrected",
    "generator": {
        "channels": [16, 32, 64, 64],
        "kernels": [5, 5, 3, 3],
        "skip_channels": 4,
        "input_channels": 32,
        "input_scale": 0.1,
        "slope": 0.2,
    },
    "size": 32,
    "layer": "layer1",
    "normalised_input": True,
    "comparable_taps": True,
    "relative_loss": True,
    "restarts": 2,
    "steps": 3,
    "learning_rate": 0.01,
    "patience": 100,
    "tolerance": 0.01,
    "divergence": 100.0,
    "lossless": True,
    "rounded": True,
    "reading": None,
    "measure_every": 20,
    "snapshot_every": 100,
}
ORIGIN = {
    "model": "random_r18",
    "weights": "48a20e11",
    "layer": "layer1",
    "padding": "torchvision",
    "dataset": "file:scan",
    "images": "f2adaf79",
    "seed": 0,
}
FORMER = {
    "schema_version": 1,
    "experiment": "reconstruction",
    "metric": "feature-distance",
    "unit": "",
    "value": 0.7900441884994507,
    "n": 2,
    "settings": SETTINGS,
    "details": {"picture": "scan", "control": True},
    "provenance": {**ORIGIN, "protocol": "corrected"},
    "created": "2026-11-27T20:42:28+00:00",
}


def test_a_record_of_version_0_1_is_the_record_of_the_same_work_today(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(FORMER) + "\n")
    few = settings_for(preset="quick", size=32, steps=3, restarts=2)
    today = Record(
        experiment="reconstruction",
        metric="feature_distance",
        value=0.5,
        settings=few.of_record("layer1", "scan"),
        provenance=Provenance(**ORIGIN),
    )

    (read,) = read_records(path)

    assert (read.metric, read.value, read.n) == ("feature_distance", 0.7900441884994507, 2)
    assert read.settings == today.settings
    assert read.key == today.key
