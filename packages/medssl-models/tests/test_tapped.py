"""Networks of others as trunks: layers are read, names stay, nothing deeper than asked for runs."""

import copy

import pytest
import torch
from medssl_models.errors import InputRangeError
from medssl_models.networks.tapped import TappedNetwork
from torch import nn


class Counted(nn.Module):
    """The last stage of a network; counts how often it runs."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.pool(x).flatten(1)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), Counted()
        )


@pytest.fixture
def tapped():
    return TappedNetwork(network(), {"stem": "0", "body": "2"}, feature_dim=5).eval()


X = torch.linspace(-1, 1, 2 * 3 * 9 * 9).reshape(2, 3, 9, 9)


def test_layers_are_what_the_modules_give(tapped):
    plain = network()
    taps = tapped.run(X, ("pooled", "body", "stem"))

    assert tapped.layers == ("stem", "body", "pooled")
    # The ReLU behind the stem works in place and must not change what was read.
    assert torch.equal(taps["stem"], plain[0](X))
    assert torch.equal(taps["body"], plain[2](plain[0](X).relu()))
    assert torch.equal(taps["pooled"], plain(X))
    assert torch.equal(tapped(X), plain(X))


def test_what_lies_deeper_does_not_run(tapped):
    assert tapped.run(X, ("stem", "body")).keys() == {"stem", "body"}
    assert tapped.network[3].calls == 0


def test_no_hook_stays_behind(tapped):
    tapped.run(X, ("stem",))
    with pytest.raises(RuntimeError):
        tapped.run(X[:, :2], ("body", "pooled"))

    assert not any(module._forward_hooks for module in tapped.modules())


def test_the_state_has_the_names_of_the_network(tapped):
    plain = network()

    assert tapped.state_dict().keys() == plain.state_dict().keys()
    outer = nn.ModuleDict({"trunk": copy.deepcopy(tapped)})
    assert set(outer.state_dict()) == {f"trunk.{name}" for name in plain.state_dict()}
    doubled = {name: tensor * 2 for name, tensor in plain.state_dict().items()}
    tapped.load_state_dict(doubled, assign=True)
    assert torch.equal(tapped.network[0].weight, doubled["0.weight"])
    outer.load_state_dict({f"trunk.{name}": tensor for name, tensor in doubled.items()})
    assert torch.equal(outer["trunk"].network[2].bias, doubled["2.bias"])


def test_missing_and_surplus_names_are_refused(tapped):
    state = network().state_dict()
    state["other"] = state.pop("0.bias")

    with pytest.raises(RuntimeError, match="other"):
        tapped.load_state_dict(state)


def test_a_side_that_the_network_cannot_take_is_named():
    fixed = TappedNetwork(network(), {}, feature_dim=5, fixed_side=9)

    assert fixed(X).shape == (2, 5)
    with pytest.raises(InputRangeError, match="8 x 9 pixels, this network takes only 9 x 9"):
        fixed(X[:, :, 1:])
