"""Real chest radiographs, where the folder beside the repository has them."""

from pathlib import Path

import numpy as np
import pytest
from medssl_data import load_dataset
from medssl_eval import FewShotSettings, few_shot
from medssl_models import create_model

ARCHIVE = Path(__file__).parents[4] / "shared" / "data" / "pneumoniamnist.npz"


@pytest.mark.skipif(not ARCHIVE.exists(), reason="needs ../shared/data beside the repository")
def test_an_untrained_network_beats_chance_on_real_radiographs():
    data = load_dataset(f"medmnist:{ARCHIVE}")
    rows = [np.flatnonzero(data.labels == label)[:40] for label in (0, 1)]
    subset = data.select(np.concatenate(rows))
    (record,) = few_shot(
        create_model("random_r18"), subset, settings=FewShotSettings(shots=(20,), queries=15)
    )
    assert record.ci_low > 50
    assert record.details["images"] == 80
