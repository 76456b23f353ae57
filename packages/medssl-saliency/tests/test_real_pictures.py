"""Real pictures: scikit-image's retina and tissue, and small radiographs where they are at hand."""

from pathlib import Path

import numpy as np
import pytest
from medssl_models import RunContext
from medssl_saliency import (
    FeatureExtractor,
    MapFolder,
    agreement,
    attentive_diffusion,
    from_files,
    preset,
)
from medssl_saliency.attribution import captum_occlusion
from medssl_saliency.maps.preparation import prepare
from medssl_saliency.maps.settings import FAST_FIDELITY
from PIL import Image

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data"


def _picture(name):
    if name == "radiograph":
        path = SHARED / "pneumoniamnist.npz"
        if not path.exists():
            pytest.skip("the small radiographs are not here")
        with np.load(path) as file:
            return file["test_images"][0]
    return getattr(pytest.importorskip("skimage.data"), name)()


def stored_map(folder, extractor, item, **options):
    return MapFolder(RunContext(output=folder), **options).load_or_compute(extractor, item)


@pytest.mark.parametrize("name", ["retina", "immunohistochemistry", "radiograph"])
def test_fast_maps_of_real_pictures_are_near_the_exact_one(tiny_models, place, name):
    Image.fromarray(_picture(name)).save(place / "real.png")
    (item,) = from_files([place / "real.png"])
    backbone = tiny_models("random_r18")
    settings = preset(resize=72, crop=72)
    exact = (
        MapFolder(RunContext(output=place))
        .load_or_compute(FeatureExtractor(backbone, settings), item)
        .map
    )
    fast = settings.model_copy(update={"fidelity": FAST_FIDELITY})
    near = (
        MapFolder(RunContext(output=place))
        .load_or_compute(FeatureExtractor(backbone, fast), item)
        .map
    )
    assert len(near.scores) <= len(exact.scores) / 4 + 1
    assert near.approximation.expected > FAST_FIDELITY
    assert agreement(exact.values, near.values)["pearson"] > FAST_FIDELITY
    assert attentive_diffusion(near.values) == pytest.approx(
        attentive_diffusion(exact.values), abs=2
    )
    seen = prepare(item.read(), backbone.preprocessing.replace(resize=72, crop=72), settings)
    network, window = backbone.trunk, (10, 10)
    theirs = captum_occlusion(network, seen.normalised, seen.occluder, window, stride=10)
    # At this stride a single window covers the pixels of the first one.
    np.testing.assert_allclose(exact.scores[0], theirs[:10, :10], rtol=1e-4)
