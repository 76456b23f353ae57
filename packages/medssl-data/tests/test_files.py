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
