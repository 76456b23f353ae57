"""Zip archives: bounded, by name, and refused as a whole when a member is not harmless."""

import stat
import struct
import zipfile

import pytest
from medssl_models.checkpoints import archive as archive_module
from medssl_models.checkpoints.archive import Archive
from medssl_models.errors import CheckpointError, UnsafeCheckpointError


def write(path, members, *, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_members_are_read_by_name(tmp_path):
    path = write(tmp_path / "a.zip", [("d/", b""), ("d/one", b"1"), ("two", b"22")])
    with Archive(path) as archive:
        assert archive.names == ["d/one", "two"]
        assert archive.read("two") == b"22"
        with pytest.raises(CheckpointError, match="no member 'three'"):
            archive.read("three")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../../up", "a\\..\\up", "C:/x", "C:x"])
def test_a_path_that_leaves_the_archive_is_refused(tmp_path, name):
    with pytest.raises(UnsafeCheckpointError, match="leaves the archive"):
        Archive(write(tmp_path / "a.zip", [("fine", b""), (name, b"x")]))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_link_or_device_is_refused(tmp_path, kind):
    info = zipfile.ZipInfo("link")
    info.external_attr = (kind | 0o777) << 16
    with pytest.raises(UnsafeCheckpointError, match="is a link"):
        Archive(write(tmp_path / "a.zip", [(info, b"/etc/passwd")]))


def test_a_repeated_name_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = write(tmp_path / "a.zip", [("a", b"1"), ("a", b"2")])
    with pytest.raises(UnsafeCheckpointError, match="twice"):
        Archive(path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = write(tmp_path / "a.zip", [("zeros", bytes(2**23))])
    with pytest.raises(UnsafeCheckpointError, match="100 times"):
        Archive(path)


def test_a_member_that_lies_about_its_size_is_refused(tmp_path):
    path = write(tmp_path / "a.zip", [("x", bytes(2**16))])
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<L", 100)
    path.write_bytes(data)
    with Archive(path) as archive, pytest.raises(CheckpointError, match="'x'"):
        archive.read("x")


def test_other_compressions_and_encryption_are_refused(tmp_path):
    path = write(tmp_path / "a.zip", [("x", b"x")], compression=zipfile.ZIP_LZMA)
    with pytest.raises(UnsafeCheckpointError, match="other than deflate"):
        Archive(path)
    path = write(tmp_path / "b.zip", [("x", b"x")])
    data = bytearray(path.read_bytes())
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UnsafeCheckpointError, match="encrypted"):
        Archive(path)


def test_a_large_member_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "_MAX_MEMBER", 10)
    with pytest.raises(UnsafeCheckpointError, match="larger than"):
        Archive(write(tmp_path / "a.zip", [("x", b"x" * 11)]))


def test_a_large_table_of_contents_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    path = write(tmp_path / "a.zip", [(f"{i:03}", b"") for i in range(100)])
    monkeypatch.setattr(archive_module, "_MAX_DIRECTORY", 1000)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("it was parsed"))
    with pytest.raises(UnsafeCheckpointError, match="table of contents"):
        Archive(path)


def test_damage_is_a_checkpoint_error(tmp_path):
    path = write(tmp_path / "a.zip", [("x", b"x" * 1000)], compression=zipfile.ZIP_STORED)
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    with pytest.raises(CheckpointError, match="cut off"):
        Archive(path)
    path.write_bytes(whole.replace(b"xxxxxxxxxx", b"xxxxxxxxxy", 1))
    with Archive(path) as archive, pytest.raises(CheckpointError, match="damaged"):
        archive.read("x")


def test_the_64_bit_end_record_of_torch_files_is_bounded_too(tmp_path, monkeypatch):
    import torch

    path = tmp_path / "a.pth"
    torch.save({"w": torch.ones(3)}, path)
    with Archive(path) as archive:
        assert any(name.endswith("/data.pkl") for name in archive.names)
    whole = bytearray(path.read_bytes())
    record = whole.rindex(b"PK\x06\x06")
    whole[record + 40 : record + 48] = (2**40).to_bytes(8, "little")  # the 32-bit one stays small
    (tmp_path / "b.pth").write_bytes(whole)
    with pytest.raises(UnsafeCheckpointError, match="table of contents"):
        Archive(tmp_path / "b.pth")
    monkeypatch.setattr(archive_module, "_MAX_DIRECTORY", 100)
    with pytest.raises(UnsafeCheckpointError, match="table of contents"):
        Archive(path)
