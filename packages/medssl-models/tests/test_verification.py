"""Verification finds each kind of change to a converted folder."""

import json
import os

import numpy as np
import pytest
import torch
from medssl_models.card import KeyMap, ModelCard
from medssl_models.conversion.convert import convert
from medssl_models.conversion.model_folder import read_origin, read_state
from medssl_models.conversion.verification import seeded_input, verify
from medssl_models.errors import CheckpointError
from medssl_models.preprocessing import Preprocessing
from medssl_models.testing.checkpoints import resnet_state
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    state = {name: torch.tensor(array) for name, array in resnet_state("resnet18", width=2).items()}
    save_file(state, folder / "c")
    tiny = ModelCard(
        name="tiny",
        summary="A narrow ResNet-18.",
        architecture="resnet18",
        width=2,
        feature_dim=16,
        preprocessing=Preprocessing(resize=72, crop=64, normalisation={"kind": "imagenet"}),
        key_map=KeyMap(),
        licence="CC0-1.0",
    )
    convert(folder / "c", tiny, folder / "tiny")
    return folder / "tiny"


@pytest.fixture
def folder(pristine, tmp_path):
    copy = tmp_path / "tiny"
    copy.mkdir()
    for file in pristine.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def failed(folder):
    return {check.name: check.detail for check in verify(folder).checks if not check.passed}


def change_tensor(folder, name, change):
    state = load_file(folder / "model.safetensors")
    state[name] = change(state[name])
    save_file(state, folder / "model.safetensors")


def change_record(folder, change):
    path = folder / "config.json"
    document = json.loads(path.read_text())
    change(document["medssl"])
    path.write_text(json.dumps(document))


def test_a_converted_folder_passes(folder):
    result = verify(folder)
    assert result.passed
    assert [check.name for check in result.checks] == [
        "files",
        "hash",
        "keys and shapes",
        "values",
        "statistics",
        "features",
    ]


def test_one_changed_value_is_found(folder):
    change_tensor(folder, "layer1.0.bn1.bias", lambda tensor: tensor + 0.01)
    found = failed(folder)
    assert found.keys() == {"hash", "statistics", "features"}
    assert "layer1.0.bn1.bias has mean" in found["statistics"]


def test_a_permutation_keeps_the_statistics_but_not_the_features(folder):
    change_tensor(folder, "conv1.weight", lambda tensor: tensor.flip(0).contiguous())
    assert failed(folder).keys() == {"hash", "features"}


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda t: t * float("nan"), "values"),
        (lambda t: -t, "values"),
        (lambda t: t.double(), "keys and shapes"),
        (lambda t: t[:1], "keys and shapes"),
    ],
)
def test_impossible_values_and_shapes_are_found(folder, change, check):
    change_tensor(folder, "bn1.running_var", change)
    assert failed(folder).keys() == {"hash", check}


def test_a_missing_and_a_surplus_tensor_are_named(folder):
    state = load_file(folder / "model.safetensors")
    state["other"] = state.pop("conv1.weight")
    save_file(state, folder / "model.safetensors")
    detail = failed(folder)["keys and shapes"]
    assert "conv1.weight is missing" in detail
    assert "other does not belong here" in detail


def test_another_padding_in_the_record_is_found(folder):
    change_record(folder, lambda record: record["card"].update(padding="tf_same"))
    assert failed(folder).keys() == {"features"}


@pytest.mark.parametrize("value", ["!", "AAAA", ""])
def test_broken_stored_features_are_found(folder, value):
    change_record(folder, lambda record: record["proof"].update(features=value))
    assert failed(folder).keys() == {"features"}


def test_missing_stored_statistics_are_found(folder):
    change_record(folder, lambda record: record["proof"]["statistics"].popitem())
    assert failed(folder).keys() == {"statistics"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b"\x08" + b"\0" * 7 + b"{"])
def test_a_broken_file_is_a_failed_check(folder, name, content):
    path = folder / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert failed(folder).keys() == {"files"}


def test_truncated_weights_are_a_failed_check(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert failed(folder).keys() == {"files"}


def test_the_seeded_input_never_changes():
    """Values of the raw PCG64 stream: a change here would fail every stored proof."""
    x = seeded_input(0)
    assert x.shape == (2, 3, 64, 64)
    assert x.dtype == torch.float32
    assert -1 <= float(x.min()) < -0.99
    assert 0.99 < float(x.max()) < 1
    expected = np.random.PCG64(0).random_raw(3) / 2.0**63 - 1
    np.testing.assert_allclose(x.ravel()[:3].numpy(), expected, atol=2**-22)
    assert not torch.equal(x, seeded_input(1))


def test_every_flipped_bit_is_found_and_never_used(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    places = np.random.default_rng(0).integers(0, 8 * len(whole), 400)
    for number, place in enumerate(places.tolist()):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        os.utime(path, ns=(number, number))  # files written within one tick of the clock
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            read_state(folder)
        if number % 40 == 0:
            assert failed(folder).keys() & {"hash", "files"}
    path.write_bytes(whole)
    assert not failed(folder)


def test_weights_of_before_the_hash_was_kept_are_read(folder):
    change_record(folder, lambda record: record.pop("weights"))
    assert read_state(folder)
    assert not failed(folder)


def test_a_conversion_is_the_same_byte_for_byte_and_readable_by_others(pristine, tmp_path):
    card = read_origin(pristine).card
    for name in ("one", "two"):
        convert(pristine.parent / "c", card, tmp_path / name)
        for file in ("model.safetensors", "config.json", "README.md"):
            assert (tmp_path / name / file).read_bytes() == (pristine / file).read_bytes()
    modes = {path.stat().st_mode for path in (tmp_path / "one").iterdir()}
    assert len(modes) == 1
