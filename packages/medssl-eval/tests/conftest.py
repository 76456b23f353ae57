"""Small networks under the controls' names, and small folders of pictures."""

import functools

import medssl_models.backbone
import numpy as np
import pytest
from medssl_models.backbone import Backbone
from medssl_models.experiments.metric import Metric
from medssl_models.experiments.registry import declared
from medssl_models.networks.controls import initialise
from medssl_models.networks.trunks import build_trunk
from medssl_models.testing.experiments import declared_metrics
from PIL import Image

TRAIT = declared_metrics(
    "toy-trait",
    Metric("diffusion", "diffusion", "neither", "%"),
    Metric("distance", "distance", "lower"),
)
"""What a package beside this one measures, wherever that is installed or not."""


@pytest.fixture(autouse=True, scope="session")
def _trait():
    with declared(TRAIT):
        yield


@functools.cache
def _tiny_trunk(name):
    card = medssl_models.model_card(name)
    small = card.preprocessing.replace(resize=32, crop=32)
    card = card.replace(width=4, feature_dim=card.feature_dim // 16, preprocessing=small)
    return card, initialise(build_trunk(card.architecture, width=4), seed=card.seed)


def _tiny_model(name, *, trainable=False, protocol="corrected"):
    """Make a control of a sixteenth of the width that looks at 32 x 32 pixels."""
    card, trunk = _tiny_trunk(name)
    return Backbone(card, trunk, name=name)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Keep features and models of a test to the test."""
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CI", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def tiny_model():
    return _tiny_model


@pytest.fixture
def tiny_models(monkeypatch):
    monkeypatch.setattr(medssl_models.backbone, "create_model", _tiny_model)


@pytest.fixture
def scans(tmp_path):
    """Two classes of 24 and 20 pictures that differ in the height of a bright bar."""
    rng = np.random.default_rng(0)
    for name, count, top in (("normal", 24, 4), ("opacity", 20, 20)):
        folder = tmp_path / "scans" / name
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 90, (40, 36)).astype(np.uint8)
            pixels[top : top + 9, 6:30] += np.uint8(rng.integers(20, 120))
            Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return tmp_path / "scans"
