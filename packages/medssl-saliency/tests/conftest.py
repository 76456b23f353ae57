import numpy as np
import pytest
import torch
from medssl_models.controls import initialise
from medssl_models.trunks import build_trunk

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
