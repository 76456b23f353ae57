"""Trunks against plain torchvision; SAME padding against an expectation of its own."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_models.errors import LayerError, SettingsError
from medssl_models.networks.architectures import ARCHITECTURES
from medssl_models.networks.controls import initialise
from medssl_models.networks.trunks import (
    SameConv2d,
    SameMaxPool2d,
    build_trunk,
    resolve_layers,
)
from torch import nn

COUNTS = {"resnet18": 120, "resnet50": 318, "densenet121": 725}


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain_network(architecture):
    """Torchvision's own network without its head, seeded, with BatchNorm that does something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(torchvision.models, architecture)(weights=None)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    head = "classifier" if architecture.startswith("densenet") else "fc"
    setattr(network, head, nn.Identity())
    return network.eval()


@pytest.mark.parametrize("architecture", COUNTS)
def test_names_and_features_are_those_of_torchvision(architecture):
    plain = plain_network(architecture)
    state = plain.state_dict()
    trunk = build_trunk(architecture)

    trunk.load_state_dict(state, assign=True)

    assert len(trunk.state_dict()) == COUNTS[architecture]
    with torch.inference_mode():
        x = noise(2, 3, 65, 70)
        assert torch.equal(trunk(x), plain(x))
    assert trunk.feature_dim == ARCHITECTURES[architecture].feature_dim


@pytest.mark.parametrize("padding", ["torchvision", "tf_same", "tf_same_pool"])
@pytest.mark.parametrize("architecture", ["resnet18", "densenet121"])
def test_every_padding_has_the_same_state(architecture, padding):
    plain = {k: v.shape for k, v in build_trunk(architecture, width=2).state_dict().items()}
    padded = build_trunk(architecture, padding=padding, width=2).state_dict()

    assert {name: tensor.shape for name, tensor in padded.items()} == plain


@pytest.mark.parametrize(
    ("padding", "same"),
    [
        ("torchvision", set()),
        ("tf_same_pool", {"maxpool"}),
        ("tf_same", {"maxpool", "conv1", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"}),
    ],
)
def test_a_padding_replaces_exactly_these_layers(padding, same):
    trunk = build_trunk("resnet50", padding=padding)

    found = {n for n, m in trunk.named_modules() if isinstance(m, SameConv2d | SameMaxPool2d)}

    assert found == same


def shifted_windows(x, kernel, stride):
    """Windows of a SAME layer, one by one from its definition, for a 1-d signal; None outside."""
    size = len(x)
    count = -(-size // stride)
    before = max((count - 1) * stride + kernel - size, 0) // 2
    starts = [index * stride - before for index in range(count)]
    return [
        [x[i] if 0 <= i < size else None for i in range(start, start + kernel)] for start in starts
    ]


@given(
    height=st.integers(1, 15),
    width=st.integers(1, 15),
    kernel=st.sampled_from([1, 3, 7]),
    stride=st.sampled_from([1, 2]),
)
@settings(deadline=None, max_examples=60)
def test_same_padding_is_its_definition(height, width, kernel, stride):
    rows, columns = noise(height, seed=1).tolist(), noise(width, seed=2).tolist()
    image = torch.tensor(rows)[:, None] * torch.tensor(columns)
    conv = SameConv2d(1, 1, kernel, stride=stride, bias=False)
    conv.weight.data.fill_(1)
    pool = SameMaxPool2d(kernel, stride)

    with torch.no_grad():
        summed, largest = conv(image[None, None])[0, 0], pool(image[None, None])[0, 0]

    row_windows = shifted_windows(range(height), kernel, stride)
    column_windows = shifted_windows(range(width), kernel, stride)
    assert summed.shape == (len(row_windows), len(column_windows))
    for r, row in enumerate(row_windows):
        for c, column in enumerate(column_windows):
            window = [image[i, j] for i in row for j in column if None not in {i, j}]
            assert float(summed[r, c]) == pytest.approx(float(sum(window)), abs=1e-4)
            assert float(largest[r, c]) == float(max(window))


@pytest.mark.parametrize(
    ("size", "kernel", "before", "after"), [(224, 7, 2, 3), (112, 3, 0, 1), (113, 3, 1, 1)]
)
def test_same_padding_has_the_published_sides(size, kernel, before, after):
    conv = SameConv2d(1, 1, kernel, stride=2, bias=False)
    x = noise(1, 1, size, size)
    padded = nn.functional.pad(x, [before, after, before, after])

    with torch.no_grad():
        assert torch.equal(conv(x), nn.functional.conv2d(padded, conv.weight, stride=2))


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "densenet121"])
def test_layers_are_those_of_a_full_run_and_nothing_deeper_runs(architecture):
    trunk = initialise(build_trunk(architecture, width=2), seed=0)
    x = noise(2, 3, 33, 40)
    with torch.inference_mode():
        everything = {k: v.clone() for k, v in trunk.run(x, trunk.layers).items()}
        trunk.get_submodule(trunk.stages[-2].modules[-1]).register_forward_hook(pytest.fail)
        alone = {layer: trunk.run(x, [layer])[layer] for layer in trunk.layers[:-2]}

    assert tuple(everything) == trunk.layers
    assert all(torch.equal(alone[layer], everything[layer]) for layer in alone)


@pytest.mark.parametrize("architecture", ["resnet18", "densenet121"])
def test_later_stages_do_not_change_what_was_tapped(architecture):
    trunk = initialise(build_trunk(architecture, width=2), seed=0)
    x = noise(1, 3, 64, 64)

    with torch.inference_mode():
        together = trunk.run(x, trunk.layers)
        assert all(torch.equal(trunk.run(x, [name])[name], together[name]) for name in together)


def test_resnet_names_mean_the_blocks_of_a_densenet():
    trunk = build_trunk("densenet121")

    asked = resolve_layers(trunk, ["conv1", "layer4", "norm5"])

    assert asked == {"conv1": "conv0", "layer4": "denseblock4", "norm5": "norm5"}


@pytest.mark.parametrize("layers", [["layer9"], []], ids=["unknown", "none"])
def test_layers_that_do_not_exist_are_refused(layers):
    with pytest.raises(LayerError, match="conv1, layer1"):
        resolve_layers(build_trunk("resnet18", width=2), layers)


def test_unknown_networks_are_refused():
    with pytest.raises(SettingsError, match=r"did you mean .*resnet50"):
        build_trunk("resnet5")
    with pytest.raises(SettingsError, match="width: 3"):
        build_trunk("resnet50", width=3)


def test_building_draws_no_random_number():
    before = torch.get_rng_state()

    build_trunk("densenet121", width=2)

    assert torch.equal(torch.get_rng_state(), before)
