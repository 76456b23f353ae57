"""Real radiographs and photographs, where they are here, and the layouts of all nine data sets."""

from pathlib import Path

import pytest
from medssl_data import load_dataset
from medssl_data.opening import open_datasets
from medssl_data.synthetic.phantom import write_phantom
from medssl_invariance import synthetic, views
from medssl_invariance.experiments.declarations import VIEWS
from medssl_models import RunContext
from PIL import Image

PNEUMONIA = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "pneumoniamnist.npz"


@pytest.mark.skipif(not PNEUMONIA.exists(), reason="pneumoniamnist.npz is not here")
@pytest.mark.parametrize("protocol", ["corrected", "published"])
def test_pneumoniamnist(backbone, protocol):
    data = load_dataset(f"medmnist:{PNEUMONIA}").select(range(40))
    records = synthetic(
        backbone,
        data,
        protocol=protocol,
        transforms=["blur", "contrast", "rotation"],
        images=5,
        members=2,
        bootstrap=100,
        context=RunContext(),
    )
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
    asked = {"transforms": ["hue"], "images": 4, "bootstrap": 100}
    (hue, *_) = synthetic(backbone, data, **asked, context=RunContext())
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
    asked = {"transforms": ["gamma"], "images": 2, "members": 2, "bootstrap": 100}
    records = synthetic(backbone, few, **asked, context=RunContext())
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
    settings = VIEWS.settings_for(protocol, {"images": 6, "bootstrap": 100})
    (data,) = open_datasets(
        [name],
        root=tmp_path,
        protocol=settings.labels,
        of_card=lambda card: VIEWS.of_dataset(card, settings),
    )
    found = views(backbone, data, settings=settings, context=RunContext())
    records = {one.metric: one for one in found}
    cosine, retrieval = records["raw_cosine"], records["retrieval"]
    assert retrieval.details["views"] == pair
    assert retrieval.details["pairs"] <= 6
    assert 1 <= retrieval.details["median_rank"] <= retrieval.details["gallery"]
    assert "random_other" in cosine.details["baselines"]
