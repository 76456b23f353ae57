"""Files and folders are there whole, or not at all."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from medssl_models import home, read_records
from medssl_models.checkpoints.archive import Archive
from medssl_models.checkpoints.opening import open_checkpoint
from medssl_models.conversion.model_folder import read_origin
from medssl_models.errors import NotAFileError, SettingsError
from medssl_models.experiments.record_store import RecordStore
from medssl_models.features.store import FeatureStore
from medssl_models.files import (
    check_writable,
    clear_drafts,
    is_writable,
    models_folder,
    open_plain,
    placing,
    refuse_existing,
    replacing,
    sha256_of,
    write_atomically,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"

    with replacing(path) as draft:
        draft.write_text("one")
        assert not path.exists()
    with pytest.raises(FileNotFoundError), replacing(path) as draft:
        draft.with_name("absent").read_text()

    assert path.read_text() == "one"
    assert names(path.parent) == ["a.txt"]


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path):
    folder = tmp_path / "model"

    with placing(folder) as draft:
        (draft / "a").write_text("one")
    with pytest.raises(FileNotFoundError), placing(folder, force=True) as draft:
        (draft / "absent").read_text()
    assert (folder / "a").read_text() == "one"
    with placing(folder, force=True) as draft:
        (draft / "b").write_text("two")

    assert names(folder) == ["b"]
    assert names(tmp_path) == ["model"]
    with pytest.raises(SettingsError, match=r"model exists; .* set force"), placing(folder):
        pass
    refuse_existing(folder, force=True)


def test_permissions_are_those_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "file") as draft:
            draft.write_text("")
        with placing(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)

    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


KILLED = """
import os, signal, sys
from pathlib import Path
from medssl_models.files import placing, replacing
place = Path(sys.argv[1])
with replacing(place / "a.csv") as draft, placing(place / "model") as folder:
    draft.write_text("half")
    (folder / "weights").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def age(folder, seconds=10):
    """Let what lies in a folder be some seconds old: drafts of a moment ago may get a lock yet."""
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    left = names(tmp_path)
    age(tmp_path)
    with replacing(tmp_path / "b.csv") as draft:
        assert names(tmp_path) == [draft.name]

    assert done.returncode == -signal.SIGKILL
    assert [name[:7] for name in left] == [".a.csv.", ".model."]
    assert names(tmp_path) == ["b.csv"]


def test_what_somebody_writes_stays(tmp_path):
    (tmp_path / ".hidden.csv").touch()
    with replacing(tmp_path / "a.csv") as draft, placing(tmp_path / "model") as folder:
        age(tmp_path, seconds=9000)
        clear_drafts(tmp_path)
        draft.write_text("whole")
        (folder / "weights").write_text("whole")

    assert names(tmp_path) == [".hidden.csv", "a.csv", "model"]


def test_without_locks_only_old_drafts_are_abandoned(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    old, young = (tmp_path / f".a.{digit * 16}.draft" for digit in "01")
    for path, seconds in ((old, 4000), (young, 100)):
        path.touch()
        os.utime(path, (time.time() - seconds,) * 2)
    clear_drafts(tmp_path)

    assert names(tmp_path) == [young.name]


def test_a_folder_that_was_moved_away_comes_back_without_its_successor(tmp_path):
    for name in ("model", "other"):
        (tmp_path / f".{name}.{'ab' * 8}.old").mkdir()
        (tmp_path / f".{name}.{'ab' * 8}.old" / "weights").write_text("old")
    (tmp_path / "other").mkdir()
    age(tmp_path)
    clear_drafts(tmp_path)

    assert names(tmp_path) == ["model", "other"]
    assert (tmp_path / "model" / "weights").read_text() == "old"


def test_a_folder_comes_back_where_it_cannot_be_replaced(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("old")
    rename = Path.rename

    def refused(path, target):
        if path.name.endswith(".draft"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="Input/output"), placing(tmp_path / "model", force=True):
        pass

    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "old"


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
    for write in (replacing, lambda path: placing(path, force=True)):
        with pytest.raises(SettingsError, match="is a"), write(place):
            pass

    assert place.lstat() == before
    assert secret.read_text() == "another's"
    assert not (tmp_path / "absent").exists()


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.csv"
    write_atomically(path, b"old")
    with pytest.raises(OSError, match=r"No space left.*a\.csv'"), replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.csv"]


def test_a_store_clears_what_a_killed_process_left(tmp_path):
    store = FeatureStore(tmp_path)
    draft = tmp_path / f".ab12.partial.h5.{'ab' * 8}.draft.h5"
    draft.touch()
    age(tmp_path)

    with store.lock("ab12"):
        assert not draft.exists()


def test_a_hash_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")

    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_home_is_one_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MEDSSL_HOME", "~/x")
    assert home() == tmp_path / "x"
    assert models_folder() == tmp_path / "x" / "models"
    assert FeatureStore().root == tmp_path / "x" / "features"
    assert not home().exists()
    monkeypatch.setenv("MEDSSL_HOME", "~nobody-of-this-name/x")
    with pytest.raises(SettingsError, match="no such user"):
        home()
    monkeypatch.delenv("MEDSSL_HOME")
    assert home().name == "medssl"


def test_a_folder_that_cannot_be_made_is_not_writable(tmp_path):
    (tmp_path / "file").touch()

    assert is_writable(tmp_path / "new")
    assert Path(tmp_path / "new").is_dir()
    assert not is_writable(tmp_path / "file" / "below")


def test_a_folder_that_cannot_be_written_is_said_with_its_option(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "folder", option="--output")
    assert not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").write_text("taken")
    with pytest.raises(OSError, match=r"file cannot be written .* another with --output"):
        check_writable(tmp_path / "file", option="--output")

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("medssl_models.files.tempfile.TemporaryFile", refuse)
    with pytest.raises(OSError, match=r"\(Permission denied\)"):
        check_writable(tmp_path, option="--results")


def test_nothing_waits_for_a_pipe(tmp_path):
    for name in ("results.jsonl", "a.zip", "config.json", "a.index", f"{'0' * 64}.h5"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "results.jsonl")
    for path in (tmp_path / "results.jsonl", tmp_path / "link.jsonl", Path(os.devnull)):
        with pytest.raises(NotAFileError, match="is a pipe, a device or a socket"):
            open_plain(path)
        with pytest.raises(NotAFileError):
            RecordStore(path).refresh()
        with pytest.raises(NotAFileError):
            read_records(path)
    with pytest.raises(NotAFileError):
        Archive(tmp_path / "a.zip")
    with pytest.raises(NotAFileError):
        read_origin(tmp_path)
    with pytest.raises(NotAFileError):
        open_checkpoint(tmp_path)  # a folder with an index
    with pytest.raises(NotAFileError):
        FeatureStore(tmp_path).load("0" * 64)
    with pytest.raises(IsADirectoryError):
        open_plain(tmp_path)
