"""Whatever is kept lies in one folder, whichever package asks for it."""

import medssl_data.files
import medssl_models.files
import pytest


@pytest.mark.parametrize("named", ["~/kept", "kept", "", None])
def test_both_ground_packages_keep_in_one_folder(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    if named is None:
        monkeypatch.delenv("MEDSSL_HOME", raising=False)
    else:
        monkeypatch.setenv("MEDSSL_HOME", named)
    assert medssl_data.files.home() == medssl_models.files.home()
    if named == "~/kept":
        assert medssl_data.files.home() == tmp_path / "user" / "kept"
