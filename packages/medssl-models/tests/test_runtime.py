"""Folding, precision and surroundings, on narrow networks of the real architectures."""

from __future__ import annotations

import copy

import pytest
import torch
from medssl_models.backbone import Backbone
from medssl_models.card import ModelCard
from medssl_models.errors import SettingsError
from medssl_models.features.runtime import (
    FeatureNetwork,
    batch_statistics,
    fold_batchnorm,
    fold_is_exact,
    inference,
    multiplies_in_bf16,
    probe_batch_size,
    relative_error,
    resolve_device,
    threads,
)
from medssl_models.networks.architectures import ARCHITECTURES
from medssl_models.networks.controls import initialise
from medssl_models.networks.trunks import build_trunk
from medssl_models.preprocessing import Normalisation, Preprocessing
from torch import nn

CPU = torch.device("cpu")
WIDTH = 8


def make_backbone(architecture: str, padding: str = "torchvision") -> Backbone:
    trunk = initialise(build_trunk(architecture, padding=padding, width=WIDTH), seed=0)
    card = ModelCard(
        name="narrow",
        summary="A narrow network.",
        architecture=architecture,
        width=WIDTH,
        feature_dim=ARCHITECTURES[architecture].feature_dim * WIDTH // 64,
        padding=padding,
        preprocessing=Preprocessing(
            resize=64, crop=64, normalisation=Normalisation(kind="imagenet")
        ),
        licence="none",
    )
    return Backbone(card, trunk)


@pytest.fixture(scope="module", params=["resnet18", "resnet50", "densenet121"])
def backbone(request):
    return make_backbone(request.param)


@pytest.fixture(scope="module")
def images():
    return torch.rand((3, 3, 64, 64), generator=torch.Generator().manual_seed(1))


def count(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"neon": True}, True),
    ],
)
def test_a_cpu_without_bf16_is_told(monkeypatch, able, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert multiplies_in_bf16(torch.device("cpu")) is expected
    assert multiplies_in_bf16(torch.device("cuda"))


def test_folded_network_gives_the_same_features(backbone, images):
    folded = fold_batchnorm(backbone)
    with torch.inference_mode():
        assert relative_error(folded(images), backbone(images)) < 1e-4
    assert count(folded, nn.BatchNorm2d) < count(backbone, nn.BatchNorm2d)
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_folding_takes_all_pairs_and_leaves_the_original():
    resnet, densenet = make_backbone("resnet18"), make_backbone("densenet121")
    assert count(fold_batchnorm(resnet), nn.BatchNorm2d) == 0
    assert count(resnet, nn.BatchNorm2d) == 20
    # 58 layers have conv1-norm2, the stem conv0-norm0; the norms before a convolution stay.
    assert count(densenet, nn.BatchNorm2d) - count(fold_batchnorm(densenet), nn.BatchNorm2d) == 59


def test_folding_keeps_the_padding_of_the_source(images):
    backbone = make_backbone("resnet50", "tf_same")
    with torch.inference_mode():
        assert relative_error(fold_batchnorm(backbone)(images), backbone(images)) < 1e-4
        assert relative_error(make_backbone("resnet50")(images), backbone(images)) > 1e-3


def test_a_wrong_pair_is_noticed(images):
    class NormFirst(nn.Module):
        """Registers a convolution before the BatchNorm that runs before it."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)
            self.norm = nn.BatchNorm2d(3)
            self.norm.running_mean.fill_(0.3)

        def forward(self, x):
            return self.conv(self.norm(x))

    network = NormFirst().eval()
    assert not fold_is_exact(network, fold_batchnorm(network), images)
    sound = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    assert fold_is_exact(sound, fold_batchnorm(sound), images)


def test_folding_needs_evaluation_mode():
    with pytest.raises(SettingsError, match="eval"):
        fold_batchnorm(nn.BatchNorm2d(2))


def test_feature_network_gives_the_backbones_features(backbone, images):
    network = FeatureNetwork.prepare(backbone, device=CPU, crop=64)
    with torch.inference_mode():
        expected = backbone(images)
    assert relative_error(network(images), expected) < 1e-4
    rounded = network.in_precision("bf16")(images)
    assert rounded.dtype == torch.float32
    assert 1e-4 < relative_error(rounded, expected) < 0.5  # narrow random networks amplify it
    assert backbone.checks_input


def test_features_of_a_row_do_not_depend_on_its_neighbours(backbone, images):
    network = FeatureNetwork.prepare(backbone, device=CPU, crop=64)
    alone = torch.zeros_like(images)
    alone[1] = images[1]
    assert torch.equal(network(images)[1], network(alone)[1])


def test_inner_layer_by_name(backbone, images):
    network = FeatureNetwork.prepare(backbone, layer=backbone.layers[1], device=CPU, crop=64)
    with torch.inference_mode():
        maps = backbone.forward_layers(images, (backbone.layers[1],))[backbone.layers[1]]
    assert relative_error(network(images), maps.mean((2, 3))) < 1e-4


def test_relative_error_of_nothing():
    zero, one = torch.zeros(2), torch.ones(2)
    assert relative_error(zero, zero) == 0
    assert relative_error(one, zero) == float("inf")
    assert relative_error(one * 1.5, one) == pytest.approx(0.5)


def test_device_is_checked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    with pytest.raises(SettingsError, match="cuda is not available here") as caught:
        resolve_device("cuda")
    assert caught.value.exit_code == 2
    with pytest.raises(SettingsError, match="'tpu' is not one of auto, cpu, cuda, mps"):
        resolve_device("tpu")


def test_surroundings_are_put_back():
    before = torch.get_num_threads()
    with threads(before + 1), inference(CPU, "bf16"):
        assert torch.get_num_threads() == before + 1
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert torch.get_num_threads() == before
    assert not torch.is_inference_mode_enabled()
    assert not torch.is_autocast_enabled("cpu")
    with threads(None):
        assert torch.get_num_threads() == before


def test_probe_measures_only_where_it_pays(backbone):
    calls = []

    def network(images):
        calls.append(len(images))
        return images

    network.device = CPU
    assert probe_batch_size(network, 8, rows=5) == 5
    assert probe_batch_size(network, 8, rows=500) == 32
    assert calls == []
    assert probe_batch_size(network, 8, rows=5000) in {16, 32}
    assert calls == [16, 16, 32, 32]
    network.device = torch.device("cuda")
    assert probe_batch_size(network, 8, rows=5000) == 128


def test_batch_statistics_are_those_of_torch_in_training_mode(backbone, images):
    before = backbone.fingerprint
    training = batch_statistics(backbone.trunk)
    running = {name: tensor.clone() for name, tensor in training.named_buffers()}
    with torch.inference_mode():
        expected = copy.deepcopy(backbone.trunk).train()(images)
        torch.testing.assert_close(training(images), expected, rtol=1e-4, atol=1e-5)
        assert relative_error(training(images[:2]), expected[:2]) > 1e-3
    for name, tensor in training.named_buffers():
        assert "running" not in name or torch.equal(tensor, running[name])
    network = FeatureNetwork.prepare(backbone, device=CPU, batchnorm="training", crop=64)
    # Channels last, these networks were 2e-6 to 9e-5 off: BatchNorm's sums are less exact there.
    assert relative_error(network(images), expected) < 2e-7
    assert backbone.fingerprint == before
    assert not any(module.training for module in backbone.modules())
