"""Features that were computed in stretches are the features that were computed in one piece."""

import numpy as np
import pytest
from medssl_models import ExtractionSettings, FeatureStore, extract
from medssl_models.errors import StoreError
from medssl_models.features.sharding import cut_rows, feature_request, merge_shards
from medssl_models.testing import tiny_backbone
from PIL import Image


class Pictures:
    def __init__(self, rows):
        self.rows = list(rows)
        self.fingerprint = f"pictures {self.rows}"

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        if row == 21:
            message = "unreadable"
            raise OSError(message)
        rng = np.random.default_rng(row)
        return Image.fromarray(rng.integers(0, 255, (36, 36, 3)).astype(np.uint8)), 0


SETTINGS = ExtractionSettings(batch_size=8, workers=0, device="cpu", skip_unreadable=True)


def shards(backbone, store):
    cuts = cut_rows(37, most=20, batch_size=8)
    assert cuts == [(0, 16), (16, 32), (32, 37)]
    return [
        extract(backbone, Pictures(range(*cut)), settings=SETTINGS, store=store).key for cut in cuts
    ]


def test_stretches_become_the_table_of_one_piece(tmp_path):
    backbone, store = tiny_backbone(), FeatureStore(tmp_path / "parts")
    keys = shards(backbone, store)
    merged = merge_shards(backbone, Pictures(range(37)), keys, settings=SETTINGS, store=store)
    whole = extract(
        backbone, Pictures(range(37)), settings=SETTINGS, store=FeatureStore(tmp_path / "whole")
    )
    np.testing.assert_array_equal(merged.features, whole.features)
    np.testing.assert_array_equal(merged.readable, whole.readable)
    assert not merged.readable[21]
    assert merged.key == whole.key
    assert sorted(path.name for path in store.root.glob("*.h5")) == [f"{whole.key}.h5"]
    request = feature_request(backbone, Pictures(range(37)), settings=SETTINGS)
    assert store.load_fresh(request) is not None
    again = extract(backbone, Pictures(range(37)), settings=SETTINGS, store=store)
    assert again.computed == 0


def test_a_missing_stretch_is_an_error_and_leaves_nothing(tmp_path):
    backbone, store = tiny_backbone(), FeatureStore(tmp_path)
    keys = shards(backbone, store)
    store.path(keys[1]).write_bytes(b"torn")
    with pytest.raises(StoreError, match="run the same again"):
        merge_shards(backbone, Pictures(range(37)), keys, settings=SETTINGS, store=store)
    assert not list(store.root.glob("*shards*"))
