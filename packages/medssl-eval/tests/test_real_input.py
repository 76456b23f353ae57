"""Real chest radiographs, where the folder beside the repository has them."""

from pathlib import Path

import numpy as np
import pytest
from medssl_data import load_dataset
from medssl_eval import few_shot, knn, linear
from medssl_models import FeatureStore, RunContext, create_model

ARCHIVE = Path(__file__).parents[4] / "shared" / "data" / "pneumoniamnist.npz"


@pytest.mark.skipif(not ARCHIVE.exists(), reason="needs ../shared/data beside the repository")
def test_an_untrained_network_beats_chance_on_real_radiographs():
    data = load_dataset(f"medmnist:{ARCHIVE}")
    rows = [np.flatnonzero(data.labels == label)[:40] for label in (0, 1)]
    subset = data.select(np.concatenate(rows))
    (record,) = few_shot(create_model("random_r18"), subset, shots=20, queries=15)
    assert record.ci_low > 50
    assert record.details["images"] == 80


@pytest.mark.skipif(not ARCHIVE.exists(), reason="needs ../shared/data beside the repository")
def test_linear_and_nearest_neighbours_tell_pneumonia_from_normal_lungs():
    data = load_dataset(f"medmnist:{ARCHIVE}")
    splits = np.array(data.splits)
    rows = [
        np.flatnonzero((data.labels == label) & (splits == part))[:count]
        for part, count in (("train", 24), ("val", 8), ("test", 24))
        for label in (0, 1)
    ]
    subset = data.select(np.concatenate(rows))
    backbone = create_model("random_r18")
    context = RunContext(store=FeatureStore())
    records = [
        *linear(backbone, subset, context=context, Cs=(1e-3, 1e-1, 10.0)),
        *knn(backbone, subset, context=context, evaluation="test_part"),
    ]
    areas = [record for record in records if record.metric == "auroc"]
    assert [record.experiment for record in areas] == ["linear", "knn"]
    assert all(record.ci_low > 0.5 for record in areas)
