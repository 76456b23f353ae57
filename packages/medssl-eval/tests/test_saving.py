"""Pictures, tables and reports appear whole; what killed processes left of them goes."""

import os
import stat

import pytest
from medssl_eval.saving import save_text, saving


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path):
    path = save_text(tmp_path / "new" / "report.html", "old")

    def cut():
        with saving(path) as draft:
            draft.write_text("half")
            assert path.read_text() == "old"
            raise ValueError("cut")

    with pytest.raises(ValueError, match="cut"):
        cut()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_drafts_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path):
    for name in (".draft-dead", ".draft-alive", "results"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "curves.png").write_bytes(b"half")
    for name in (".draft-dead", "results"):
        os.utime(tmp_path / name, (0, 0))
    save_text(tmp_path / "curves.csv", "step\n")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".draft-alive", "curves.csv", "results"]


def test_what_is_written_has_the_permissions_that_the_user_asked_for(tmp_path):
    before = os.umask(0o077)
    try:
        path = save_text(tmp_path / "report.html", "of patients")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
