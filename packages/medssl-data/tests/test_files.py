"""Files that appear whole or not at all, and the folder of what can be made again."""

import errno
import hashlib
import os
import stat
import sys
import time
from pathlib import Path

import pytest
from medssl_data.errors import SettingError
from medssl_data.files import clear_drafts, home, replacing, sha256_of, write_atomically


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "new" / "scan[1].png"
    write_atomically(path, b"old")

    def cut():
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            assert path.read_bytes() == b"old"
            raise ValueError("cut")

    with pytest.raises(ValueError, match="cut"):
        cut()
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "table.csv", b"a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "table.csv").stat().st_mode) == 0o666 & ~mask


def test_drafts_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path):
    left, other = tmp_path / f".a.png.{'01' * 8}.draft.png", tmp_path / ".hidden.png"
    for path in (left, other):
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    with replacing(tmp_path / "b.png") as alive:
        os.utime(alive, (0, 0))
        clear_drafts(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([alive, other])
    assert sorted(tmp_path.iterdir()) == [other, tmp_path / "b.png"]


def test_without_locks_only_old_drafts_are_abandoned(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    old, young = (tmp_path / f".a.png.{digit * 16}.draft.png" for digit in "01")
    for path, age in ((old, 4000), (young, 100)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    clear_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == [young]


def test_what_cannot_be_removed_stops_no_writing(tmp_path, monkeypatch):
    left = tmp_path / f".a.png.{'01' * 8}.draft.png"
    left.write_bytes(b"another user's")
    os.utime(left, (0, 0))
    unlink = Path.unlink

    def refused(path: Path, *, missing_ok: bool = False) -> None:
        if path == left:
            raise PermissionError(13, "Permission denied")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    write_atomically(tmp_path / "c.png", b"whole")
    assert (tmp_path / "c.png").read_bytes() == b"whole"
    assert left.exists()


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "device"])
def test_what_is_no_plain_file_is_never_replaced(kind, tmp_path):
    place, secret = tmp_path / "out", tmp_path / "secret"
    secret.write_text("another's")
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place = Path(os.devnull)
    else:
        place.symlink_to(secret if kind == "link" else tmp_path / "absent")
    before = place.lstat()
    with pytest.raises(SettingError, match="is a"):
        write_atomically(place, b"mine")
    assert place.lstat() == before
    assert secret.read_text() == "another's"
    assert not (tmp_path / "absent").exists()


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.csv"
    write_atomically(path, b"old")
    with pytest.raises(OSError, match=r"No space left.*a\.csv'"), replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_one_hash_of_bytes_and_of_files(tmp_path):
    (tmp_path / "a").write_bytes(b"medssl" * 100_000)
    expected = hashlib.sha256(b"medssl" * 100_000).hexdigest()
    assert sha256_of(tmp_path / "a") == sha256_of(b"medssl" * 100_000) == expected


def test_the_home_of_a_user_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MEDSSL_HOME", "~/kept")
    assert home() == tmp_path / "kept"
    monkeypatch.setenv("MEDSSL_HOME", "~nobody-of-that-name/kept")
    with pytest.raises(SettingError, match="there is no such user"):
        home()
    monkeypatch.setenv("MEDSSL_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert home().name == "medssl"
