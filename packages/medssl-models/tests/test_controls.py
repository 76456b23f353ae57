"""Seeded controls: reproducible to the last bit, well scaled, and blind to global state."""

import pytest
import torch
from medssl_models.backbone import Backbone, fingerprint_of
from medssl_models.errors import SettingsError
from medssl_models.networks.controls import calibration_noise, initialise
from medssl_models.networks.tapped import TappedNetwork
from medssl_models.networks.trunks import build_trunk
from medssl_models.testing import tiny_backbone, tiny_card
from torch import nn

# Computed once; equal on every machine and for every number of threads.
FINGERPRINTS = {
    "resnet18": "776b38bdec52c9114ed036293792853cca915331b22a5c5db54854ded7a5966e",
    "densenet121": "21031a99cf19d90a3b6f54c821ce1aaa359c07dd5f24af1af417b3879220af7a",
}


@pytest.mark.parametrize("architecture", FINGERPRINTS)
def test_weights_are_the_same_on_every_machine(architecture):
    assert tiny_backbone(architecture=architecture).fingerprint == FINGERPRINTS[architecture]


def test_the_global_generator_and_default_type_do_not_matter():
    before = torch.get_rng_state()
    expected = tiny_backbone().fingerprint
    torch.set_default_dtype(torch.float64)
    try:
        assert tiny_backbone().fingerprint == expected
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_give_other_weights():
    assert tiny_backbone(seed=1).fingerprint != tiny_backbone(seed=0).fingerprint


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "densenet121"])
def test_features_of_image_like_noise_are_well_scaled(architecture):
    backbone = tiny_backbone(architecture=architecture, width=8)
    backbone.checks_input = False

    features = backbone(calibration_noise(5).float())

    assert 0.1 < float(features.std()) < 10
    assert 0.02 < float(features.std(dim=0).mean()) < 3


def test_the_noise_has_unit_variance_and_is_exact():
    noise = calibration_noise(0)

    assert noise.shape == (8, 3, 64, 64)
    assert torch.equal(noise * 4096, (noise * 4096).round())
    assert 0.5 < float(noise.std()) < 2


class Transformer(nn.Module):
    """What a transformer has and a ResNet has not: tokens, layer scale, linear layers, norms."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 16, stride=16)
        self.place = nn.Parameter(torch.randn(1, 4, 6))
        self.scale = nn.Parameter(torch.full((6,), 1e-5))
        self.mix = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.bottleneck = nn.BatchNorm1d(6)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.place
        tokens = tokens + self.scale * self.mix(tokens)
        return self.bottleneck(self.norm(tokens).mean(1))


def test_any_network_is_drawn_from_the_seed_alone():
    networks = [TappedNetwork(Transformer(), {}, feature_dim=6, fixed_side=32) for _ in range(3)]
    with torch.no_grad():
        networks[1].network.norm.weight.fill_(9.0)
    first, again, other = (
        initialise(network, seed=seed).state_dict()
        for network, seed in zip(networks, (0, 0, 1), strict=True)
    )

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["mix.weight"], other["mix.weight"])
    assert float(first["place"].std()) == pytest.approx(0.02, rel=0.3)
    assert float(first["mix.weight"].abs().max()) <= 1  # He: the root of 6 / 6 inputs
    assert first["scale"].tolist() == pytest.approx([1e-5] * 6)
    assert float(first["mix.bias"].abs().max()) == 0
    assert not any(network.training for network in networks)
    assert float(first["bottleneck.running_var"].std()) > 0


def test_a_network_without_weights_cannot_be_drawn():
    with pytest.raises(SettingsError, match="Flatten has no weights to draw"):
        initialise(nn.Flatten(), seed=0)


def test_momentum_and_type_are_put_back():
    trunk = initialise(build_trunk("resnet18", width=2), seed=0)
    norms = [module for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]

    assert {norm.momentum for norm in norms} == {0.1}
    assert {tensor.dtype for tensor in trunk.state_dict().values()} == {torch.float32, torch.int64}
    assert not trunk.training


def test_the_fingerprint_sees_padding_architecture_and_every_tensor():
    card = tiny_card()
    trunk = initialise(build_trunk("resnet18", width=2), seed=0)
    first = fingerprint_of(card, trunk)

    assert fingerprint_of(card.replace(padding="tf_same"), trunk) != first
    assert fingerprint_of(card.replace(architecture="resnet34"), trunk) != first
    assert Backbone(card, trunk).fingerprint == first
    with torch.no_grad():
        trunk.get_parameter("layer4.1.bn2.bias")[3] = 1e-6
    assert fingerprint_of(card, trunk) != first
