"""Seeded controls: reproducible to the last bit, well scaled, and blind to global state."""

import pytest
import torch
from medssl_models.backbone import Backbone, fingerprint_of
from medssl_models.networks.controls import calibration_noise, initialise
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
