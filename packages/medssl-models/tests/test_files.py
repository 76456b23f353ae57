"""Files and folders are there whole, or not at all."""

import hashlib
import os
import time
from pathlib import Path

import pytest
from medssl_models import home
from medssl_models.errors import SettingsError
from medssl_models.features.store import FeatureStore
from medssl_models.files import (
    clear_drafts,
    is_writable,
    models_folder,
    placing,
    refuse_existing,
    replacing,
    sha256_of,
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


def test_what_a_killed_process_left_goes_after_an_hour_or_under_a_lock(tmp_path):
    fresh, stale = tmp_path / ".a.abcd1234", tmp_path / ".a.efgh5678"
    other = tmp_path / ".ab.abcd1234"
    for path in (fresh, stale, other):
        path.touch()
    os.utime(stale, (time.time() - 4000,) * 2)

    with replacing(tmp_path / "a"):
        assert fresh.exists()
        assert not stale.exists()
    clear_drafts(tmp_path / "a")

    assert names(tmp_path) == [other.name, "a"]


def test_a_store_clears_what_a_killed_process_left(tmp_path):
    store = FeatureStore(tmp_path)
    draft = store.partial_path("ab12").with_name(".ab12.partial.h5.abcd1234")
    draft.touch()

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
