"""Preprocessing against torchvision, NumPy and the published test vector."""

from importlib.metadata import version

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_models import preprocessing
from medssl_models.errors import InputRangeError, SettingsError
from medssl_models.features.extraction import extract
from medssl_models.features.store import FeatureStore
from medssl_models.pixels import equalise
from medssl_models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Normalisation, Preprocessing
from medssl_models.testing import tiny_backbone
from medssl_models.testing.sources import NoiseSource
from PIL import Image
from pydantic import ValidationError
from torchvision import transforms

IMAGENET = Normalisation(kind="imagenet")
HISTOGRAM = Normalisation(kind="histogram")


def image(width=50, height=37, seed=0):
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (height // 3, width // 3, 3), dtype="uint8"))
    return small.resize((width, height), Image.Resampling.BILINEAR)


def own(**changes):
    return Preprocessing(resize=32, crop=24, normalisation=IMAGENET).replace(**changes)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", [32, (40, 33), 224], ids=["short side", "exact", "enlarged"])
@pytest.mark.parametrize("crop", [24, 60], ids=["cut", "padded"])
@pytest.mark.parametrize("size", [(50, 37), (37, 50), (41, 41)], ids=["wide", "tall", "square"])
def test_geometry_and_normalisation_are_those_of_torchvision(interpolation, resize, crop, size):
    mode = transforms.InterpolationMode(interpolation)
    reference = transforms.Compose(
        [
            transforms.Resize(resize, interpolation=mode),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    preprocessing = own(interpolation=interpolation, resize=resize, crop=crop)

    picture = image(*size)

    torch.testing.assert_close(preprocessing(picture), reference(picture))
    torch.testing.assert_close(preprocessing.transform()(picture), reference(picture))


@pytest.mark.parametrize("kind", ["none", "histogram", "imagenet"])
def test_transform_gives_what_the_preprocessing_gives(kind):
    preprocessing = own(normalisation={"kind": kind})

    result = preprocessing.transform()(image())

    assert type(result) is torch.Tensor
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, preprocessing(image()))


def test_transform_takes_tensors_in_a_range_of_its_own():
    preprocessing = own(value_range=(-1, 1), normalisation={"kind": "none"})
    picture = torch.full((3, 50, 60), 255, dtype=torch.uint8)

    result = preprocessing.transform()(picture)

    assert result.shape == (3, 24, 24)
    assert result.unique().tolist() == [1.0]
    assert "none" in repr(preprocessing.transform())


def test_pixels_lie_in_the_declared_range():
    preprocessing = own(value_range=(-1, 1), normalisation={"kind": "none"})

    pixels = preprocessing.pixels(image())

    torch.testing.assert_close(pixels, own().pixels(image()) * 2 - 1)
    torch.testing.assert_close(preprocessing.normalise(pixels), pixels)


def test_grey_images_are_replicated_and_other_modes_refused():
    grey = image().convert("L")

    assert torch.equal(own().pixels(grey), own().pixels(grey.convert("RGB")))
    with pytest.raises(InputRangeError, match=r"mode 'I;16'.*8-bit RGB"):
        own().pixels(Image.fromarray(np.zeros((9, 9), np.uint16)))


def test_histogram_gives_the_published_vector():
    values = (torch.arange(48) / 47).reshape(3, 4, 4)

    equalised = equalise(values)

    assert equalised.shape == (3, 4, 4)
    assert equalised.flatten()[[0, 1, 10, 24, 46, 47]].tolist() == pytest.approx(
        [5.3125, 10.625, 58.4375, 132.8125, 249.6875, 255]
    )


def numpy_equalised(values):
    counts, edges = np.histogram(values.ravel(), 256, density=True)
    shares = counts.cumsum()
    shares = 255 * shares / shares[-1]
    return np.interp(values.ravel(), edges[:-1], shares).reshape(values.shape)


@pytest.mark.parametrize("kind", ["noise", "8-bit", "few values", "skewed"])
def test_histogram_is_that_of_numpy(kind):
    generator = np.random.default_rng(3)
    values = {
        "noise": generator.random((3, 20, 20), np.float32),
        "8-bit": np.asarray(image(), np.float32).transpose(2, 0, 1) / 255,
        "few values": generator.choice(np.float32([0.1, 0.2, 0.75]), (3, 9, 9)),
        "skewed": generator.standard_exponential((3, 20, 20), np.float32) * 1000 - 5,
    }[kind]

    equalised = equalise(torch.from_numpy(values))

    np.testing.assert_allclose(equalised.numpy(), numpy_equalised(values), rtol=0, atol=1e-3)


@given(seed=st.integers(0, 2**32), low=st.floats(-10, 10), span=st.floats(0.5, 100))
@settings(deadline=None, max_examples=30)
def test_histogram_keeps_order_fills_its_range_and_ignores_the_scale(seed, low, span):
    values = torch.rand((3, 5, 6), generator=torch.Generator().manual_seed(seed))

    equalised = equalise(values).flatten()

    order = values.flatten().argsort()
    assert bool((equalised[order].diff() >= -1e-4).all())
    assert 0 < float(equalised.min()) <= float(equalised.max()) == 255
    # Rounding may move a value across the edge of a bin: 255 / 90 is one value's share.
    scaled = equalise(values * span + low).flatten()
    assert float((scaled - equalised).abs().median()) < 1


def test_histogram_of_a_batch_is_that_of_its_images():
    batch = torch.rand((2, 2, 3, 8, 8), generator=torch.Generator().manual_seed(0))

    equalised = equalise(batch)

    assert torch.equal(equalised[1, 0], equalise(batch[1, 0]))
    assert equalise(batch[:0]).shape == (0, 2, 3, 8, 8)


def test_histogram_of_a_constant_or_nearly_constant_image_is_finite():
    constant = torch.full((3, 4, 4), 0.3)
    nearly = constant.clone()
    nearly[0, 0, 0] = torch.nextafter(torch.tensor(0.3), torch.tensor(1.0))

    assert equalise(constant).unique().tolist() == [255]
    assert bool(equalise(nearly).isfinite().all())


@pytest.mark.parametrize(
    "pixels",
    [
        torch.full((3, 4, 4), 1.2),
        torch.full((3, 4, 4), -0.2),
        torch.full((3, 4, 4), float("nan")),
        torch.full((3, 4, 4), float("inf")),
        torch.full((1, 4, 4), 0.5),
        torch.full((4, 4), 0.5),
        torch.full((3, 4, 4), 128, dtype=torch.uint8),
    ],
    ids=["above", "below", "nan", "inf", "one channel", "no channels", "8-bit"],
)
def test_pixels_outside_the_declaration_are_refused(pixels):
    with pytest.raises(InputRangeError, match="pixels: ") as caught:
        own().normalise(pixels)

    assert caught.value.exit_code == 3


def test_a_small_overshoot_is_clipped():
    pixels = torch.tensor([-0.03, 0.5, 1.03]).expand(3, 2, 3)

    clipped = own(normalisation={"kind": "none"}).normalise(pixels)

    assert clipped[0, 0].tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("kind", ["imagenet", "none", "histogram", "constant"])
def test_normalised_values_lie_in_the_normalised_range(kind):
    constant = {"mean": (0.5, 0.5, 0.5), "std": (0.1, 0.2, 0.3)} if kind == "constant" else {}
    preprocessing = own(normalisation={"kind": kind, **constant})
    low, high = preprocessing.normalised_range
    ends = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])

    values = preprocessing.normalise(ends)

    assert low - 1e-4 <= float(values.min()) <= float(values.max()) <= high + 1e-4
    if kind != "histogram":
        assert (float(values.min()), float(values.max())) == pytest.approx((low, high))


def test_fingerprints_differ_exactly_when_the_preprocessing_does():
    assert own().fingerprint == own().fingerprint
    others = [own(crop=25), own(resize=(32, 32)), own(normalisation=HISTOGRAM)]
    assert len({p.fingerprint for p in [own(), *others]}) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"crop": 0},
        {"resize": (3, 0)},
        {"interpolation": "nearest"},
        {"value_range": (1, 0)},
        {"normalisation": {"kind": "constant"}},
        {"normalisation": {"kind": "none", "mean": (0, 0, 0)}},
        {"normalisation": {"kind": "constant", "mean": (0, 0, 0), "std": (1, 0, 1)}},
        {"colour": "grey"},
    ],
    ids=str,
)
def test_impossible_records_are_refused(changes):
    with pytest.raises(ValidationError):
        Preprocessing(**(dict(own()) | changes))
    with pytest.raises(SettingsError) as caught:
        own(**changes)
    assert next(iter(changes)) in str(caught.value)
    assert "constrained" not in str(caught.value)


@pytest.fixture
def installed(monkeypatch):
    """Pretend that a release of Pillow is installed."""
    cached = (preprocessing.resampling, preprocessing._torchvision)

    def pretend(release):
        for function in cached:
            function.cache_clear()
        monkeypatch.setattr(
            preprocessing, "version", lambda name: release if name == "pillow" else version(name)
        )

    yield pretend
    for function in cached:
        function.cache_clear()


def test_pillows_of_one_resampling_share_keys_and_others_do_not(installed):
    keys = {}
    for release in ("9.2.0", "12.3.0", "13.0.0", "13.1.0"):
        installed(release)
        keys[release] = own().geometry
    assert "pillow" not in keys["9.2.0"]
    assert keys["9.2.0"] == keys["12.3.0"] != keys["13.0.0"] == keys["13.1.0"]


def test_features_of_another_resampling_are_computed_anew(installed, tmp_path):
    store = FeatureStore(tmp_path)
    for release, computed in (("12.2.0", 2), ("12.3.0", 0), ("13.0.0", 2), ("12.3.0", 0)):
        installed(release)
        table = extract(tiny_backbone(), NoiseSource(rows=2), store=store)
        assert table.computed == computed, release
        assert "pillow 13" not in table.provenance["preprocessing"]


def test_a_very_narrow_image_is_refused_before_it_grows():
    own = Preprocessing(resize=256, crop=224, normalisation={"kind": "imagenet"})
    with pytest.raises(InputRangeError, match=r"1 x 20000 pixels.*short side of 256"):
        own.fit(Image.new("L", (1, 20_000)))
    assert own.fit(Image.new("L", (10, 2_000))).size == (224, 224)
