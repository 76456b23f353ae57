import medssl_models
import numpy as np
import pytest
import torch
from medssl_models.backbone import Backbone
from medssl_models.console import run
from medssl_models.networks.controls import initialise
from medssl_models.networks.trunks import build_trunk
from medssl_saliency.cli import app
from PIL import Image

torch.set_num_threads(1)


def make_trunk(architecture, padding="torchvision", *, width=8):
    trunk = build_trunk(architecture, padding=padding, width=width)
    return initialise(trunk, seed=1).requires_grad_(False)


@pytest.fixture(scope="session", params=["resnet18", "resnet50", "densenet121"])
def trunk(request):
    return make_trunk(request.param)


@pytest.fixture(scope="session")
def small():
    return make_trunk("resnet18")


@pytest.fixture(scope="session")
def trunks():
    """Make a trunk by architecture and padding, once."""
    made = {}

    def get(architecture, padding="torchvision"):
        key = (architecture, padding)
        if key not in made:
            made[key] = make_trunk(*key)
        return made[key]

    return get


@pytest.fixture
def images():
    """Make normalised noise images: a clean one and an occluding one."""

    def make(height=48, width=48, seed=0):
        generator = np.random.default_rng(seed)
        pair = generator.normal(size=(2, 3, height, width)).astype(np.float32)
        return torch.from_numpy(pair[0]), torch.from_numpy(pair[1])

    return make


@pytest.fixture
def tiny_models(monkeypatch):
    """Put networks of an eighth of the width under the controls' names."""
    made = {}

    def create(name, *, protocol="corrected"):
        card = medssl_models.model_card(name)
        if name not in made:
            own = card.preprocessing.replace(resize=40, crop=40)
            small = card.replace(width=8, feature_dim=card.feature_dim // 8, preprocessing=own)
            made[name] = Backbone(small, make_trunk(card.architecture), name=name)
        return made[name]

    monkeypatch.setattr(medssl_models, "create_model", create)
    monkeypatch.setattr("medssl_models.backbone.create_model", create)
    return create


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Work in an empty folder, with a home of the test's own."""
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CI", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def scan(place):
    """A grey picture with a bright disc."""
    rows, columns = np.mgrid[:56, :64]
    disc = (rows - 20) ** 2 + (columns - 44) ** 2 < 80
    noise = np.random.default_rng(0).integers(0, 60, disc.shape)
    pixels = np.where(disc, 230, 40) + noise // 3
    Image.fromarray(pixels.astype(np.uint8)).save(place / "scan.png")
    return place / "scan.png"


@pytest.fixture
def command(tiny_models, capsys):
    """Run a command line; give exit code, stdout and stderr."""

    def call(*words):
        code = run(app, [str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
