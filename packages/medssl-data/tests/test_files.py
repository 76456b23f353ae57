"""Files that appear whole or not at all."""

import pytest
from medssl_data.files import drafts, replacing, write_atomically


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


def test_drafts_are_those_of_one_file(tmp_path):
    path = tmp_path / "scan[1].png"
    assert drafts(tmp_path / "nowhere" / "scan.png") == []
    write_atomically(path, b"another file")
    with (
        replacing(path) as draft,
        replacing(tmp_path / "scan1.png"),
        replacing(tmp_path / "scan[1].png.a.png"),
    ):
        assert drafts(path) == [draft]
    assert drafts(path) == []
