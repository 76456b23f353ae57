"""TensorFlow checkpoints: all names, shapes, types and shards come back; all damage is found."""

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_models.checkpoints import tf_bundle
from medssl_models.checkpoints.tf_bundle import (
    find_index,
    masked_checksum,
    parse_tf_bundle,
    read_tf_bundle,
)
from medssl_models.errors import CheckpointError, UnsafeCheckpointError
from medssl_models.testing.checkpoints import (
    index_bytes,
    resnet_state,
    simclr_variables,
    write_tf_bundle,
    write_tf_zip,
)

FIXTURES = Path(__file__).parents[4] / "shared" / "fixtures" / "simclr_w2"
VARIABLES = {
    "a/f4": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a/f8": np.ones((1, 1, 2), np.float64),
    "b/empty": np.zeros((0, 4), np.float32),
    "b/f2": np.ones(3, np.float16),
    "b/flag": np.array([True, False]),
    "b/i4": np.array(-5, np.int32),
    "step": np.array(2**40, np.int64),
    "u1": np.arange(5, dtype=np.uint8),
}


@pytest.fixture
def index(tmp_path):
    return write_tf_bundle(tmp_path / "model.ckpt-1", VARIABLES)


@pytest.mark.parametrize("shards", [1, 3])
def test_every_type_and_shape_comes_back(tmp_path, shards):
    path = write_tf_bundle(tmp_path / "model.ckpt-1", VARIABLES, shards=shards)
    arrays = read_tf_bundle(path)
    assert list(arrays) == sorted(VARIABLES)
    for name, expected in VARIABLES.items():
        assert arrays[name].dtype == expected.dtype
        assert arrays[name].shape == expected.shape
        np.testing.assert_array_equal(arrays[name], expected)
        assert not arrays[name].flags.writeable


def test_a_large_table_has_several_blocks(tmp_path):
    variables = {f"scope_{i:04}/w": np.array(i, np.int32) for i in range(500)}
    arrays = read_tf_bundle(write_tf_bundle(tmp_path / "m", variables))
    assert {name: int(array) for name, array in arrays.items()} == {
        name: int(array) for name, array in variables.items()
    }


def test_folder_index_shard_and_archive_are_the_same_checkpoint(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    variables = simclr_variables(resnet_state(width=1))
    archive = write_tf_zip(tmp_path / "ResNet50_1x.zip", variables, folder=folder)
    (folder / "checkpoint").write_text("model_checkpoint_path: 'model.ckpt-225206'")
    paths = [archive, folder, *sorted(folder.glob("model.*"))]
    assert len(paths) == 4
    for path in paths:
        arrays = read_tf_bundle(path)
        assert arrays.keys() == variables.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, variables[name])
    assert len(variables) == 268


def test_find_index_by_content_and_by_name(index, tmp_path):
    renamed = tmp_path / "renamed.bin"
    renamed.write_bytes(index.read_bytes())
    assert find_index(renamed) == renamed
    other = tmp_path / "other.bin"
    other.write_bytes(b"abc")
    assert find_index(other) is None


def test_a_missing_part_is_named(index):
    shard = index.with_name("model.ckpt-1.data-00000-of-00001")
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"data-00000-of-00001 is missing"):
        read_tf_bundle(index)
    shard.write_bytes(content)
    index.unlink()
    with pytest.raises(CheckpointError, match=r"model\.ckpt-1\.index is missing"):
        read_tf_bundle(shard)
    with pytest.raises(CheckpointError, match=r"0 \.index files"):
        read_tf_bundle(shard.parent)


def test_two_checkpoints_in_a_folder_are_ambiguous(index):
    write_tf_bundle(index.with_name("other"), VARIABLES)
    with pytest.raises(CheckpointError, match=r"2 \.index files"):
        read_tf_bundle(index.parent)


def test_an_archive_without_its_shard_or_index(tmp_path, index):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(index, "x/model.ckpt-1.index")
    with pytest.raises(CheckpointError, match=r"no member 'x/model\.ckpt-1\.data"):
        read_tf_bundle(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/hub/variables.index", b"")
    with pytest.raises(CheckpointError, match=r"0 \.index files"):
        read_tf_bundle(path)


def test_each_flipped_byte_of_the_data_is_found(index):
    shard = index.with_name("model.ckpt-1.data-00000-of-00001")
    whole = shard.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        with pytest.raises(CheckpointError, match="wrong checksum"):
            parse_tf_bundle(index.read_bytes(), lambda *_, data=damaged: memoryview(data))


def test_each_flipped_byte_of_the_index_is_found_or_harmless(index):
    whole = index.read_bytes()
    shard = index.with_name("model.ckpt-1.data-00000-of-00001").read_bytes()
    harmless = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        try:
            arrays = parse_tf_bundle(bytes(damaged), lambda *_: memoryview(shard))
        except CheckpointError:
            continue
        harmless += 1
        assert arrays.keys() == VARIABLES.keys()
    assert harmless < 60  # the empty meta-index and the padding of the footer


@pytest.mark.parametrize("cut", [0, 1, 47, 48, 100, -1])
def test_a_truncated_index_is_refused(index, cut):
    index.write_bytes(index.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"model\.ckpt-1\.index"):
        read_tf_bundle(index)


def test_truncated_data_is_refused(index):
    shard = index.with_name("model.ckpt-1.data-00000-of-00001")
    for size in (0, 10):
        shard.write_bytes(shard.read_bytes()[:size])
        with pytest.raises(CheckpointError, match="do not fit the data file"):
            read_tf_bundle(index)


HEADER = b"\x08\x01\x1a\x02\x08\x01"
FLOAT = b"\x08\x01\x12\x04\x12\x02\x08\x01\x28\x04"  # float32, shape (1,), 4 bytes


def masked(data):
    """The definition, bit by bit."""
    register = 0xFFFFFFFF
    for octet in data:
        register ^= octet
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    checksum = register ^ 0xFFFFFFFF
    return struct.pack("<L", (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=50)
def test_checksums_equal_their_definition(data):
    assert struct.pack("<L", masked_checksum(data)) == masked(data)
    assert masked_checksum(memoryview(data)) == masked_checksum(data)


ZERO = FLOAT + b"\x35" + masked(bytes(4))


def parse(entries):
    return parse_tf_bundle(index_bytes(entries), lambda *_: memoryview(bytes(8)))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({b"a": FLOAT}, "no header"),
        ({b"": b"\x08\x00"}, "0 shards"),
        ({b"": b"\x08\xff\xff\x7f"}, "shards"),
        ({b"": b"\x08\x01\x10\x01"}, "big-endian"),
        ({b"": b"\x0a\x00"}, "bytes found"),
        ({b"": b"\x08"}, "cut off"),
        ({b"": b"\x08" + b"\xff" * 10}, "64 bits"),
        ({b"": b"\x0b"}, "kind 3"),
        ({b"": HEADER}, "no variables"),
        ({b"": HEADER, b"a": FLOAT}, "wrong checksum"),
        ({b"": HEADER, b"a": b"\x08\x07" + FLOAT[2:]}, "data type 7"),
        ({b"": HEADER, b"a": b"\x08\x0e" + FLOAT[2:]}, "data type 14"),
        ({b"": HEADER, b"a": FLOAT + b"\x18\x01"}, "shard 1 of 1"),
        ({b"": HEADER, b"a": FLOAT + b"\x20\x7f"}, "do not fit"),
        ({b"": HEADER, b"a": FLOAT + b"\x28\x05"}, "do not fit"),
        ({b"": HEADER, b"a": FLOAT + b"\x3a\x00"}, "slices"),
        ({b"": HEADER, b"a": b"\x12\x02\x18\x01" + FLOAT}, "unknown"),
        ({b"": HEADER, b"a": b"\x10\x01" + FLOAT}, "message is expected"),
        ({b"": HEADER, b"a": b"\x12\x24" + b"\x12\x02\x08\x01" * 9}, "9 dimensions"),
        ({b"": HEADER, b"\xff": FLOAT}, "not UTF-8"),
        ({b"": HEADER, b"n" * 2000: FLOAT}, "longer than"),
    ],
)
def test_a_malformed_entry_is_a_checkpoint_error(entries, reason):
    with pytest.raises(CheckpointError, match=reason):
        parse(entries)


def test_slices_of_partitioned_variables_are_skipped():
    assert parse({b"": HEADER, b"\0\xfe slice": b"junk", b"a": ZERO})["a"].tolist() == [0.0]


def test_keys_out_of_order_are_refused(monkeypatch):
    monkeypatch.setattr("medssl_models.testing.checkpoints.sorted", list, raising=False)
    with pytest.raises(CheckpointError, match="twice or out of order"):
        parse({b"": HEADER, b"b": ZERO, b"a": ZERO})


def test_a_compressed_block_is_refused():
    plain = index_bytes({b"": HEADER})
    end = 3 + len(HEADER) + 8  # one entry, one restart point, their count
    block = plain[:end] + b"\x01"
    data = block + masked(block) + plain[end + 5 :]
    with pytest.raises(CheckpointError, match="compressed"):
        parse_tf_bundle(data, lambda *_: memoryview(b""))


def test_bounds(index, monkeypatch):
    monkeypatch.setattr(tf_bundle, "_MAX_VARIABLES", 3)
    with pytest.raises(UnsafeCheckpointError, match="more than 3 entries"):
        read_tf_bundle(index)
    monkeypatch.setattr(tf_bundle, "_MAX_INDEX", 10)
    with pytest.raises(UnsafeCheckpointError, match="10 are allowed"):
        read_tf_bundle(index)


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the recorded checkpoint is not here")
def test_the_recorded_file_is_read():
    """Written by TensorFlow 2.15 from SimCLR's own network at width 2."""
    arrays = read_tf_bundle(FIXTURES)
    expected = simclr_variables(resnet_state(width=2))
    assert {name: array.shape for name, array in arrays.items()} == {
        name: array.shape for name, array in expected.items()
    }
    assert arrays["global_step"].dtype == np.int64
