"""Pickled Haiku checkpoints: every spelling of NumPy, dill and JAX gives equal arrays."""

import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from medssl_models.checkpoints import pickle_machine
from medssl_models.checkpoints.haiku_pickle import parse_haiku_pickle, read_haiku_pickle
from medssl_models.errors import CheckpointError, UnsafeCheckpointError
from medssl_models.testing.checkpoints import (
    Call,
    byol_tree,
    pickle_bytes,
    resnet_state,
    write_byol_pickle,
)

FIXTURES = Path(__file__).parents[4] / "shared" / "fixtures" / "byol_w2"
ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("mapping", ["", "haiku._src.data_structures FlatMapping"])
@pytest.mark.parametrize("stem", ["initial_conv", "initial_conv_1"])
def test_byol_checkpoint_round_trips(tmp_path, protocol, mapping, stem):
    params, averages = byol_tree(resnet_state(width=1), stem=stem)
    path = write_byol_pickle(
        tmp_path / "b.pkl", params, averages, protocol=protocol, mapping=mapping
    )
    arrays = read_haiku_pickle(path)
    for tree, place in ((params, "online_params"), (averages, "target_state")):
        for module, leaves in tree.items():
            for name, expected in leaves.items():
                found = arrays[f"experiment_state/{place}/{module}/{name}"]
                assert found.dtype == expected.dtype
                np.testing.assert_array_equal(found, expected)
    assert f"experiment_state/opt_state/0/mu/res_net50/~/{stem}/w" in arrays
    assert arrays.shape("rng") == (2,)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f4", "f8", "i1", "<i8", ">i2", "u1", "u4", "?"])
def test_every_protocol_and_number_type_of_python(protocol, dtype):
    values = {
        "c": ARRAY.astype(dtype),
        "f": np.asfortranarray(ARRAY.astype(dtype)),
        "empty": np.zeros((0, 3), dtype),
        "scalar": np.dtype(dtype).type(1),
        "nothing": None,
        "number": -(2**70),
        "text": "x" * 300,
        "real": 0.5,
    }
    tree = OrderedDict(a=[values, (True, False)])
    arrays = parse_haiku_pickle(pickle.dumps(tree, protocol=protocol))
    assert list(arrays) == [f"a/0/{name}" for name in ("c", "f", "empty", "scalar")]
    for name in ("c", "f", "empty", "scalar"):
        found = arrays[f"a/0/{name}"]
        assert found.dtype.isnative
        np.testing.assert_array_equal(found, values[name])


def test_a_large_array_of_protocol_0_and_2_is_decoded_from_text():
    values = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    for protocol in (0, 2):
        arrays = parse_haiku_pickle(pickle.dumps({"w": values}, protocol=protocol))
        np.testing.assert_array_equal(arrays["w"], values)


def test_arrays_of_protocol_4_are_views_of_the_file():
    data = pickle.dumps({"w": np.ones(1000, np.float32)}, protocol=4)
    array = parse_haiku_pickle(data)["w"]
    assert not array.flags.owndata
    assert not array.flags.writeable


@pytest.mark.parametrize(
    "wrapper", [b"jax._src.array\n_reconstruct_array", b"dill._dill\n_create_array"]
)
def test_wrapped_arrays_and_named_tuples_of_jaxline(wrapper):
    state = (1, (2,), np.dtype("<f4"), False, np.array([1, 2], "<f4").tobytes())
    data = b"\x80\x04" + b"c" + wrapper + b"\n"
    data += b"(cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01bt"
    data += pickle_bytes(state, protocol=4)[2:-1] + b"}t" + b"R."
    tree = data[2:-1]
    snapshot = b"\x80\x04cjaxline.utils\nSnapshotNT\n(K\x01}X\x01\0\0\0w" + tree + b"st\x81."
    np.testing.assert_array_equal(parse_haiku_pickle(snapshot)["pickle_nest/w"], [1, 2])


def test_old_frozendict_is_a_mapping():
    data = pickle_bytes(Call("haiku._src.data_structures frozendict", ({"w": ARRAY},)))
    assert list(parse_haiku_pickle(data)) == ["w"]


def test_globals_that_were_named_are_listed():
    arrays = parse_haiku_pickle(pickle_bytes({"w": ARRAY}, protocol=4))
    assert arrays.globals_seen == (
        "dill._dill._get_attr",
        "dill._dill._import_module",
        "numpy.dtype",
        "numpy.ndarray",
    )


def array_with(**changes):
    """A pickled array of which one part is a lie."""
    parts = {
        "version": 1,
        "shape": (2,),
        "dtype": np.dtype("<f4"),
        "order": False,
        "data": bytes(8),
    } | changes
    draft = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    return b"\x80\x04" + draft + pickle_bytes(tuple(parts.values()), protocol=4)[2:-1] + b"b."


def test_the_honest_array_is_read():
    assert parse_haiku_pickle(array_with())[""].tolist() == [0, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 9},
        {"shape": (3,)},
        {"shape": (-2,)},
        {"shape": (2**30, 2**30)},
        {"shape": (1,) * 9 + (2,)},
        {"shape": ("2",)},
        {"shape": (True, 2)},
        {"shape": "2"},
        {"dtype": None},
        {"dtype": "f4"},
        {"data": bytes(7)},
        {"data": "a" * 8},
        {"data": [1]},
        {"order": [1], "data": b""},
    ],
    ids=str,
)
def test_an_array_whose_parts_disagree_is_refused(changes):
    with pytest.raises(CheckpointError):
        parse_haiku_pickle(array_with(**changes))


def test_text_that_is_no_latin_1_is_found_when_read():
    text = "é" * 199 + "\u20ac" + "a" * 200
    encoded = b"c_codecs\nencode\n" + b"X" + struct.pack("<L", len(text.encode()))
    encoded += text.encode() + b"X\x06\0\0\0latin1\x86R"
    draft = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85NtR"
    dtype = pickle_bytes(np.dtype("<f4"))[2:-1]
    data = draft + b"(K\x01Kd\x85" + dtype + b"\x89" + encoded + b"tb."
    with pytest.raises(CheckpointError, match="Latin-1"):
        parse_haiku_pickle(data)[""]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut off"),
        (b"\x80\x04", "cut off"),
        (b"\x80\x09N.", "protocol 9"),
        (b"\x80\x04N.", "no arrays"),
        (b"\x80\x04NN.", "left over"),
        (b"\x80\x04N.N", "follow"),
        (b"\x80\x04.", "malformed"),
        (b"\x80\x04t.", "never opened"),
        (b"\x80\x04(a.", "should not"),
        (b"\x80\x04)Na.", "list is expected"),
        (b"\x80\x04(q\x00.", "no value"),
        (b"\x80\x04}K\x01K\x01sK\x01K\x02s.", "twice"),
        (b"\x80\x04})Ns.", "tuple as key"),
        (b"\x80\x04}(K\x01u.", "without a value"),
        (b"\x80\x04h\x07.", "malformed"),
        (b"\x80\x04X\xff\xff\xff\xffabc.", "cut off"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.", "cut off"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xffN.", "cut off"),
        (b"\x80\x04X\x01\0\0\0\xff.", "malformed"),
        (b"\x80\x04I12", "no end"),
        (b"\x80\x04Ix\n.", "malformed"),
        (b"\x80\x04c" + b"a" * 5000, "no end"),
        (b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nNNtR.", "never filled"),
        (b"\x80\x04C\x01ac_codecs\nencode\nNR.", "calls"),
    ],
)
def test_a_malformed_stream_is_a_checkpoint_error(data, reason):
    with pytest.raises(CheckpointError, match=reason):
        parse_haiku_pickle(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80\x04\x8b\xff\xff\xff\x7f.", "integer of 2147483647 bytes"),
        (b"\x80\x04\x8a\x20" + bytes(32) + b".", "integer of 32 bytes"),
        (b"\x80\x04I" + b"9" * 400 + b"\n.", "digits"),
        (b"\x80\x04" + b"]\x94" + b"h\x00a" * 3 + b".", "unfold"),  # contains itself
        (b"\x80\x04)" + b"2\x86" * 20 + b".", "unfold"),  # 2**20 paths
        (b"\x80\x04" + b"]" * 100 + b"a" * 99 + b".", "unfold"),
    ],
    ids=["long4", "long1", "decimal", "cycle", "laughs", "deep"],
)
def test_a_bomb_is_refused(data, reason):
    with pytest.raises(UnsafeCheckpointError, match=reason):
        parse_haiku_pickle(data)


def test_a_huge_memo_index_takes_no_memory():
    arrays = parse_haiku_pickle(pickle_bytes({"w": ARRAY}, protocol=4)[:-1] + b"r\xff\xff\xff\x7f.")
    assert list(arrays) == ["w"]


def test_opcodes_and_names_are_bounded(monkeypatch):
    monkeypatch.setattr(pickle_machine, "MAX_OPCODES", 10)
    with pytest.raises(UnsafeCheckpointError, match="more than 10 opcodes"):
        parse_haiku_pickle(b"\x80\x04" + b"}" * 20)
    monkeypatch.setattr(pickle_machine, "MAX_NAMES", 10)
    with pytest.raises(UnsafeCheckpointError, match="short texts"):
        parse_haiku_pickle(b"\x80\x04" + b"\x8c\x06abcdef" * 3)


def test_an_error_names_the_file(tmp_path):
    path = tmp_path / "broken.pkl"
    path.write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match=r"broken\.pkl"):
        read_haiku_pickle(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="is empty"):
        read_haiku_pickle(path)


def test_a_truncated_checkpoint_is_refused_at_every_length(tmp_path):
    params, averages = byol_tree(resnet_state("resnet18", width=1), architecture="resnet18")
    data = write_byol_pickle(tmp_path / "b.pkl", params, averages).read_bytes()
    for cut in range(0, len(data), len(data) // 12):
        with pytest.raises(CheckpointError):
            parse_haiku_pickle(data[:cut])


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the recorded checkpoints are not here")
def test_the_recorded_files_hold_equal_arrays():
    """Written by real Haiku in three styles: protocol 2, protocol 4 with Fortran order, modern."""
    period, fortran, modern = (
        read_haiku_pickle(FIXTURES / f"{name}.pkl")
        for name in ("period_flatmapping_p2", "period_dict_p4_fortran", "modern_dill")
    )
    assert len(period) == 1174
    assert list(period) == list(fortran) == list(modern)
    for name in period:
        np.testing.assert_array_equal(period[name], fortran[name])
        if name != "rng":
            np.testing.assert_array_equal(period[name], modern[name])
