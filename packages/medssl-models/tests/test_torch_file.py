"""Torch files, zip and legacy: what is read, what is refused by name, and that none of it runs."""

import argparse
import builtins
import importlib
import os
import pickle
import subprocess
import sys
import types
import zipfile

import pytest
import torch
from medssl_models.checkpoints.opening import open_checkpoint
from medssl_models.checkpoints.torch_file import STAND_INS, flatten, read_torch_file
from medssl_models.cli import app
from medssl_models.console import run
from medssl_models.errors import CheckpointError, UnsafeCheckpointError

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def save(path, value, *, legacy=False):
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


class Reduces:
    """An object that is pickled as a call of anything."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


GADGETS = {
    "os.system": Reduces(os.system, ("true",)),
    "eval": Reduces(eval, ("1",)),
    "exec": Reduces(exec, ("",)),
    "__import__": Reduces(builtins.__import__, ("antigravity",)),
    "import_module": Reduces(importlib.import_module, ("antigravity",)),
    "subprocess": Reduces(subprocess.Popen, (["true"],)),
    "getattr": Reduces(getattr, ("text", "upper")),
    "torch.load": Reduces(torch.load, ("x",)),
    "torch.hub": Reduces(torch.hub.load, ("x", "y")),
    "a network": torch.nn.Linear(1, 1),
    "inside a dict": {"state_dict": {"w": torch.ones(1)}, "epoch": Reduces(os.system, ("true",))},
    "as the state of a stand-in": argparse.Namespace(lr=Reduces(os.system, ("true",))),
}


@FORMATS
@pytest.mark.parametrize("name", GADGETS)
def test_no_gadget_runs(tmp_path, monkeypatch, name, legacy):
    path = save(tmp_path / "evil.pth", GADGETS[name], legacy=legacy)

    def forbidden(*arguments, **options):
        pytest.fail(f"the file ran {arguments} {options}")

    with monkeypatch.context() as patched:
        for owner, function in ((os, "system"), (subprocess, "Popen"), (torch.hub, "load")):
            patched.setattr(owner, function, forbidden)
        with pytest.raises(UnsafeCheckpointError, match=r"it asks for .*nothing was run"):
            read_torch_file(path)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("command", [["inspect"], ["import", "supervised_r18"]])
def test_the_commands_refuse_a_malicious_file(tmp_path, monkeypatch, capsys, command):
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path / "home"))
    mark = tmp_path / "mark"
    path = save(tmp_path / "evil.pth", {"w": Reduces(os.mkdir, (str(mark),))})

    assert run(app, [*command, str(path)]) == 3
    shown = capsys.readouterr()
    assert not mark.exists()
    assert "posix.mkdir" in shown.err or "nt.mkdir" in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


@FORMATS
def test_what_training_scripts_put_beside_the_weights_is_forgotten(tmp_path, monkeypatch, legacy):
    """Lightning's callbacks are keys of a dict, and its classes need not be installed."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
    document = {
        "state_dict": {"w": torch.ones(2), "half": torch.ones(1).half()},
        "hyper_parameters": argparse.Namespace(lr=0.1, names=["a"]),
        "callbacks": {module.ModelCheckpoint: {"best": 1.0}},
        "optimizer_states": [{"state": {0: {"momentum": torch.zeros(3)}}}],
    }
    with monkeypatch.context() as patched:
        for parent in ("pytorch_lightning", "pytorch_lightning.callbacks"):
            patched.setitem(sys.modules, parent, types.ModuleType(parent))
        patched.setitem(sys.modules, name, module)
        path = save(tmp_path / "c.pt", document, legacy=legacy)
    assert f"{name}.ModelCheckpoint" in STAND_INS

    tensors = read_torch_file(path)

    assert set(tensors) == {
        "state_dict/w",
        "state_dict/half",
        "optimizer_states/0/state/0/momentum",
    }
    assert torch.equal(tensors["state_dict/w"], torch.ones(2))


@FORMATS
def test_a_truncated_file_is_refused_at_every_length(tmp_path, legacy):
    path = save(tmp_path / "c", {"w": torch.arange(8.0), "b": torch.ones(2)}, legacy=legacy)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            open_checkpoint(path)


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(CheckpointError, match="two tensors are called 'a/b/c'"):
        flatten({"a": {"b/c": torch.ones(1)}, "a/b": {"c": torch.ones(1)}})


def test_endless_nesting_is_refused():
    cycle = {"w": torch.ones(1)}
    cycle["again"] = cycle
    with pytest.raises(CheckpointError, match="nested deeper"):
        flatten(cycle)


@pytest.mark.parametrize("value", [{}, {"epoch": 3}, [1, "text"]], ids=str)
def test_a_file_without_tensors(tmp_path, value):
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_torch_file(save(tmp_path / "c", value))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"BZh9", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (bytes(257) + b"ustar\0", "tar archive"),
        (b"weights", "not a known container"),
    ],
)
def test_what_is_no_container_of_weights_is_told(tmp_path, head, words):
    (tmp_path / "c").write_bytes(head)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(tmp_path / "c")


def test_a_plain_pickle_is_no_torch_file(tmp_path):
    (tmp_path / "c").write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(CheckpointError, match="not a torch file"):
        read_torch_file(tmp_path / "c")


def doubled(levels, begin, pair):
    """A pickle of containers in containers, each twice in the next; the last is on the stack."""
    first = begin + b"q\0"
    return first + b"".join(b"h%ch%c" % (n, n) + pair + b"q%c" % (n + 1) for n in range(levels))


@FORMATS
@pytest.mark.parametrize("as_key", [True, False])
def test_shared_containers_take_no_time(tmp_path, legacy, as_key):
    """Hashed as a key, every path through the tuple counts: 10^18 here, which never ends."""
    if as_key:
        stream = b"\x80\x02}" + doubled(60, b")", b"\x86") + b"K\1s."
    else:
        stream = b"\x80\x02" + doubled(60, b"]", b"\x86") + b"."
    path = save(tmp_path / "a.pth", {"w": torch.ones(2)}, legacy=legacy)
    if legacy:
        content = path.read_bytes()
        start = content.index(b"\x80\x02}", 60)
        path.write_bytes(content[:start] + stream + content[start:])
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", stream)
            archive.writestr("a/version", "3")
    with pytest.raises(CheckpointError, match=r"holds others over|deeper"):
        read_torch_file(path)


def test_a_shared_list_is_walked_only_so_often():
    inner = []
    for _ in range(22):
        inner = [inner, inner]
    with pytest.raises(CheckpointError, match="more than 1,000,000 entries"):
        flatten({"a": inner})
