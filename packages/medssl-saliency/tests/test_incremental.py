import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_saliency.engine.geometry import Reach, Span
from medssl_saliency.engine.graph import Kind
from medssl_saliency.engine.incremental import IncrementalNetwork
from medssl_saliency.engine.occlusion import build_engine, grid_positions, measure, reference_scores
from medssl_saliency.engine.tracing import trace
from medssl_saliency.engine.winograd import Winograd, padded
from medssl_saliency.errors import SettingsError, UnsupportedNetworkError
from torch import nn


def compare(network, image, occluder, window, stride, **options):
    positions = grid_positions(tuple(image.shape[1:]), window, stride=stride)
    engine, note = build_engine(network, image)
    scores = measure(engine, positions, window=window, occluder=occluder, **options)
    some = np.random.default_rng(0).permutation(len(positions))[:24]
    expected = reference_scores(network, image, positions[some], window=window, occluder=occluder)
    # Scores are relative to the features' norm, of which fp32 keeps some 1e-7 in every layer.
    np.testing.assert_allclose(scores[some], expected, rtol=1e-4, atol=1e-6)
    return engine, note


@pytest.mark.parametrize("padding", ["torchvision", "tf_same"])
@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "densenet121"])
def test_it_equals_one_forward_pass_a_window(trunks, images, architecture, padding):
    engine, note = compare(trunks(architecture, padding), *images(59, 66), (10, 7), 9)
    assert isinstance(engine, IncrementalNetwork)
    assert note == ""


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [
        ((48, 48), (1, 1), 16),
        ((40, 33), (33, 5), 3),
        ((64, 64), (64, 64), 1),
        ((35, 90), (4, 40), 8),
    ],
)
def test_any_window_and_size(small, images, size, window, stride):
    compare(small, *images(*size), window, stride)


@settings(deadline=None, max_examples=60)
@given(
    kernel=st.integers(1, 7),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 2),
    start=st.integers(0, 20),
    length=st.integers(1, 10),
)
def test_reach_is_what_a_convolution_does(kernel, stride, padding, dilation, start, length):
    reach = Reach(kernel, stride, padding, dilation)
    x = torch.zeros(1, 1, 31)
    x[..., start : start + length] = 1
    y = torch.conv1d(x, torch.ones(1, 1, kernel), None, stride, padding, dilation)[0, 0]
    touched = torch.nonzero(y).flatten().tolist()
    span = reach.affected(Span(start, start + length), len(y))
    # With dilation a hull may hold cells that are not touched, never the other way round.
    assert set(touched) <= set(range(*span))
    if dilation == 1:
        assert touched == list(range(*span))
    if span:
        needed = reach.needed(span)
        assert needed.length == (span.length - 1) * stride + reach.extent


def test_the_network_is_bit_identical_afterwards(trunk, images):
    before = copy.deepcopy(trunk.state_dict())
    image, occluder = images()
    engine, _ = build_engine(trunk, image)
    measure(engine, grid_positions((48, 48), (9, 9), stride=13), window=(9, 9), occluder=occluder)
    after = trunk.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in trunk.modules())


def test_batchnorm_is_folded_and_relu_fused(small):
    kinds = {node.kind for node in trace(small, (64, 64)).nodes}
    assert kinds == {Kind.INPUT, Kind.CONVOLUTION, Kind.MAX_POOL, Kind.ADD, Kind.MEAN}


@pytest.mark.parametrize("side", [(1, 1), (3, 5), (64, 64)])
def test_the_cut_into_tiles_does_not_matter(small, images, side):
    image, occluder = images(40, 40)
    positions = grid_positions((40, 40), (6, 6), stride=7)
    engine = IncrementalNetwork(small, image)
    plan = engine.plan(positions, (6, 6), memory=2**30, side=side)
    assert sum(len(tile.positions) for tile in plan.tiles) == len(positions)
    found = {
        tuple(corner): feature
        for tile in plan.tiles
        for corner, feature in zip(
            tile.positions.tolist(), engine.run(tile, occluder, (6, 6)), strict=True
        )
    }
    expected = reference_scores(small, image, positions, window=(6, 6), occluder=occluder)
    scores = [
        float((found[tuple(c)] - engine.clean).norm() / engine.clean.norm())
        for c in positions.tolist()
    ]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_the_plan_saves_work_and_keeps_to_its_memory(trunks):
    engine = IncrementalNetwork(trunks("resnet18"), torch.zeros(3, 224, 224))
    positions = grid_positions((224, 224), (10, 10), stride=4)
    free = engine.plan(positions, (10, 10), memory=2**30)
    assert free.gain > 2
    kept = sum(clean.nbytes for clean in (*engine.maps, *engine.sums.values()))
    kept += sum(quick.weight.nbytes for quick in engine.quick.values())
    tight = engine.plan(positions, (10, 10), memory=kept + free.peak // 2)
    assert tight.peak <= free.peak // 2
    with pytest.raises(SettingsError, match="one window needs"):
        engine.plan(positions, (10, 10), memory=1000)


def test_the_plan_counts_what_winograd_holds(images, monkeypatch):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 96, 3, padding=1)
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    image, _ = images(40, 40)
    engine = IncrementalNetwork(network.requires_grad_(False), image)
    positions, asked = grid_positions((40, 40), (6, 6)), {"side": (4, 4), "memory": 2**30}
    quick = engine.plan(positions, (6, 6), **asked)
    # A tile of 4 x 4 windows changes 9 x 9 pixels, 13 x 13 results in the end: 18 x 18 are read.
    assert quick.peak > 16 * 18 * 18 * (96 + 96) * 4
    monkeypatch.setattr("medssl_saliency.engine.planning.is_worth_it", lambda node: False)
    assert quick.peak > engine.plan(positions, (6, 6), **asked).peak
    weights = sum(one.weight.nbytes for one in engine.quick.values())
    assert weights == 36 * 96 * 96 * 4
    with pytest.raises(SettingsError, match="one window needs"):
        engine.plan(positions, (6, 6), memory=sum(c.nbytes for c in engine.maps) + weights)


def test_bf16_is_near(trunk, images):
    image, occluder = images(64, 64)
    positions = grid_positions((64, 64), (10, 10), stride=6)
    exact, near = (
        measure(
            build_engine(trunk, image, precision=precision)[0],
            positions,
            window=(10, 10),
            occluder=occluder,
        )
        for precision in ("fp32", "bf16")
    )
    assert np.corrcoef(exact, near)[0, 1] > 0.97


@pytest.mark.parametrize("size", [(4, 4), (7, 13), (1, 6)])
def test_winograd_is_a_convolution(size):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((5, 7, 3, 3), generator=generator)
    x = torch.zeros(3, padded(size[0]), padded(size[1]), 7)
    x[:, : size[0] + 2, : size[1] + 2] = torch.randn((3, size[0] + 2, size[1] + 2, 7))
    found = Winograd(weight)(x)[:, : size[0], : size[1]].permute(0, 3, 1, 2)
    expected = nn.functional.conv2d(x.double().permute(0, 3, 1, 2), weight.double())
    torch.testing.assert_close(
        found.double(), expected[..., : size[0], : size[1]], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("bias", [True, False])
def test_wide_convolutions_go_by_differences(images, bias):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 96, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(96, 100, 3, padding=1, bias=bias),
        nn.Conv2d(100, 96, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    engine, note = compare(network.eval().requires_grad_(False), *images(45, 70), (9, 6), 6)
    assert note == ""
    assert len(engine.quick) == 2


class Gated(nn.Module):
    """Does what incremental inference cannot know: every pixel depends on every other."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.convolution(x).softmax(dim=3)
        return y.mean(dim=(2, 3)) + y.amax(dim=(2, 3))


def test_an_unknown_operation_falls_back_and_says_so(images):
    network = Gated().eval().requires_grad_(False)
    with pytest.raises(UnsupportedNetworkError, match="softmax"):
        trace(network, (32, 32))
    _, note = compare(network, *images(32, 32), (5, 5), 4)
    assert "full inference" in note
    assert "softmax" in note


@pytest.mark.parametrize(
    ("activation", "named"), [(nn.ReLU6(inplace=True), "hardtanh"), (nn.SiLU(inplace=True), "silu")]
)
def test_an_unknown_operation_in_place_is_named(images, activation, named):
    """It returns the tensor that it was given, which is no longer what earlier nodes made."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        activation,
        nn.Conv2d(4, 4, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    _, note = compare(network.eval().requires_grad_(False), *images(24, 24), (5, 5), 6)
    assert note == (
        f"full inference for every window: incremental inference does not support {named}"
    )


class Plain(nn.Module):
    """Operations that torchvision's networks do not have: padding, average pooling, dropout."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=2, dilation=2, groups=3)
        self.second = nn.Conv2d(6, 6, 2)
        self.norm = nn.BatchNorm2d(6, affine=False)

    def forward(self, x):
        y = torch.relu(self.norm(self.first(x)))
        y = nn.functional.dropout(y, 0.5, self.training)
        padded = nn.functional.pad(y, (0, 1, 0, 1), value=0.5)
        z = self.second(padded) + y
        z += y
        z = nn.functional.avg_pool2d(torch.cat([z, y], 1), 3, 2, 1)
        return z.mean((-2, -1))


def test_other_operations_are_recorded_too(images):
    torch.manual_seed(0)
    network = Plain().eval().requires_grad_(False)
    _, note = compare(network, *images(37, 30), (6, 4), 5)
    assert note == ""


def test_batchnorm_in_training_mode_runs_alone_on_a_copy(images):
    torch.manual_seed(0)
    network = Plain().train().requires_grad_(False)
    network.norm.momentum = 0.1
    nn.Module.train(network, mode=False)
    network.norm.train()
    before = network.norm.running_mean.clone()
    image, occluder = images(20, 20)
    engine, note = build_engine(network, image)
    assert "batch_norm" in note
    plan = engine.plan(grid_positions((20, 20), (5, 5), stride=5), (5, 5), memory=2**30)
    assert {len(tile.positions) for tile in plan.tiles} == {1}
    engine.run(plan.tiles[0], occluder, (5, 5))
    assert torch.equal(network.norm.running_mean, before)
