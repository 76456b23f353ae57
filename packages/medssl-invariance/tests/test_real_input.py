"""Real radiographs and photographs, where they are here, and the layouts of all nine data sets."""

from pathlib import Path

import pytest
from medssl_data import load_dataset
from medssl_data.synthetic.phantom import write_phantom
from medssl_invariance.experiments.runs import open_datasets
from medssl_invariance.experiments.settings import SyntheticSettings, ViewsSettings, preset
from medssl_invariance.experiments.synthetic import synthetic
from medssl_invariance.experiments.views import views
from medssl_invariance.transforms.families import find_families
from PIL import Image

PNEUMONIA = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "pneumoniamnist.npz"


@pytest.mark.skipif(not PNEUMONIA.exists(), reason="pneumoniamnist.npz is not here")
@pytest.mark.parametrize("protocol", ["corrected", "published"])
def test_pneumoniamnist(backbone, protocol):
    data = load_dataset(f"medmnist:{PNEUMONIA}").select(range(40))
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


NINE = (
    *("bach", "chestx", "chexpert", "diabetic_retinopathy", "ichallenge_amd", "ichallenge_pm"),
    *("montgomerycxr", "shenzhencxr", "stoic"),
)


@pytest.mark.parametrize("name", NINE)
def test_every_layout_of_the_study(backbone, tmp_path, name):
    if name == "stoic":
        pytest.importorskip("SimpleITK")
    write_phantom(name, tmp_path, {})
    data = load_dataset(name, root=tmp_path)
    few = data.select(range(6))
    settings = preset(SyntheticSettings, images=2, members=2, bootstrap=100)
    records = list(synthetic(backbone, few, find_families(["gamma"]), settings=settings))
    assert len(records) == 5
    assert -1 <= records[0].value < 1
    assert records[0].details["synthetic"]
    assert records[0].provenance.dataset == name


@pytest.mark.parametrize("protocol", ["corrected", "published"])
@pytest.mark.parametrize(
    ("name", "pair"),
    [("chexpert", ["lateral", "frontal"]), ("diabetic_retinopathy", ["left", "right"])],
)
def test_views_of_the_studys_two_sets(backbone, tmp_path, name, pair, protocol):
    write_phantom(name, tmp_path, {})
    settings = preset(ViewsSettings, protocol, images=6, bootstrap=100)
    (data,) = open_datasets([name], root=tmp_path, labels=settings.labels, pairing=settings.pairing)
    records = {one.metric: one for one in views(backbone, data, settings=settings)}
    cosine, retrieval = records["raw cosine"], records["retrieval"]
    assert retrieval.details["views"] == pair
    assert retrieval.details["pairs"] <= 6
    assert 1 <= retrieval.details["median_rank"] <= retrieval.details["gallery"]
    assert "random other" in cosine.details["baselines"]
