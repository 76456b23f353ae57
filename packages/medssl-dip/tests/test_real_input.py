"""Photographs that scikit-image brings along: a retina and stained tissue."""

import numpy as np
import pytest
from medssl_dip.images import ImageItem, from_files
from medssl_dip.inversion.reconstruction import invert
from medssl_dip.inversion.run_folder import RunFolder, load_picture
from medssl_models import RunContext
from PIL import Image


@pytest.fixture(params=["retina", "immunohistochemistry"])
def photograph(request, tmp_path):
    data = pytest.importorskip("skimage.data")
    try:
        pixels = getattr(data, request.param)()
    except Exception as error:  # noqa: BLE001 # some versions would have to download them
        pytest.skip(f"{request.param} is not here: {error}")
    path = tmp_path / f"{request.param}.png"
    Image.fromarray(pixels).save(path)
    return path


def test_a_photograph_is_approached(backbone, settings, photograph, tmp_path):
    """Its features come nearer; a few steps on 32 x 32 pixels do not make a picture yet."""
    (picture,) = from_files([photograph])
    assert isinstance(picture, ImageItem)
    faster = settings.replace(learning_rate=1e-2, layer="layer1", steps=40)

    (found,) = invert(backbone, [picture], faster, RunContext(output=tmp_path / "runs"))

    trace = RunFolder(tmp_path / "runs", found.identity).trace()
    assert found.loss < 0.8 * trace[0].loss
    with Image.open(photograph) as whole:
        middle = np.asarray(whole.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC))
    original = load_picture(found.path / "original.png").permute(1, 2, 0).numpy() * 255
    assert np.abs(original - middle).mean() < 2  # both are square: nothing is cropped away
    assert found.identity.picture == photograph.stem
