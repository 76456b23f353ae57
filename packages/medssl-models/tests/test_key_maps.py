"""Names of every source framework, and the rule that nothing is left unaccounted for."""

import re

import pytest
from medssl_models.card import DropRule, KeyMap, Rename
from medssl_models.conversion.key_maps import SCHEMES, creation_order, plan
from medssl_models.errors import CheckpointError
from medssl_models.testing.checkpoints import byol_tree, resnet_state, simclr_variables

EXPECTED = list(resnet_state(width=1))
HEAD = DropRule(name="head", pattern=r"fc\..*")


def test_a_prefix_goes_and_a_rule_drops():
    names = [f"module.{name}" for name in EXPECTED]
    key_map = KeyMap(
        prefix="module.", drops=(DropRule(name="head", pattern=r"module\.fc\.\d\.weight"),)
    )
    found = plan([*names, "module.fc.0.weight"], key_map, EXPECTED)
    assert found.used == {name: f"module.{name}" for name in EXPECTED}
    assert found.dropped == {"module.fc.0.weight": "head"}


def test_drop_rules_match_whole_names_only():
    with pytest.raises(CheckpointError, match=r"no rule accounts for: fc\.weight\.extra"):
        plan(
            [*EXPECTED, "fc.weight.extra"],
            KeyMap(drops=(DropRule(name="head", pattern=r"fc\.weight"),)),
            EXPECTED,
        )


@pytest.mark.parametrize("declared", ["", "state_dict", "model"])
@pytest.mark.parametrize("wrapper", ["", "state_dict", "model"])
def test_a_customary_wrapper_may_be_there_or_not(declared, wrapper):
    inside = f"{wrapper}/" if wrapper else ""
    names = [inside + name for name in EXPECTED]
    others = ["optimizer/state/0/momentum", "epoch"] if wrapper else []
    found = plan([*names, *others], KeyMap(top_level=declared), EXPECTED)
    assert set(found.used.values()) == set(names)
    assert found.dropped == dict.fromkeys(others, "outside the weights")


def test_renames_apply_after_the_prefix():
    names = [name.replace("bn1", "norm.1") for name in EXPECTED]
    key_map = KeyMap(renames=(Rename(pattern=r"norm\.(\d)", replacement=r"bn\1"),))
    assert set(plan(names, key_map, EXPECTED).used) == set(EXPECTED)


def test_everything_that_is_wrong_is_listed():
    names = [*EXPECTED[2:], *(f"surplus.{i}" for i in range(10))]
    with pytest.raises(CheckpointError) as caught:
        plan(names, KeyMap(), EXPECTED)
    message = str(caught.value)
    assert "10 tensors that no rule accounts for: surplus.0, " in message
    assert "and 2 more" in message
    assert f"2 parameters missing: {EXPECTED[0]}, {EXPECTED[1]}" in message


def test_two_sources_of_one_parameter_are_refused():
    key_map = KeyMap(renames=(Rename(pattern=r"^other\.", replacement=""),))
    with pytest.raises(CheckpointError, match=r"'conv1\.weight' and 'other\.conv1\.weight' both"):
        plan([*EXPECTED, "other.conv1.weight"], key_map, EXPECTED)


def test_counters_of_batchnorm_may_be_missing():
    plan(EXPECTED, KeyMap(), [*EXPECTED, "bn1.num_batches_tracked"])


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_creation_order_puts_the_shortcut_first(architecture):
    order = creation_order(resnet_state(architecture, width=1))
    assert order[0] == ("conv1", "bn1")
    if architecture == "resnet50":  # the numbers of the published checkpoint
        assert len(order) == 53
        assert order[1] == ("layer1.0.downsample.0", "layer1.0.downsample.1")
        assert order[2] == ("layer1.0.conv1", "layer1.0.bn1")
        assert order[5][0] == "layer1.1.conv1"
        assert order[11][0] == "layer2.0.downsample.0"
        assert order[52] == ("layer4.2.conv3", "layer4.2.bn3")


@pytest.mark.parametrize("stem", ["initial_conv", "initial_conv_1"])
def test_haiku_names(stem):
    params, averages = byol_tree(resnet_state(width=1), stem=stem)
    name_of = SCHEMES["haiku_resnet"](EXPECTED)
    trees = {"params": params, "state": averages}
    found = {
        name_of(f"{tree}/{module}/{leaf}")
        for tree, modules in trees.items()
        for module, leaves in modules.items()
        for leaf in leaves
    }
    assert found - {None} == set(EXPECTED)


@pytest.mark.parametrize(
    "name",
    [
        "params/res_net50/~/initial_conv_x/w",
        "params/res_net50/~/block_group_0/~/block_0/~/conv/w",
        "params/res_net50/~/block_group_0/~/block_0/~/shortcut_conv_1/w",
        "params/res_net50/~/block_group_0/~/block_0/~/mystery_0/w",
        "state/res_net50/~/initial_batchnorm/~/mean_ema/hidden",
        "res_net50/~/initial_conv/w",
        "params/classifier/w",
    ],
)
def test_other_haiku_names_mean_nothing(name):
    assert SCHEMES["haiku_resnet"](EXPECTED)(name) is None


def test_tensorflow_names():
    name_of = SCHEMES["tf_resnet"](EXPECTED)
    variables = simclr_variables(resnet_state(width=1))
    found = {name_of(re.sub("^base_model/", "", name)) for name in variables}
    assert found - {None} == set(EXPECTED)
    for name in ("conv2d_53/kernel", "conv2d_01/kernel", "conv2d/bias", "conv2d_1/gamma", "x"):
        assert name_of(name) is None
