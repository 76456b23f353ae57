"""Small models, small settings and a picture with structure, for every test of the package."""

import numpy as np
import pytest
import torch
from medssl_dip.settings import GeneratorSettings, settings_for
from medssl_models.testing import tiny_backbone
from PIL import Image

SMALL = GeneratorSettings(channels=(8, 8), kernels=(5, 3), input_channels=4)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Keep models, trunks and results of a test to the test; one thread, so that sums repeat."""
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("CI", "1")
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path / "home"
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def backbone():
    return tiny_backbone(width=4)


@pytest.fixture
def settings():
    """A run of two dozen steps on 32 x 32 pixels."""
    return settings_for(
        generator=SMALL,
        size=32,
        restarts=1,
        steps=24,
        patience=None,
        measure_every=4,
        snapshot_every=8,
    )


@pytest.fixture(scope="session")
def image():
    """A bright disc and a bar on a slope, RGB, not square."""
    y, x = np.mgrid[:40, :52]
    pixels = np.stack([x * 3, y * 4, 60 + 0 * x], axis=-1).astype(np.uint8)
    pixels[(y - 18) ** 2 + (x - 20) ** 2 < 90] = (230, 180, 40)
    pixels[4:36, 38:42] = (20, 30, 160)
    return Image.fromarray(pixels)


def tensors(count, side=32, seed=0):
    """Draw smooth pictures, (count, 3, side, side) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 3, 5, 5), generator=generator)
    return torch.nn.functional.interpolate(coarse, size=side, mode="bilinear")


@pytest.fixture
def pictures():
    return tensors
