"""Distances of two pictures against scikit-image and by hand."""

import math
import statistics

import pytest
import torch
from medssl_dip.errors import ImageRangeError, ImageSizeError
from medssl_dip.feature_extractor import FeatureExtractor
from medssl_dip.perceptual.fidelity import Fidelity, feature_distance, measure, spread
from medssl_dip.perceptual.metrics import METRICS


def test_psnr_is_that_of_its_formula(pictures):
    x = pictures(1)[0]
    y = (x * 0.9).clamp(0, 1)

    expected = -10 * math.log10(float((x - y).double().square().mean()))

    assert measure(x, y).values["psnr"] == pytest.approx(expected, rel=1e-5)


def test_ssim_is_that_of_scikit_image(pictures):
    metrics = pytest.importorskip("skimage.metrics")
    x, y = pictures(1, side=48)[0], pictures(1, side=48, seed=4)[0]

    _, full = metrics.structural_similarity(
        x.permute(1, 2, 0).numpy(),
        y.permute(1, 2, 0).numpy(),
        channel_axis=2,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )

    # torchmetrics averages over the whole picture, scikit-image over what windows fit into.
    assert measure(x, y).values["ssim"] == pytest.approx(full.mean(), abs=1e-3)
    assert 0 < full.mean() < 1


def test_a_picture_is_the_same_as_itself(pictures):
    x = pictures(1)[0]

    values = measure(x, x).values

    assert values["ssim"] == pytest.approx(1)
    assert values["psnr"] == math.inf
    assert Fidelity(values).finite().keys() == {"ssim"}


def test_features_are_compared_by_their_relative_distance(backbone, pictures):
    extractor = FeatureExtractor(backbone, backbone.preprocessing)
    x, y = pictures(1), pictures(1, seed=6)
    normalised = backbone.preprocessing.normalise(torch.cat([x, y]))
    first, second = backbone(normalised)

    expected = float((second - first).norm() / first.norm())

    assert feature_distance(extractor, x, y) == pytest.approx(expected, rel=1e-3)
    assert measure(x[0], y[0], extractor=extractor).values["feature_distance"] == pytest.approx(
        expected, rel=1e-3
    )
    assert feature_distance(extractor, x, x) == pytest.approx(0, abs=1e-5)


def test_the_average_is_the_plain_mean_of_three_nets(pictures):
    nets = {
        name: lambda a, b, n=number: torch.tensor([0.1 * n])
        for number, name in enumerate(("alex", "vgg", "squeeze"), start=1)
    }
    x = pictures(1)[0]

    values = measure(x, x, lpips=nets).values

    assert values["lpips_average"] == pytest.approx(0.2)
    two = {name: nets[name] for name in ("alex", "vgg")}
    assert "lpips_average" not in measure(x, x, lpips=two).values
    assert list(values) == [name for name in METRICS if name in values]


@pytest.mark.parametrize(
    ("x", "y", "error"),
    [
        (torch.zeros(3, 16, 16), torch.zeros(3, 16, 12), ImageSizeError),
        (torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), ImageSizeError),
        (torch.zeros(3, 16, 16), torch.full((3, 16, 16), 2.0), ImageRangeError),
    ],
    ids=["sizes", "tiny", "range"],
)
def test_what_cannot_be_compared(x, y, error):
    with pytest.raises(error):
        measure(x, y)


def test_the_spread_of_restarts():
    values = [0.25, 0.5, 0.9]

    told = spread(values)

    assert told["standard_deviation"] == pytest.approx(statistics.stdev(values))
    assert (told["least"], told["greatest"], told["values"]) == (0.25, 0.9, values)
    assert spread([0.5])["standard_deviation"] is None
