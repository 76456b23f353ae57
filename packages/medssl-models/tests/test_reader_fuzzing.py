"""Mutations of valid checkpoints: a reader gives arrays or its own error, within bounded memory."""

import contextlib
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from medssl_models.checkpoints.archive import Archive
from medssl_models.checkpoints.haiku_pickle import parse_haiku_pickle
from medssl_models.checkpoints.tf_bundle import parse_tf_bundle, read_tf_bundle
from medssl_models.errors import CheckpointError
from medssl_models.testing_checkpoints import Call, index_bytes, pickle_bytes, write_tf_zip

# A million opcodes of at most 400 bytes each, and names: what a small hostile file may cost.
MEMORY = 512 * 2**20

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


@given(st.sampled_from(PICKLES), edits)
@settings(deadline=None, max_examples=400)
def test_mutated_pickles(data, changes):
    with contextlib.suppress(CheckpointError):
        read_all(parse_haiku_pickle(mutate(data, changes)))


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=300)
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
@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_mutated_indices(checkpoint, changes):
    index, shard, _ = checkpoint
    with contextlib.suppress(CheckpointError):
        read_all(parse_tf_bundle(mutate(index, changes), lambda *_: memoryview(shard)))


@given(
    st.dictionaries(st.binary(max_size=6), st.binary(max_size=40), max_size=5),
    st.binary(max_size=12),
)
@settings(deadline=None, max_examples=300)
def test_arbitrary_entries_behind_valid_checksums(entries, header):
    """Mutations rarely pass the checksums; these always do."""
    index = index_bytes({b"": b"\x08\x01" + header} | entries)
    with contextlib.suppress(CheckpointError):
        read_all(parse_tf_bundle(index, lambda *_: memoryview(bytes(64))))


@given(changes=edits)
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_mutated_archives(checkpoint, tmp_path_factory, changes):
    archive = checkpoint[2]
    path = archive.with_name("mutated.zip")
    path.write_bytes(mutate(archive.read_bytes(), changes))
    with contextlib.suppress(CheckpointError), Archive(path) as opened:
        for name in opened.names:
            opened.read(name)
    with contextlib.suppress(CheckpointError):
        read_all(read_tf_bundle(path))


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
