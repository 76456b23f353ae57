"""BYOL's network in real Haiku, its checkpoint by real dill, our conversion: equal features.

Run by `nox -s oracle` in an environment with JAX, Haiku and dill; skipped elsewhere.
"""

import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from medssl_models.catalog import model_card
from medssl_models.checkpoints.haiku_pickle import read_haiku_pickle
from medssl_models.conversion.convert import convert
from medssl_models.conversion.model_folder import read_state
from medssl_models.conversion.verification import features_of
from medssl_models.networks.trunks import build_trunk

# JAX and dill warn about their own internals.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("default")]

WIDTH = 4
SIZES = (64, 72, 97)  # even, odd inside, odd


class _ByolExperimentState(NamedTuple):
    online_params: Any
    target_params: Any
    online_state: Any
    target_state: Any
    opt_state: Any


class ScaleByLarsState(NamedTuple):
    mu: Any


def network(hk):
    """ResNet-50 v1 of Haiku at a small width, without its logits."""

    class Torso(hk.nets.ResNet):
        def __call__(self, x, is_training):
            x = self.initial_conv(x)
            x = self.initial_batchnorm(x, is_training=is_training)
            x = hk.max_pool(jax_relu(x), (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
            for group in self.block_groups:
                x = group(x, is_training=is_training, test_local_stats=False)
            return x.mean((1, 2))

    def jax_relu(x):
        return x * (x > 0)

    def run(x, is_training):
        torso = Torso(
            blocks_per_group=(3, 4, 6, 3),
            num_classes=10,
            bn_config={"decay_rate": 0.9},
            resnet_v2=False,
            bottleneck=True,
            channels_per_group=tuple(4 * WIDTH << stage for stage in range(4)),
            use_projection=(True,) * 4,
            initial_conv_config={"output_channels": WIDTH},
            name="res_net50",
        )
        features = torso(x, is_training)
        hk.Linear(10, name="classifier")(features)
        hk.Linear(4, name="projector")(features)
        return features

    return hk.transform_with_state(run)


def randomised(tree, rng):
    """Seeded values for every leaf, so that statistics are not those of a new network."""
    draws = {
        "w": lambda shape: rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape),
        "scale": lambda shape: rng.uniform(0.5, 1.5, shape),
        "offset": lambda shape: rng.normal(0, 0.2, shape),
        "b": lambda shape: rng.normal(0, 0.2, shape),
    }

    def draw(module, name, leaf):
        if name in {"average", "hidden"}:
            variance = module.endswith("var_ema")
            values = rng.uniform(0.5, 2, leaf.shape) if variance else rng.normal(0, 0.2, leaf.shape)
            return values.astype(np.float32)
        if name == "counter":
            return np.asarray(leaf)
        return draws[name](leaf.shape).astype(np.float32)

    return {
        module: {name: draw(module, name, leaf) for name, leaf in leaves.items()}
        for module, leaves in tree.items()
    }


@pytest.fixture(scope="module")
def source():
    """Weights of a real Haiku network, its inputs and its features."""
    jax = pytest.importorskip("jax")
    hk = pytest.importorskip("haiku")
    rng = np.random.default_rng(7)
    functions = network(hk)
    first = jax.numpy.zeros((1, 64, 64, 3))
    params, state = functions.init(jax.random.PRNGKey(0), first, True)
    params, state = randomised(params, rng), randomised(state, rng)
    inputs = {size: rng.normal(0, 1, (3, size, size, 3)).astype(np.float32) for size in SIZES}
    run = jax.jit(lambda x: functions.apply(params, state, None, x, False)[0])
    with jax.default_matmul_precision("highest"):
        features = {size: np.asarray(run(x)) for size, x in inputs.items()}
    return params, state, inputs, features


def write(path, params, state, *, protocol, mapping, leaf):
    dill = pytest.importorskip("dill")

    def wrapped(tree):
        inner = {name: {k: leaf(v) for k, v in leaves.items()} for name, leaves in tree.items()}
        return mapping({name: mapping(leaves) for name, leaves in inner.items()})

    sets = wrapped(params), wrapped(params), wrapped(state), wrapped(state)
    tree = {
        "experiment_state": _ByolExperimentState(*sets, [ScaleByLarsState(wrapped(params))]),
        "step": 300_000,
        "rng": np.array([0, 7], np.uint32),
    }
    with path.open("wb") as file:
        dill.dump(tree, file, protocol=protocol)
    return path


@pytest.fixture(params=["period", "flat mapping", "jax arrays", "protocol 5"])
def checkpoint(request, source, tmp_path):
    """The checkpoint as different versions of Haiku, JAX and dill write it."""
    jax = pytest.importorskip("jax")
    structures = pytest.importorskip("haiku._src.data_structures")
    protocol, mapping, leaf = {
        "period": (2, dict, np.asarray),
        "flat mapping": (2, structures.FlatMapping, np.asarray),
        "jax arrays": (2, dict, jax.numpy.asarray),
        "protocol 5": (5, dict, lambda array: np.asfortranarray(np.asarray(array))),
    }[request.param]
    return write(tmp_path / "byol.pkl", *source[:2], protocol=protocol, mapping=mapping, leaf=leaf)


def test_every_array_is_read_bit_by_bit(source, checkpoint):
    params, state, *_ = source
    arrays = read_haiku_pickle(checkpoint)
    for place, tree in (("online_params", params), ("target_state", state)):
        for module, leaves in tree.items():
            for name, expected in leaves.items():
                found = arrays[f"experiment_state/{place}/{module}/{name}"]
                assert found.dtype == expected.dtype
                np.testing.assert_array_equal(found, expected)


def relative_error(found, expected):
    return float(
        (np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max()
    )


def test_features_are_those_of_haiku(source, checkpoint, tmp_path, capsys):
    *_, inputs, features = source
    card = model_card("byol").replace(width=WIDTH, feature_dim=32 * WIDTH)
    done = convert(checkpoint, card, tmp_path / "byol")
    assert done.used == 265
    state = read_state(tmp_path / "byol")
    for size, pixels in inputs.items():
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        errors = {
            padding: relative_error(
                features_of(
                    build_trunk(card.architecture, padding=padding, width=WIDTH), state, x
                ).numpy(),
                features[size],
            )
            for padding in (card.padding, "torchvision")
        }
        with capsys.disabled():
            sys.stdout.write(f"\nbyol, {size} px, rel. L2 against Haiku: {errors}\n")
        assert errors[card.padding] < 1e-4
