import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_saliency.attribution import METHODS, attribute, captum_occlusion, superpixels
from medssl_saliency.engine.occlusion import (
    build_engine,
    cut_margin,
    grid_positions,
    mean_over_windows,
    measure,
)
from medssl_saliency.errors import ImageError, SettingsError
from medssl_saliency.maps.occluders import occluding_picture
from torch import nn


def test_it_equals_captum(trunk, images):
    image, occluder = images(32, 32)
    positions = grid_positions((32, 32), (8, 8), stride=4)
    engine, _ = build_engine(trunk, image)
    scores = measure(engine, positions, window=(8, 8), occluder=occluder)
    ours = mean_over_windows(positions, scores, (32, 32), (8, 8))
    theirs = captum_occlusion(trunk, image, occluder, (8, 8), stride=4)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(2, 12),
    width=st.integers(2, 12),
    window=st.integers(1, 5),
    stride=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_the_map_is_the_mean_of_the_windows_that_cover_a_pixel(height, width, window, stride, seed):
    shape = (min(window, height), min(window, width))
    positions = grid_positions((height, width), shape, stride=stride)
    scores = np.random.default_rng(seed).random(len(positions))
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for (top, left), score in zip(positions, scores, strict=True):
        total[top : top + shape[0], left : left + shape[1]] += score
        count[top : top + shape[0], left : left + shape[1]] += 1
    with np.errstate(invalid="ignore"):
        expected = total / count
    found = mean_over_windows(positions, scores, (height, width), shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_published_geometry_gives_54289_windows_and_224_pixels():
    positions = grid_positions((242, 242), (10, 10))
    assert len(positions) == 54_289
    values = mean_over_windows(positions, np.ones(len(positions)), (242, 242), (10, 10))
    assert cut_margin(values, (10, 10)).shape == (224, 224)
    np.testing.assert_allclose(values, 1, rtol=1e-6)


def test_known_scores_are_not_measured_again(small, images):
    image, occluder = images(32, 32)
    positions = grid_positions((32, 32), (8, 8), stride=8)
    engine, _ = build_engine(small, image)
    known = np.full(len(positions), 7.0, np.float32)
    known[3] = np.nan
    shares = []
    scores = measure(
        engine,
        positions,
        window=(8, 8),
        occluder=occluder,
        known=known,
        report=lambda _, share: shares.append(share),
    )
    assert (scores == 7).sum() == len(positions) - 1
    assert shares == [1.0]


@pytest.mark.parametrize("bad", [torch.zeros(1, 3, 8, 8), torch.full((3, 8, 8), float("nan"))])
def test_an_image_that_cannot_be_occluded_is_refused(small, bad):
    with pytest.raises(ImageError):
        build_engine(small, bad)


@pytest.mark.parametrize(("window", "stride"), [((9, 4), 1), ((4, 4), 0), ((0, 4), 1)])
def test_windows_that_do_not_fit_are_refused(window, stride):
    with pytest.raises(SettingsError):
        grid_positions((8, 8), window, stride=stride)


def test_occluding_pictures():
    pixels = torch.from_numpy(np.random.default_rng(0).random((3, 20, 24), dtype=np.float32))
    normalised = (pixels - 0.5) / 0.25
    made = {
        kind: occluding_picture(kind, pixels, normalised, seed=0)
        for kind in ("zero", "mean", "blur", "noise")
    }
    assert not made["zero"].any()
    colour = (pixels.mean(dim=(1, 2)) - 0.5) / 0.25
    torch.testing.assert_close(made["mean"], colour[:, None, None].expand(3, 20, 24))
    assert made["blur"].std() < normalised.std()
    torch.testing.assert_close(
        made["noise"].flatten(1).sort().values, normalised.flatten(1).sort().values
    )


def test_a_histogram_keeps_the_clean_images_mapping():
    pixels = torch.arange(48.0).reshape(3, 4, 4) / 47
    normalised = pixels**2 * 255
    noise = occluding_picture("noise", pixels, normalised, seed=0)
    assert set(noise.flatten().tolist()) == set(normalised.flatten().tolist())


@pytest.mark.parametrize("method", METHODS)
def test_captum_methods_give_a_map(trunks, images, method):
    image, occluder = images(64, 64)
    network = trunks("resnet18")
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random = torch.random.get_rng_state()
    values = attribute(method, network, image, occluder, seed=3)
    again = attribute(method, network, image, occluder, seed=3)
    assert values.shape == (64, 64)
    assert np.isfinite(values).all()
    assert values.std() > 0
    np.testing.assert_allclose(values, again, rtol=1e-4, atol=1e-7)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(state[n], t) for n, t in network.state_dict().items())


def test_integrated_gradients_sum_to_the_distance(trunks, images):
    image, occluder = images(32, 32)
    network = trunks("resnet18")
    values = attribute("integrated-gradients", network, image, occluder)
    clean, nothing = network(torch.stack([image, occluder]))
    assert values.sum() == pytest.approx(float((clean - nothing).norm() / clean.norm()), rel=0.2)


class Attention(nn.Module):
    """A vision transformer in small; its normalised keys have four dimensions and are no map."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.tokens = nn.LayerNorm(8)
        self.keys = nn.LayerNorm(4)

    def forward(self, x):
        tokens = self.tokens(self.patches(x).flatten(2).transpose(1, 2))
        heads = self.keys(tokens.unflatten(2, (2, 4)).transpose(1, 2))
        mixed = (heads @ heads.transpose(2, 3)).softmax(dim=3) @ heads
        return mixed.transpose(1, 2).flatten(2).mean(dim=1)


@pytest.mark.parametrize("method", ["grad-cam", "guided-grad-cam"])
def test_grad_cam_of_a_transformer_is_refused(images, method):
    torch.manual_seed(0)
    network = Attention().eval().requires_grad_(False)
    with pytest.raises(SettingsError, match="computes tokens"):
        attribute(method, network, *images(32, 32))
    assert attribute("integrated-gradients", network, *images(32, 32)).std() > 0


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"]
)
def test_grad_cam_of_timm_s_networks(images, name):
    timm = pytest.importorskip("timm")
    sized = {} if "convnext" in name else {"img_size": 64}
    network = timm.create_model(name, num_classes=0, **sized).eval().requires_grad_(False)
    if name == "convnext_atto":
        assert attribute("grad-cam", network, *images(64, 64)).std() > 0
    else:
        with pytest.raises(SettingsError, match="computes tokens"):
            attribute("grad-cam", network, *images(64, 64))


def test_an_unknown_method_is_refused(small, images):
    with pytest.raises(SettingsError, match="grad-cam"):
        attribute("gradcam", small, *images())


def test_superpixels_follow_colour():
    image = torch.zeros(3, 32, 32)
    image[:, :, 16:] = 5.0
    groups = superpixels(image, number=16)
    assert groups.shape == (32, 32)
    assert set(groups[:, :16].unique().tolist()).isdisjoint(groups[:, 16:].unique().tolist())
