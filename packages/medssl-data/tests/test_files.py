"""Files that appear whole or not at all, and the folder of what can be made again."""

import hashlib
import os
import stat
from pathlib import Path

import pytest
from medssl_data.errors import SettingError
from medssl_data.files import drafts, home, replacing, sha256_of, write_atomically


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


def test_a_draft_tells_what_it_should_have_become(tmp_path):
    assert drafts(tmp_path / "nowhere") == {}
    scan, state, plain = (tmp_path / name for name in ("scan[1].png", "state-1.a.npz", "README"))
    write_atomically(scan, b"a file of that name is no draft")
    (tmp_path / ".hidden.png").write_bytes(b"nor is this")
    with (
        replacing(scan) as one,
        replacing(scan) as two,
        replacing(state) as three,
        replacing(plain) as four,
    ):
        assert drafts(tmp_path) == {one: scan, two: scan, three: state, four: plain}
    assert drafts(tmp_path) == {}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "table.csv", b"a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "table.csv").stat().st_mode) == 0o666 & ~mask


def test_drafts_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path):
    old, young = tmp_path / ".a.png.0123abcd.png", tmp_path / ".b.png.4567cdef.png"
    other = tmp_path / ".hidden.png"
    for path in (old, young, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (0, 0))
    write_atomically(tmp_path / "c.png", b"whole")
    assert sorted(tmp_path.iterdir()) == [young, other, tmp_path / "c.png"]


def test_what_cannot_be_removed_stops_no_writing(tmp_path, monkeypatch):
    old = tmp_path / ".a.png.0123abcd.png"
    old.write_bytes(b"another user's")
    os.utime(old, (0, 0))

    def refused(path: Path, **_: object) -> None:
        if path == old:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refused)
    write_atomically(tmp_path / "c.png", b"whole")
    assert (tmp_path / "c.png").read_bytes() == b"whole"


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
