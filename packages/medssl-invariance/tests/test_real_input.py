"""Real radiographs and photographs, where they are here."""

from pathlib import Path

import pytest
from medssl_data import load_dataset
from medssl_invariance.families import find_families
from medssl_invariance.protocols import SyntheticSettings, preset
from medssl_invariance.synthetic import synthetic
from PIL import Image

PNEUMONIA = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "pneumoniamnist.npz"


@pytest.mark.skipif(not PNEUMONIA.exists(), reason="pneumoniamnist.npz is not here")
@pytest.mark.parametrize("protocol", ["corrected", "published"])
def test_pneumoniamnist(backbone, protocol):
    data = load_dataset(f"medmnist:{PNEUMONIA}").select(range(80))
    settings = preset(SyntheticSettings, protocol, images=5, members=2, bootstrap=100)
    names = ["blur", "contrast", "rotation"]
    records = list(synthetic(backbone, data, find_families(names), settings=settings))
    blur, contrast, rotation = records[::5]
    assert -1 <= rotation.value < contrast.value + 1
    assert all(record.details["undefined"] == 0 for record in (blur, contrast, rotation))


def test_photographs_in_colour(backbone, tmp_path):
    pictures = pytest.importorskip("skimage.data")
    for name in ("astronaut", "coffee", "rocket", "retina", "immunohistochemistry"):
        try:
            pixels = getattr(pictures, name)()
        except Exception:  # noqa: BLE001 - some have to be downloaded
            continue
        for part in range(4):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            tile = pixels[part * 60 : part * 60 + 200, :200, :3]
            Image.fromarray(tile).save(tmp_path / "photos" / name / f"{part}.png")
    data = load_dataset(f"folder:{tmp_path / 'photos'}")
    settings = preset(SyntheticSettings, images=4, bootstrap=100)
    (hue, *_) = synthetic(backbone, data, find_families(["hue"]), settings=settings)
    assert hue.value < 0.999
    assert not any("grey" in note for note in hue.notes)
