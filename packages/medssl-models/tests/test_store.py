"""Feature files and the store, without a network: layout, damage, torn writes, full disks."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from medssl_models.errors import StoreError
from medssl_models.features.feature_file import (
    BrokenFileError,
    FeatureFile,
    Layout,
    RowState,
    digest_stamps,
)
from medssl_models.features.store import FeatureStore, Request, feature_key

ROWS, DIMENSION = 10, 3
KEY = feature_key({"weights": "w", "images": "i"})
FEATURES = np.arange(ROWS * DIMENSION, dtype=np.float32).reshape(ROWS, DIMENSION)
NO_STAMPS = digest_stamps(None, ROWS)


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path)


def request_for(stamps=None, **changes) -> Request:
    defaults = {"key": KEY, "rows": ROWS, "dimension": DIMENSION}
    return Request(**(defaults | changes), stamps=digest_stamps(stamps, ROWS))


def fill(store, *, stop=ROWS, wanted=None, anew=False, batch_size=4) -> list[int]:
    """Compute rows below `stop` and give all that were to be computed."""
    wanted = wanted or request_for()
    editing = store.edit(
        wanted, batch_size=lambda: batch_size, provenance={"model": "m"}, anew=anew
    )
    with store.lock(KEY), editing as (file, rows):
        now = rows[rows < stop]
        if len(now):
            file.write(now, FEATURES[now], np.ones(len(now), np.bool_))
    if stop >= ROWS:
        store.finish(KEY)
    return rows.tolist()


def test_written_features_are_read_with_their_provenance(store):
    assert fill(store) == list(range(ROWS))
    stored = store.load(KEY)
    np.testing.assert_array_equal(stored.features, FEATURES)
    assert stored.readable.all()
    assert stored.provenance["model"] == "m"
    assert not store.partial_path(KEY).exists()
    assert store.load(feature_key({})) is None


def test_any_hdf5_program_can_read_the_file(store):
    fill(store)
    with h5py.File(store.path(KEY), "r") as file:
        np.testing.assert_array_equal(file["features"][...], FEATURES)
        assert file.attrs["format"] == "medssl-features"
        assert file.attrs["key"] == KEY
        assert file["features"].chunks is None


def test_loaded_features_can_be_changed_without_harm(store):
    fill(store)
    store.load(KEY).features[0] = -1
    np.testing.assert_array_equal(store.load(KEY).features, FEATURES)


def test_partial_features_are_not_given_and_resumed_by_whole_batches(store):
    fill(store, stop=6)
    assert store.load(KEY) is None
    assert fill(store, batch_size=3) == [4, 5, 6, 7, 8, 9]  # the first run's batches of 4
    np.testing.assert_array_equal(store.load(KEY).features, FEATURES)


def test_unfinished_features_cannot_take_their_place(store):
    fill(store, stop=6)
    with pytest.raises(StoreError, match="rows are missing"):
        store.finish(KEY)


def test_anew_forgets_what_is_there(store):
    fill(store, stop=6)
    assert len(fill(store, anew=True)) == ROWS
    assert len(fill(store, anew=True)) == ROWS


def test_only_changed_stamps_are_computed(store):
    stamps = [str(row) for row in range(ROWS)]
    fill(store, wanted=request_for(stamps))
    changed = request_for([*stamps[:2], "x", *stamps[3:9], "y"])
    assert store.load_fresh(request_for(stamps)) is not None
    assert store.load_fresh(changed) is None
    assert fill(store, wanted=changed) == [2, 9]
    assert store.load_fresh(changed) is not None
    assert store.load_fresh(request_for(None)) is not None  # unknown stamps are no change


def test_killed_refresh_leaves_the_old_features_and_goes_on(store):
    stamps = [str(row) for row in range(ROWS)]
    fill(store, wanted=request_for(stamps))
    changed = request_for([*stamps[:9], "y"])
    fill(store, wanted=changed, stop=0)
    np.testing.assert_array_equal(store.load(KEY).features, FEATURES)
    assert fill(store, wanted=changed) == [8, 9]
    assert store.load_fresh(changed) is not None


def cut(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not an HDF5 file" * 100)


def foreign(path):
    with h5py.File(path, "w") as file:
        file["features"] = FEATURES


def newer(path):
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 99


def other_key(path):
    content = path.read_bytes()
    path.write_bytes(content.replace(KEY.encode(), b"0" * len(KEY)))


def overwrite(path, name, row, value):
    """Change a row in place, as a damaged disk does; HDF5 would write the whole file anew."""
    with h5py.File(path, "r") as file:
        start = file[name].id.get_offset() + row * file[name].nbytes // ROWS
    with path.open("r+b") as file:
        file.seek(start)
        file.write(value)


def flipped_bit(path):
    overwrite(path, "features", 5, b"\1\2\3\4")


def other_type(path):
    with h5py.File(path, "r+") as file:
        del file["states"]
        file["states"] = np.zeros(ROWS, np.int64)


def no_provenance(path):
    with h5py.File(path, "r+") as file:
        del file.attrs["provenance"]


DAMAGES = [cut, empty, text, foreign, newer, other_key, flipped_bit, other_type, no_provenance]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_file_is_set_aside_and_computed_anew(store, damage, caplog):
    fill(store)
    damage(store.path(KEY))
    broken = store.path(KEY).read_bytes()
    assert store.load(KEY) is None
    assert store.load_fresh(request_for()) is None
    with caplog.at_level(logging.WARNING, "medssl"):
        assert len(fill(store)) == ROWS
    aside = store.root / f"{KEY}.set-aside-1.h5"
    assert aside.read_bytes() == broken
    assert f"set aside as {aside.name}" in caplog.text
    np.testing.assert_array_equal(store.load(KEY).features, FEATURES)


@pytest.mark.parametrize("damage", [cut, text, newer], ids=lambda damage: damage.__name__)
def test_damaged_partial_file_is_set_aside(store, damage):
    fill(store, stop=6)
    damage(store.partial_path(KEY))
    assert len(fill(store)) == ROWS
    assert (store.root / f"{KEY}.partial.set-aside-1.h5").exists()


def test_broken_complete_file_is_kept_though_a_partial_one_replaces_it(store):
    fill(store)
    fill(store, stop=6, anew=True)
    text(store.path(KEY))
    fill(store)
    assert (store.root / f"{KEY}.set-aside-1.h5").exists()


def test_second_damage_does_not_overwrite_the_first(store):
    for _ in range(2):
        fill(store)
        text(store.path(KEY))
    fill(store)
    assert len(list(store.root.glob("*.set-aside-*"))) == 2


def test_torn_row_of_a_partial_file_is_computed_again(store):
    fill(store, stop=8)
    flipped_bit(store.partial_path(KEY))
    assert fill(store) == [4, 5, 6, 7, 8, 9]


def flip(content, place):
    damaged = bytearray(content)
    damaged[place // 8] ^= 1 << place % 8
    return bytes(damaged)


def zeros(content, place):
    start = min(place // 8, len(content) - 64)
    return content[:start] + bytes(64) + content[start + 64 :]


@pytest.mark.parametrize("damage", [flip, zeros])
def test_damage_anywhere_is_found_or_changes_nothing(store, damage):
    fill(store)
    path = store.path(KEY)
    whole, wanted = path.read_bytes(), store.load(KEY)
    places = np.random.default_rng(0).integers(0, 8 * len(whole), 400)
    with h5py.File(path, "r") as file:  # a bit of each row's state too: they are few bytes
        states = 8 * file["states"].id.get_offset()
    found_out = harmless = 0
    for place in [*places.tolist(), *range(states, states + 8 * ROWS)]:
        damaged = damage(whole, place)
        path.write_bytes(damaged)
        found = store.load(KEY)
        if found is None:
            found_out += 1
        else:
            np.testing.assert_array_equal(found.features, wanted.features)
            assert found.readable.all()
            assert found.provenance == wanted.provenance
            harmless += damaged != whole
    # Harmless are stamps, and the error of the precision, which is unknown here.
    assert found_out > 4 * harmless


def test_features_of_another_shape_are_not_used(store):
    fill(store)
    assert store.load_fresh(request_for()) is not None
    assert store.load_fresh(request_for(dimension=DIMENSION + 1)) is None


@examples(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(done=st.sets(st.integers(0, ROWS - 1)), unreadable=st.sets(st.integers(0, ROWS - 1)))
def test_rows_written_in_any_pieces_are_read_back(tmp_path, done, unreadable):
    path = tmp_path / "features.h5"
    layout = Layout(KEY, ROWS, DIMENSION, 4)
    FeatureFile.create(path, layout, stamps=NO_STAMPS, provenance={})
    rows = np.array(sorted(done), np.int64)
    with FeatureFile(path, writable=True) as file:
        readable = np.array([row not in unreadable for row in rows], np.bool_)
        if len(rows):
            file.write(rows, FEATURES[rows], readable)
    with FeatureFile(path) as file:
        assert set(np.flatnonzero(file.states == RowState.DONE)) == done - unreadable
        assert set(np.flatnonzero(file.states == RowState.UNREADABLE)) == done & unreadable
        assert not any(len(unsound) for unsound in file.unsound_rows())
        batches = [set(range(first, min(first + 4, ROWS))) for first in range(0, ROWS, 4)]
        incomplete = set().union(*(batch for batch in batches if not batch <= done))
        assert set(file.pending_batches().tolist()) == incomplete
        assert math.isnan(file.precision_error)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere space cannot be reserved")
def test_space_is_taken_when_the_file_is_made(tmp_path):
    path = tmp_path / "features.h5"
    layout = Layout(KEY, 2000, 64, 32)
    FeatureFile.create(path, layout, stamps=digest_stamps(None, 2000), provenance={})
    assert path.stat().st_blocks * 512 >= 2000 * 64 * 4


def test_cut_off_data_is_noticed(tmp_path):
    path = tmp_path / "features.h5"
    FeatureFile.create(path, Layout(KEY, ROWS, DIMENSION, 4), stamps=NO_STAMPS, provenance={})
    with FeatureFile(path) as file:
        os.truncate(path, 100)
        with pytest.raises(BrokenFileError, match="too early"):
            list(file.unsound_rows()) or file.features()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere space cannot be reserved")
def test_full_disk_is_one_error_before_any_work(tmp_path):
    """A real refusal of the system, in a process that may write no file above 64 KiB."""
    code = (
        "import resource, sys; from pathlib import Path;"
        "from medssl_models.features.feature_file import *;"
        "from medssl_models.errors import StoreError;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try: FeatureFile.create(Path(sys.argv[1]), Layout('k', 5000, 64, 32),"
        " stamps=digest_stamps(None, 5000), provenance={})\n"
        "except StoreError as error: print(error)"
    )
    path = tmp_path / "features.h5"
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True, timeout=300
    )
    assert "no room for 1 MiB of features" in done.stdout
    assert "MEDSSL_HOME" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_waiting_for_another_process_is_told(store, caplog):
    from threading import Thread

    from filelock import FileLock

    lock = FileLock(store.root / f"{KEY}.lock", thread_local=False)
    lock.acquire()
    told = "another process computes the same features"
    with caplog.at_level(logging.INFO, "medssl"):
        thread = Thread(target=fill, args=(store,), daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while told not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        lock.release()
        thread.join(timeout=30)
    assert told in caplog.text
    assert store.load(KEY) is not None
