"""Mutations of valid checkpoints: a reader gives arrays or its own error, within bounded memory.

`nox -s fuzz` runs the same properties with many more examples: HYPOTHESIS_PROFILE=fuzz.
"""

import argparse
import contextlib
import io
import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from medssl_models.checkpoints.archive import Archive
from medssl_models.checkpoints.haiku_pickle import parse_haiku_pickle
from medssl_models.checkpoints.safetensors_file import read_safetensors
from medssl_models.checkpoints.tf_bundle import parse_tf_bundle, read_tf_bundle
from medssl_models.checkpoints.torch_file import read_torch_file
from medssl_models.errors import CheckpointError
from medssl_models.testing.checkpoints import Call, index_bytes, pickle_bytes, write_tf_zip
from safetensors.torch import save

# A million opcodes of at most 400 bytes each, and names: what a small hostile file may cost.
MEMORY = 512 * 2**20

# The fixtures are files that every example of a test shares.
QUICK = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile("fuzz", QUICK, max_examples=20_000, derandomize=False)
FUZZING = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"
BUDGET = settings.get_profile("fuzz") if FUZZING else QUICK

ARRAY = np.arange(100, dtype=np.float32)
TREE = {"a": Call("haiku._src.data_structures FlatMapping", ({"w": ARRAY, "b": ARRAY[:3]},))}
PLAIN = {"a": {"w": ARRAY, "b": ARRAY.astype(">f8")}, "s": (1, "text", None, 2.5, [True])}
PICKLES = [
    pickle_bytes(TREE),
    pickle_bytes(TREE, protocol=4),
    *(pickle.dumps(PLAIN, protocol=protocol) for protocol in range(6)),
]
VARIABLES = {"a/w": ARRAY, "a/b": ARRAY[:3].astype(np.int64), "c": np.array(1, np.int32)}

edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "delete", "insert", "repeat", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=6,
)


def mutate(data, changes):
    for kind, place, octets in changes:
        at = int(place * len(data))
        end = at + len(octets)
        match kind:
            case "set":
                data = data[:at] + octets + data[end:]
            case "delete":
                data = data[:at] + data[end:]
            case "insert":
                data = data[:at] + octets + data[at:]
            case "repeat":
                data = data[:end] + data[at:]
            case "cut":
                data = data[:at] if place > 0.5 else data
    return data


def read_all(arrays):
    for name in arrays:
        assert isinstance(arrays[name], np.ndarray)


def resident(field):
    """Memory of this process in bytes, as Linux tells it: VmRSS now, VmHWM at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


@pytest.fixture(autouse=True)
def bounded():
    """Whatever a test reads, the process grows by less than the bound, torch's memory included."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    except OSError:  # not Linux, or a sandbox: then only the other tests bound it
        yield
        return
    before = resident("VmRSS")
    yield
    assert resident("VmHWM") - before < MEMORY


@given(st.sampled_from(PICKLES), edits)
@BUDGET
def test_mutated_pickles(data, changes):
    with contextlib.suppress(CheckpointError):
        read_all(parse_haiku_pickle(mutate(data, changes)))


@given(st.binary(max_size=60))
@BUDGET
def test_arbitrary_opcodes(data):
    with contextlib.suppress(CheckpointError):
        read_all(parse_haiku_pickle(b"\x80\x04" + data + b"."))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    archive = write_tf_zip(folder / "a.zip", VARIABLES, folder=folder)
    index = (folder / "model.ckpt-225206.index").read_bytes()
    shard = (folder / "model.ckpt-225206.data-00000-of-00001").read_bytes()
    return index, shard, archive


@given(changes=edits)
@BUDGET
def test_mutated_indices(checkpoint, changes):
    index, shard, _ = checkpoint
    with contextlib.suppress(CheckpointError):
        read_all(parse_tf_bundle(mutate(index, changes), lambda *_: memoryview(shard)))


@given(
    st.dictionaries(st.binary(max_size=6), st.binary(max_size=40), max_size=5),
    st.binary(max_size=12),
)
@BUDGET
def test_arbitrary_entries_behind_valid_checksums(entries, header):
    """Mutations rarely pass the checksums; these always do."""
    index = index_bytes({b"": b"\x08\x01" + header} | entries)
    with contextlib.suppress(CheckpointError):
        read_all(parse_tf_bundle(index, lambda *_: memoryview(bytes(64))))


@given(changes=edits)
@BUDGET
def test_mutated_archives(checkpoint, tmp_path_factory, changes):
    archive = checkpoint[2]
    path = archive.with_name("mutated.zip")
    path.write_bytes(mutate(archive.read_bytes(), changes))
    with contextlib.suppress(CheckpointError), Archive(path) as opened:
        for name in opened.names:
            opened.read(name)
    with contextlib.suppress(CheckpointError):
        read_all(read_tf_bundle(path))


# -- torch files and safetensors ---------------------------------------------------------------
SHARED = torch.arange(12.0)
TENSORS = {
    "state_dict": {"w": SHARED, "view": SHARED[2:8].reshape(2, 3).T, "half": SHARED.half()},
    "count": torch.tensor(3),
    "args": argparse.Namespace(lr=0.1),
    "more": [torch.zeros(0), (torch.ones(2, 2).bfloat16(), None, "text")],
}


def torch_bytes(*, legacy):
    buffer = io.BytesIO()
    torch.save(TENSORS, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


ZIPPED, LEGACY = torch_bytes(legacy=False), torch_bytes(legacy=True)
SAFE = save({"w": SHARED, "n": torch.arange(3)}, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("files") / "weights"


def read_file(read, place, data):
    """Read a file and touch every byte that its tensors claim."""
    place.write_bytes(data)
    with contextlib.suppress(CheckpointError):
        for tensor in read(place).values():
            if tensor.numel() < 2**20 and not tensor.is_meta:
                tensor.clone()


@pytest.mark.parametrize("data", [ZIPPED, LEGACY], ids=["zip", "legacy"])
@given(changes=edits)
@BUDGET
def test_mutated_torch_files(place, data, changes):
    read_file(read_torch_file, place, mutate(data, changes))


def repacked(change):
    """The zip file of torch with its pickle changed, and all checksums right again."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(ZIPPED)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith("/data.pkl") else content)
    return buffer.getvalue()


@given(changes=edits)
@BUDGET
def test_mutated_pickles_behind_valid_checksums(place, changes):
    read_file(read_torch_file, place, repacked(lambda content: mutate(content, changes)))


@given(opcodes=st.binary(max_size=60))
@BUDGET
def test_arbitrary_opcodes_in_torch_files(place, opcodes):
    read_file(read_torch_file, place, repacked(lambda _: b"\x80\x02" + opcodes + b"."))


@given(changes=edits)
@BUDGET
def test_mutated_safetensors(place, changes):
    read_file(read_safetensors, place, mutate(SAFE, changes))


@given(header=st.text(max_size=80), size=st.integers(0, 2**64 - 1) | st.none())
@BUDGET
def test_arbitrary_headers_of_safetensors(place, header, size):
    text = header.encode()
    length = len(text) if size is None else size
    read_file(read_safetensors, place, length.to_bytes(8, "little") + text + bytes(16))


def test_the_files_that_are_mutated_are_read(place):
    for data in (ZIPPED, LEGACY, repacked(bytes)):
        place.write_bytes(data)
        assert len(read_torch_file(place)) == 6
    place.write_bytes(SAFE)
    assert set(read_safetensors(place)) == {"w", "n"}


# -- memory ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04" + b"}" * 50_000,
        b"\x80\x04" + b"}\x94" * 50_000,
        b"\x80\x04" + b"C\x00" * 50_000,
        b"\x80\x04" + b"G" + b"\x01" * 8 + b"N\x94" * 50_000,
        b"\x80\x04" + b"r\xff\xff\xff\x7f" * 10,
        b"\x80\x04" + b"cnumpy.core.multiarray\n_reconstruct\nq\x00" + b"h\x00" * 50_000,
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + bytes(100),
        b"\x80\x04]\x94" + b"h\x00h\x00h\x00h\x00\x87a" * 5_000 + b".",
    ],
    ids=["dicts", "memo", "blobs", "floats", "index", "globals", "length", "cycle"],
)
def test_hostile_pickles_stay_within_the_bound(data):
    """A twentieth of the allowed opcodes must take less than a twentieth of the bound."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            parse_haiku_pickle(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY / 20
