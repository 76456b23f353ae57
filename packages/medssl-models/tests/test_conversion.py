"""Conversions: the same weights through every container, and every way to be the wrong file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from medssl_models.card import DropRule, KeyMap, ModelCard
from medssl_models.catalog import model_card
from medssl_models.checkpoints.opening import open_checkpoint
from medssl_models.conversion.convert import assemble, convert
from medssl_models.conversion.key_maps import plan
from medssl_models.conversion.model_folder import read_origin, read_state
from medssl_models.conversion.verification import features_of
from medssl_models.errors import CheckpointError, SettingsError
from medssl_models.networks.trunks import build_trunk
from medssl_models.preprocessing import Normalisation, Preprocessing
from medssl_models.testing.checkpoints import (
    byol_tree,
    resnet_state,
    simclr_variables,
    write_byol_pickle,
    write_tf_bundle,
    write_tf_zip,
)
from safetensors.torch import load_file, save_file

SHARED = Path(__file__).parents[4] / "shared" / "fixtures"
recorded = pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded checkpoints are not here")

TF_MAP = model_card("simclr-v1").key_map
HAIKU_MAP = model_card("byol").key_map
TORCH_MAP = KeyMap(
    top_level="state_dict",
    prefix="module.encoder_q.",
    drops=(DropRule(name="head", pattern=r"module\.encoder_q\.fc\..*"),),
)


def card(key_map, *, width=2, padding="torchvision"):
    return ModelCard(
        name="tiny",
        summary="A narrow ResNet-50.",
        architecture="resnet50",
        width=width,
        feature_dim=32 * width,
        padding=padding,
        preprocessing=Preprocessing(resize=72, crop=64, normalisation={"kind": "none"}),
        key_map=key_map,
        licence="CC0-1.0",
    )


@pytest.fixture(scope="module")
def state():
    return resnet_state(width=2)


def write_torch(path, state, **others):
    tensors = {f"module.encoder_q.{name}": torch.tensor(array) for name, array in state.items()}
    tensors["module.encoder_q.fc.0.weight"] = torch.ones(2, 2)
    torch.save({"state_dict": tensors | others, "epoch": 200, "arch": "resnet50"}, path)
    return path


WRITERS = {
    "torch": (TORCH_MAP, lambda folder, state: write_torch(folder / "c", state)),
    "safetensors": (
        KeyMap(),
        lambda folder, state: (
            save_file({k: torch.tensor(v) for k, v in state.items()}, folder / "c"),
            folder / "c",
        )[1],
    ),
    "tf_bundle": (
        TF_MAP,
        lambda folder, state: write_tf_bundle(folder / "c", simclr_variables(state), shards=2),
    ),
    "tf_zip": (
        TF_MAP,
        lambda folder, state: write_tf_zip(folder / "c", simclr_variables(state), folder=folder),
    ),
    "haiku_2": (
        HAIKU_MAP,
        lambda folder, state: write_byol_pickle(
            folder / "c", *byol_tree(state, stem="initial_conv_1")
        ),
    ),
    "haiku_4": (
        HAIKU_MAP,
        lambda folder, state: write_byol_pickle(folder / "c", *byol_tree(state), protocol=4),
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_container_gives_the_same_weights(tmp_path, state, name):
    key_map, write = WRITERS[name]
    done = convert(write(tmp_path, state), card(key_map), tmp_path / "out" / "tiny")
    weights = load_file(tmp_path / "out" / "tiny" / "model.safetensors")
    assert len(weights) == 318
    for key, expected in state.items():
        assert weights[key].dtype == torch.float32
        np.testing.assert_array_equal(weights[key].numpy(), expected)
    assert weights["bn1.num_batches_tracked"] == 0
    assert done.used == 265
    assert all(len(digest) == 64 for digest in done.origin.sources.values())
    entries = sorted(entry.name for entry in (tmp_path / "out").rglob("*"))
    assert entries == ["README.md", "config.json", "model.safetensors", "tiny"]


def test_the_documents_say_what_was_done(tmp_path, state):
    out = tmp_path / "tiny"
    convert(write_torch(tmp_path / "c.pth", state), card(TORCH_MAP), out)
    config = json.loads((out / "config.json").read_text())
    assert config["architecture"] == "resnet50"
    assert config["pretrained_cfg"]["input_size"] == [3, 64, 64]
    assert config["pretrained_cfg"]["crop_pct"] == pytest.approx(64 / 72)
    origin = read_origin(out)
    assert origin.card == card(TORCH_MAP)
    assert origin.container == "torch"
    assert origin.dropped == {"head": 1}
    assert list(origin.sources) == ["c.pth"]
    readme = (out / "README.md").read_text()
    assert readme.startswith("---\nlibrary_name: timm\n")
    assert "- head: 1 tensors" in readme
    assert origin.sources["c.pth"] in readme


def test_a_folder_that_exists_is_kept_unless_forced(tmp_path, state):
    source, out = write_torch(tmp_path / "c", state), tmp_path / "tiny"
    convert(source, card(TORCH_MAP), out)
    (out / "mark").touch()
    with pytest.raises(SettingsError, match="set force"):
        convert(source, card(TORCH_MAP), out)
    assert (out / "mark").exists()
    convert(source, card(TORCH_MAP), out, force=True)
    assert not (out / "mark").exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["c", "tiny"]


def test_a_full_disk_leaves_nothing(tmp_path, state, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    source = write_torch(tmp_path / "c", state)
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        convert(source, card(TORCH_MAP), tmp_path / "tiny")
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]


def changed(state, **changes):
    return state | {name.replace("__", "."): value for name, value in changes.items()}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"conv1__weight": np.ones((2, 3, 3, 3), np.float32)}, r"conv1\.weight is \(2, 3, 3, 3\)"),
        ({"bn1__bias": np.array([0, np.nan], np.float32)}, r"bn1\.bias has values that are not"),
        ({"bn1__bias": np.array([0, 1e300])}, "not finite"),
        ({"bn1__running_var": np.array([1, -1], np.float32)}, "negative variances"),
        ({"bn1__weight": np.array([1, 2], np.int64)}, r"torch\.int64, expected floating"),
        ({"surplus": np.ones(1, np.float32)}, "no rule accounts for: state_dict/module"),
    ],
)
def test_a_wrong_tensor_is_named_and_nothing_is_written(tmp_path, state, change, reason):
    source = write_torch(tmp_path / "c", changed(state, **change))
    with pytest.raises(CheckpointError, match=reason):
        convert(source, card(TORCH_MAP), tmp_path / "tiny")
    assert not (tmp_path / "tiny").exists()


def test_half_precision_weights_become_float32(tmp_path, state):
    half = {name: array.astype(np.float16) for name, array in state.items()}
    convert(write_torch(tmp_path / "c", half), card(TORCH_MAP), tmp_path / "tiny")
    weights = read_state(tmp_path / "tiny")
    np.testing.assert_array_equal(weights["conv1.weight"], half["conv1.weight"].astype("f4"))


def test_another_models_checkpoint_is_refused(tmp_path):
    other = resnet_state("resnet18", width=2)
    with pytest.raises(CheckpointError, match="another model"):
        convert(write_torch(tmp_path / "c", other), card(TORCH_MAP), tmp_path / "tiny")


ONE_FILE = [name for name in WRITERS if name != "tf_bundle"]  # its data file lies beside it


@pytest.mark.parametrize("name", ONE_FILE)
@pytest.mark.parametrize("extension", [".zip", ".pkl", ".pth.tar", ".safetensors"])
def test_content_decides_and_not_the_name(tmp_path, state, name, extension):
    key_map, write = WRITERS[name]
    renamed = write(tmp_path, state).rename(tmp_path / f"weights{extension}")
    container = {"haiku": "haiku_pickle", "tf": "tf_bundle"}
    kind = name.partition("_")[0]
    assert open_checkpoint(renamed).container == container.get(kind, kind)
    if extension == ".zip":
        assert convert(renamed, card(key_map), tmp_path / "tiny").used == 265


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused_and_nothing_is_written(tmp_path, state, name, share):
    key_map, write = WRITERS[name]
    path = write(tmp_path, state)
    cut = next(tmp_path.glob("*.data-00001-*")) if name == "tf_bundle" else path
    cut.write_bytes(cut.read_bytes()[: int(share * cut.stat().st_size)])
    with pytest.raises(CheckpointError):
        convert(path, card(key_map), tmp_path / "tiny")
    assert not list(tmp_path.glob("*tiny*"))


@pytest.mark.parametrize("name", WRITERS)
def test_the_checkpoint_of_another_model_is_refused_in_every_container(tmp_path, state, name):
    other = {"torch": "byol", "tf_bundle": "swav", "tf_zip": "byol", "safetensors": "moco-v2"}
    wrong = card(model_card(other.get(name, "simclr-v1")).key_map)
    with pytest.raises(CheckpointError, match="not converted to tiny"):
        convert(WRITERS[name][1](tmp_path, state), wrong, tmp_path / "tiny")
    assert not list(tmp_path.glob("*tiny*"))


def test_repeated_names_in_safetensors_are_refused(tmp_path):
    entry = '"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = f"{{{entry},{entry}}}".encode()
    (tmp_path / "c").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match="it has 'w' twice"):
        open_checkpoint(tmp_path / "c")


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such file"):
        convert(tmp_path / "c", card(TORCH_MAP), tmp_path / "tiny")


def test_a_shard_opens_its_checkpoint(tmp_path, state):
    index = write_tf_bundle(tmp_path / "model.ckpt-1", simclr_variables(state), shards=2)
    shards = sorted(tmp_path.glob("*.data-*"))
    for path in (index, tmp_path, *shards):
        opened = open_checkpoint(path)
        assert opened.container == "tf_bundle"
        assert {file.name for file in opened.files} == {index.name, *(s.name for s in shards)}


def source_state(path, key_map):
    source = open_checkpoint(path).tensors
    expected = build_trunk("resnet50", width=2).state_dict()
    mapping = plan(source, key_map, expected)
    return assemble(source, mapping, expected, scheme=key_map.scheme), source


def features(weights, x, padding):
    return features_of(build_trunk("resnet50", padding=padding, width=2), weights, x).numpy()


def relative_errors(found, expected):
    return np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)


NONE = Normalisation(kind="none")
IMAGENET = Normalisation(kind="imagenet")  # BYOL's code normalises inside its network
CASES = {
    "simclr": ("simclr_w2", ".", TF_MAP, "tf_same_pool", NONE),
    "byol, period": ("byol_w2", "period_flatmapping_p2.pkl", HAIKU_MAP, "tf_same", IMAGENET),
    "byol, 4": ("byol_w2", "period_dict_p4_fortran.pkl", HAIKU_MAP, "tf_same", IMAGENET),
    "byol, modern": ("byol_w2", "modern_dill.pkl", HAIKU_MAP, "tf_same", IMAGENET),
}


@recorded
@pytest.mark.parametrize("case", CASES)
def test_features_of_the_source_network_are_reproduced(case):
    """Reference features were computed by TensorFlow 2.15 and Haiku 0.0.17."""
    folder, file, key_map, padding, normalisation = CASES[case]
    weights, _ = source_state(SHARED / folder / file, key_map)
    own = Preprocessing(resize=64, crop=64, normalisation=normalisation)
    with np.load(SHARED / folder / "io.npz") as stored:
        pixels, expected = torch.from_numpy(stored["x64"]).permute(0, 3, 1, 2), stored["f64"]
    x = own.normalise(pixels)
    assert relative_errors(features(weights, x, padding), expected).max() < 1e-4
    plain = relative_errors(features(weights, x, "torchvision"), expected)
    assert plain.min() > 0.1  # what the wrong padding costs: some 0.6 for both


@recorded
def test_recorded_variables_are_taken_over_bit_by_bit():
    weights, source = source_state(SHARED / "simclr_w2", TF_MAP)
    kernel = source["base_model/conv2d_1/kernel"]
    np.testing.assert_array_equal(
        weights["layer1.0.downsample.0.weight"].numpy(), kernel.transpose(3, 2, 0, 1)
    )
    np.testing.assert_array_equal(
        weights["layer4.2.bn3.running_var"].numpy(),
        source["base_model/batch_normalization_52/moving_variance"],
    )
    period, _ = source_state(SHARED / "byol_w2" / "period_flatmapping_p2.pkl", HAIKU_MAP)
    modern, _ = source_state(SHARED / "byol_w2" / "modern_dill.pkl", HAIKU_MAP)
    assert all(torch.equal(period[name], modern[name]) for name in period)
