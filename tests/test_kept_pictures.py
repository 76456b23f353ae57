"""Reading and using images: kept pictures change no feature, and records tell the labels."""

from dataclasses import replace

import numpy as np
import pytest
from medssl_data import PictureCache, load_dataset
from medssl_data.images import cache as cache_module
from medssl_data.synthetic.phantom import write_phantom
from medssl_eval.experiments.few_shot import few_shot
from medssl_eval.experiments.settings import FewShotSettings
from medssl_models import ExtractionSettings, extract
from medssl_models.testing import tiny_backbone


def test_features_are_the_same_bits_with_and_without_kept_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_SETTLED", -1.0)
    write_phantom("ichallenge_amd", tmp_path, {})
    plain = load_dataset("ichallenge_amd", root=tmp_path).select(range(12))
    kept = replace(plain, cache=PictureCache(tmp_path / "kept", 10**9))
    backbone = tiny_backbone()
    settings = ExtractionSettings(batch_size=4, workers=2, device="cpu")
    expected = extract(backbone, plain, settings=settings)
    for _ in range(2):  # filling it, and from it
        table = extract(backbone, kept, settings=settings)
        assert table.key == expected.key
        np.testing.assert_array_equal(table.features, expected.features)
    assert len([path for path in (tmp_path / "kept").rglob("*") if path.is_file()]) == 12


@pytest.mark.parametrize("policy", ["u-ones", "u-zeros,blank=nan"])
def test_the_label_policy_stands_in_the_record(tmp_path, monkeypatch, policy):
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path / "home"))
    write_phantom("chexpert", tmp_path, {})
    data = load_dataset("chexpert,reduced=64", root=tmp_path, labels=policy, split="patient")
    settings = FewShotSettings(ways=2, shots=(1,), queries=1, episodes=4)
    (record,) = few_shot(tiny_backbone(), data, settings=settings)
    assert record.provenance.label_policy == policy
    assert any("images read with reduced=64" in note for note in record.notes)
