"""SimCLR's network in real TensorFlow, its real checkpoint, our conversion: equal features.

Run by `nox -s oracle` in an environment with TensorFlow; skipped elsewhere.
"""

import sys

import numpy as np
import pytest
import torch
from medssl_models.catalog import model_card
from medssl_models.checkpoints.opening import open_checkpoint
from medssl_models.conversion.convert import convert
from medssl_models.conversion.model_folder import read_state
from medssl_models.conversion.verification import features_of
from medssl_models.networks.trunks import build_trunk

# TensorFlow warns about its own internals while it is imported and in graph mode.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("default")]

BLOCKS = (3, 4, 6, 3)
SIZES = (64, 72, 97)  # even, odd inside, odd


class Graph:
    """ResNet-50 as SimCLR builds it: layers are numbered as they are made, shortcuts first."""

    def __init__(self, tf, width):
        self.tf, self.v1, self.width, self.count = tf, tf.compat.v1, width, 0
        self.rng = np.random.default_rng(7)

    def variable(self, name, values):
        return self.v1.get_variable(name, initializer=np.float32(values))

    def unit(self, x, filters, kernel, stride):
        """A convolution with SimCLR's fixed padding, and its BatchNorm in inference mode."""
        suffix = f"_{self.count}" if self.count else ""
        self.count += 1
        channels, rng = int(x.shape[-1]), self.rng
        shape = (kernel, kernel, channels, filters)
        scale = np.sqrt(2 / (kernel * kernel * channels))
        weight = self.variable(f"conv2d{suffix}/kernel", rng.normal(0, scale, shape))
        if stride > 1:  # padding by the kernel's size, not by the input's
            before = (kernel - 1) // 2
            sides = [before, kernel - 1 - before]
            x = self.tf.pad(x, [[0, 0], sides, sides, [0, 0]])
        x = self.tf.nn.conv2d(x, weight, stride, "SAME" if stride == 1 else "VALID")
        scope = f"batch_normalization{suffix}"
        return self.tf.nn.batch_normalization(
            x,
            mean=self.variable(f"{scope}/moving_mean", rng.normal(0, 0.2, filters)),
            variance=self.variable(f"{scope}/moving_variance", rng.uniform(0.5, 2, filters)),
            offset=self.variable(f"{scope}/beta", rng.normal(0, 0.2, filters)),
            scale=self.variable(f"{scope}/gamma", rng.uniform(0.5, 1.5, filters)),
            variance_epsilon=1e-5,
        )

    def block(self, x, filters, stride, *, first):
        relu = self.tf.nn.relu
        shortcut = self.unit(x, 4 * filters, 1, stride) if first else x
        x = relu(self.unit(x, filters, 1, 1))
        x = relu(self.unit(x, filters, 3, stride))
        return relu(self.unit(x, 4 * filters, 1, 1) + shortcut)

    def features(self, x):
        x = self.tf.nn.relu(self.unit(x, self.width, 7, 2))
        x = self.tf.nn.max_pool2d(x, 3, 2, "SAME")
        for stage, blocks in enumerate(BLOCKS):
            for number in range(blocks):
                stride = 2 if stage and not number else 1
                x = self.block(x, self.width << stage, stride, first=not number)
        return self.tf.reduce_mean(x, [1, 2])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A checkpoint that TensorFlow wrote, and the features that it computes."""
    tf = pytest.importorskip("tensorflow")
    v1, width = tf.compat.v1, 8
    prefix = tmp_path_factory.mktemp("simclr") / "model.ckpt-225206"
    features, pixels = {}, {}
    with tf.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder(tf.float32, (None, None, None, 3))
        with v1.variable_scope("base_model"):
            output = Graph(tf, width).features(image)
        with v1.variable_scope("head_supervised/linear_layer/dense"):
            v1.get_variable("kernel", (32 * width, 10))
            v1.get_variable("bias", 10)
        v1.train.get_or_create_global_step()
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(prefix), write_meta_graph=False)
        for size in SIZES:
            pixels[size] = np.random.default_rng(size).random((3, size, size, 3), np.float32)
            features[size] = session.run(output, {image: pixels[size]})
    reader = tf.train.load_checkpoint(str(prefix))
    stored = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    return prefix.parent, width, stored, pixels, features


def relative_error(found, expected):
    return float(
        (np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max()
    )


def test_every_variable_is_read_bit_by_bit(source):
    folder, _, stored, *_ = source
    arrays = open_checkpoint(folder).tensors
    assert arrays.keys() == stored.keys()
    assert len(arrays) == 268
    for name, expected in stored.items():
        assert arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(arrays[name], expected)


@pytest.mark.parametrize("size", SIZES)
def test_features_are_those_of_tensorflow(source, tmp_path, capsys, size):
    folder, width, _, pixels, features = source
    card = model_card("simclr-v1").replace(width=width, feature_dim=32 * width)
    convert(folder, card, tmp_path / "simclr")
    state = read_state(tmp_path / "simclr")
    x = torch.from_numpy(pixels[size]).permute(0, 3, 1, 2)
    errors = {
        padding: relative_error(
            features_of(
                build_trunk(card.architecture, padding=padding, width=width), state, x
            ).numpy(),
            features[size],
        )
        for padding in (card.padding, "torchvision")
    }
    with capsys.disabled():
        sys.stdout.write(f"\nsimclr, {size} px, rel. L2 against TensorFlow: {errors}\n")
    assert errors[card.padding] < 1e-4
