"""The state of a run is read as it was written, or not at all."""

import numpy as np
import pytest
import torch
from medssl_models.checkpoints.run_state import read_run_state, write_run_state
from medssl_models.errors import CheckpointError
from safetensors.torch import save_file

TENSORS = {
    "weights": torch.linspace(-1, 1, 60).reshape(3, 4, 5),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "steps": torch.tensor(7),
    "none": torch.zeros(0, 2),
}
DOCUMENT = {"step": 7, "losses": [0.5, 0.25], "name": "ä"}


@pytest.fixture
def path(tmp_path):
    write_run_state(tmp_path / "run" / "state", TENSORS, DOCUMENT, kind="toy")
    return tmp_path / "run" / "state"


def test_everything_comes_back(path):
    tensors, document = read_run_state(path, kind="toy")
    assert document == DOCUMENT
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def flip(content, place):
    damaged = bytearray(content)
    damaged[place // 8] ^= 1 << place % 8
    return bytes(damaged)


def zeros(content, place):
    start = place // 8
    return content[:start] + bytes(min(64, len(content) - start)) + content[start + 64 :]


def cut(content, place):
    return content[: place // 8]


@pytest.mark.parametrize("damage", [flip, zeros, cut])
def test_no_damaged_state_is_used(path, damage):
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, 8 * len(whole), 400).tolist():
        path.write_bytes(damage(whole, place))
        if path.read_bytes() == whole:
            continue
        with pytest.raises(CheckpointError, match="state is"):
            read_run_state(path, kind="toy")


def test_another_file_is_no_state(path):
    with pytest.raises(CheckpointError, match="not the state of such a run, but of 'toy'"):
        read_run_state(path, kind="training")
    save_file({"w": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_run_state(path, kind="toy")


def test_a_number_that_is_none_is_refused_and_the_old_state_stays(path):
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_run_state(path, TENSORS, {"loss": float("nan")}, kind="toy")
    assert path.read_bytes() == before
