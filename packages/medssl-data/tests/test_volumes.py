"""Slices of volumes: position, window and orientation, written and read back with SimpleITK."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from medssl_data import load_dataset
from medssl_data.errors import SettingError, UnreadableImageError
from medssl_data.images.decoding import read_image
from medssl_data.images.reading import Reading, read_slice_name
from medssl_data.images.volumes import slice_index, to_bytes

WINDOW = (-1000.0, 250.0)
HOUNSFIELD = np.linspace(-1200, 400, 5 * 4 * 3).reshape(5, 4, 3).astype(np.int16)
"""Indexed z, y, x."""


def grey(values: np.ndarray) -> np.ndarray:
    """Clip, scale to 0..255 and truncate, as the protocol says."""
    return ((np.clip(values.astype(float), -1000, 250) + 1000) / 1250 * 255).astype(np.uint8)


def saved(path: Path, direction: tuple[float, ...] | None = None) -> Path:
    toolkit = pytest.importorskip("SimpleITK")
    volume = toolkit.GetImageFromArray(HOUNSFIELD)
    if direction is not None:
        volume.SetDirection(direction)
    toolkit.WriteImage(volume, str(path))
    return path


def test_the_window_of_the_study() -> None:
    values = np.array([[-2000.0, -1000.0, -500.0, 0.0, 250.0, 900.0]])
    assert to_bytes(values, WINDOW).tolist() == [[0, 0, 102, 204, 255, 255]]


@pytest.mark.parametrize("suffix", ["mha", "nrrd", "nii.gz"])
def test_the_mid_slice_as_displayed_and_as_published(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}")
    shown = read_image(path, reading=Reading(window=WINDOW))
    np.testing.assert_array_equal(shown.pixels, grey(HOUNSFIELD[2]))
    turned = read_image(path, reading=Reading(window=WINDOW, transposed=True))
    np.testing.assert_array_equal(turned.pixels, grey(HOUNSFIELD[2]).T)
    assert "slice z=2, window -1000..250" in turned.rule


@pytest.mark.parametrize(("position", "index"), [(0, 0), (4, 4), (0.0, 0), (0.99, 4), (1.0, 4)])
def test_positions_are_indices_or_fractions(tmp_path: Path, position, index: int) -> None:
    path = saved(tmp_path / "a.mha")
    picture = read_image(path, reading=Reading(window=WINDOW, position=position))
    np.testing.assert_array_equal(picture.pixels, grey(HOUNSFIELD[index]))


def test_other_axes_show_the_head_above(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.mha")
    sagittal = read_image(path, reading=Reading(window=WINDOW, axis=0, position=1))
    np.testing.assert_array_equal(sagittal.pixels, grey(HOUNSFIELD[::-1, :, 1]))
    coronal = read_image(path, reading=Reading(window=WINDOW, axis=1, position=3))
    np.testing.assert_array_equal(coronal.pixels, grey(HOUNSFIELD[::-1, 3]))


def test_a_volume_that_lies_the_other_way_is_turned(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.mha", (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
    picture = read_image(path, reading=Reading(window=WINDOW))
    np.testing.assert_array_equal(picture.pixels, grey(HOUNSFIELD[2, ::-1, ::-1]))


def test_slices_that_are_not_there(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.mha")
    with pytest.raises(UnreadableImageError, match="has 5 slices and none at 7"):
        read_image(path, reading=Reading(position=7))
    with pytest.raises(UnreadableImageError, match="has no slices"):
        slice_index(path, 0, 0.5)


def test_a_volume_without_slices_and_a_cut_off_one_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.mha")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"DimSize = 3 4 5", b"DimSize = 3 4 0"))
    with pytest.raises(UnreadableImageError, match=r"a\.mha"):
        read_image(path)
    path.write_bytes(content[:-40])
    with pytest.raises(UnreadableImageError, match=r"a\.mha"):
        read_image(path, reading=Reading(position=4))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"NDims = 3", b"NDims =-3"),
        (b"NDims = 3\n", b""),
        (b"BinaryData = True", b"BinaryData = False"),  # its numbers would be text
        (b"BinaryData = True", b"BinaryData =xTrue"),
        (b"BinaryData = True", b"BinaryData =\nTrue"),
        (b"BinaryData = True\n", b""),
        (b"DimSize", b"BinaryData\nDimSize"),
    ],
)
def test_headers_on_which_the_toolkit_ends_the_process_are_refused(tmp_path, before, after) -> None:
    path = saved(tmp_path / "a.mha")
    content = path.read_bytes()
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))
    with pytest.raises(UnreadableImageError, match=r"a\.mha is not a binary MetaImage"):
        read_image(path)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two slices of one volume, and the volume as the settings cut it."""
    saved(tmp_path / "a.mha")
    (tmp_path / "t.csv").write_text("path,label,item\na.mha,0,z=4\na.mha,1,x=0.5\na.mha,1,\n")
    return tmp_path / "t.csv"


def test_a_table_names_slices_and_settings_name_windows(table: Path) -> None:
    data = load_dataset(f"table:{table},window=-1000..250,axis=y,slice=1", split="none")
    assert data.ids == ("a.mha#z=4", "a.mha#x=0.5", "a.mha")
    planes = (HOUNSFIELD[4], HOUNSFIELD[::-1, :, 1], HOUNSFIELD[::-1, 1])
    for index, plane in enumerate(planes):
        np.testing.assert_array_equal(np.asarray(data.image(index))[..., 0], grey(plane))
    assert data.notes == ("images read with axis=y, slice=1, window=-1000..250",)
    other = load_dataset(f"table:{table},window=-1000..251,axis=y,slice=1", split="none")
    assert other.fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("window=5", "write window=LOW..HIGH"),
        ("window=9..2", "write window=LOW..HIGH"),
        ("axis=w", "write axis=x, y or z"),
        ("slice=1.5", "write slice=an index"),
        ("reduced=0", "write reduced=the side"),
        ("colour=1", "has no setting 'colour'; images have window, axis, slice, reduced, limit"),
    ],
)
def test_settings_that_are_not_understood(table: Path, setting: str, message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        load_dataset(f"table:{table},{setting}")
    assert caught.value.exit_code == 2


def test_items_that_name_no_slice(table: Path) -> None:
    for item in ("60", "w=3", "z=1.5", "z=-1"):
        assert read_slice_name(Reading(), item) is None
        with pytest.raises(UnreadableImageError, match="names no slice"):
            read_image(table.parent / "a.mha", item=item)


def test_a_path_that_ends_like_a_setting_is_a_path(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "scans,window=1..2"
    for name in "ab":
        (folder / name).mkdir(parents=True)
        Image.new("L", (640, 480), 9).save(folder / name / "0.jpg")
    assert load_dataset(f"folder:{folder}").notes == ()
    small = load_dataset(f"folder:{folder},reduced=100,limit=400000")
    assert small.image(0).size == (160, 120)
    assert small.manifest.reading == Reading(reduced=100, pixel_limit=400_000)


# ---------------------------------------------------------------------------------- headers


WRITTEN = ("mha", "mhd", "nrrd", "nhdr", "nii", "nii.gz")
KINDS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_the_toolkit_writes_is_read(tmp_path: Path, suffix, compressed, kind) -> None:
    toolkit = pytest.importorskip("SimpleITK")
    values = np.arange(60).reshape(5, 4, 3).astype(kind)
    path = tmp_path / f"a b.{suffix}"
    toolkit.WriteImage(toolkit.GetImageFromArray(values), str(path), compressed)
    picture = read_image(path, reading=Reading(window=(0, 255)))
    np.testing.assert_array_equal(picture.pixels, values[2].astype(np.uint8))


def changed(path: Path, before: bytes, after: bytes) -> Path:
    content = path.read_bytes()
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))
    return path


ELSEWHERE = [
    b"/etc/passwd", b"../secret.raw", b"../in/a.raw", b"sub/a.raw", b"/etc/host%s 1 1 1",
    b"a%03d.raw 1 5 1", b"LIST", b"LIST 2", b"link.raw", b"pipe.raw", b"absent.raw", b".",
]  # fmt: skip


@pytest.mark.parametrize("named", ELSEWHERE, ids=lambda name: name.decode())
@pytest.mark.parametrize("suffix", ["mha", "mhd", "nrrd", "nhdr"])
def test_no_header_leads_to_another_file(tmp_path: Path, suffix: str, named: bytes) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for place in (tmp_path / "secret.raw", folder / "a%03d.raw", folder / "a.raw"):
        place.write_bytes(bytes(1000))
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    os.mkfifo(folder / "pipe.raw")
    path = saved(folder / f"v.{suffix}")
    if suffix == "nrrd":
        changed(path, b"endian:", b"data file: " + named + b"\nendian:")
    else:
        before = {"mha": b"= LOCAL", "mhd": b"= v.raw", "nhdr": b"file: v.raw"}[suffix]
        changed(path, before, before.partition(b" ")[0] + b" " + named)
    with pytest.raises(UnreadableImageError, match=rf"v\.{suffix} "):
        read_image(path)


LIES = [
    ("mha", b"DimSize = 3 4 5", b"DimSize = 3 4 900"),
    ("mha", b"DimSize = 3 4 5", b"DimSize = 99999 99999 99999"),
    ("mha", b"DimSize = 3 4 5", b"DimSize = 3 4"),
    ("mha", b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 nan 1"),
    ("mha", b"Offset = 0 0 0", b"Offset = 0 inf 0"),
    ("mha", b"ElementType = MET_SHORT", b"ElementType = MET_OTHER"),
    ("mha", b"ElementType = MET_SHORT", b"ElementType = MET_SHORT\nElementNumberOfChannels = -1"),
    ("mha", b"ElementType = MET_SHORT", b"ElementType = MET_SHORT\nHeaderSize = 99999999999999"),
    ("nrrd", b"sizes: 3 4 5", b"sizes: 3 4 900"),
    ("nrrd", b"sizes: 3 4 5", b"sizes: 3 -4 5"),
    ("nrrd", b"dimension: 3", b"dimension: 3000000000"),
    ("nrrd", b"type: short", b"type: block"),
    ("nrrd", b"encoding: raw", b"encoding: hex"),
    ("nrrd", b"encoding: raw", b"encoding: raw\nline skip: 1000000000"),
    ("nrrd", b"space origin: (0,0,0)", b"space origin: (0,nan,0)"),
    ("nrrd", b"NRRD000", b"NRRX000"),
]


@pytest.mark.parametrize(("suffix", "before", "after"), LIES, ids=lambda value: str(value)[:40])
def test_headers_that_do_not_fit_their_file_are_refused(tmp_path, suffix, before, after) -> None:
    path = changed(saved(tmp_path / f"a.{suffix}"), before, after)
    with pytest.raises(UnreadableImageError, match=rf"a\.{suffix} "):
        read_image(path)


NIFTI_LIES = {
    "dim": (40, struct.pack("<h", -3)),
    "sizes": (42, struct.pack("<3h", 32000, 32000, 32000)),
    "datatype": (70, struct.pack("<h", 1792)),
    "vox_offset": (108, struct.pack("<f", np.nan)),
    "slope": (112, struct.pack("<f", np.inf)),
    "spacing": (80, struct.pack("<f", np.nan)),
    "rows": (280, struct.pack("<f", np.inf)),
    "a pair of files": (344, b"ni1\0"),
    "length": (0, struct.pack("<i", 7)),
}


@pytest.mark.parametrize("lie", NIFTI_LIES)
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_nifti_headers_that_do_not_fit_are_refused(tmp_path: Path, suffix: str, lie: str) -> None:
    path = saved(tmp_path / f"a.{suffix}")
    packed = suffix.endswith("gz")
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    place, value = NIFTI_LIES[lie]
    content[place : place + len(value)] = value
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UnreadableImageError, match=r"a\.nii"):
        read_image(path)


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_none_are_refused(tmp_path: Path, suffix: str, value: float) -> None:
    toolkit = pytest.importorskip("SimpleITK")
    values = np.zeros((5, 4, 3), np.float32)
    values[2, 1, 1] = value
    path = tmp_path / f"a.{suffix}"
    toolkit.WriteImage(toolkit.GetImageFromArray(values), str(path))
    with pytest.raises(UnreadableImageError, match="NaN or infinite"):
        read_image(path)


def test_a_packed_volume_that_is_cut_off_or_damaged_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii.gz")
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[-6] ^= 1  # of the checksum
    for bad in (content[:-20], bytes(damaged), content[:5]):
        path.write_bytes(bad)
        with pytest.raises(UnreadableImageError, match=r"a\.nii\.gz"):
            read_image(path)


def test_sizes_are_bounded_before_anything_is_unpacked(tmp_path: Path, monkeypatch) -> None:
    """A stream that unpacks for ever is not begun, and a sound one is looked through once."""
    import medssl_data.images.volume_headers as headers

    opened = []
    unpacked = headers._unpacked
    monkeypatch.setattr(headers, "_unpacked", lambda path: opened.append(path) or unpacked(path))
    path = saved(tmp_path / "a.nii.gz")
    for position in range(5):
        read_image(path, reading=Reading(position=position))
    assert len(opened) == 5 + 1  # the header of each, the values once
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[42:48] = struct.pack("<3h", 32000, 32000, 32000)
    path.write_bytes(gzip.compress(content))
    opened.clear()
    with pytest.raises(UnreadableImageError, match="more than the limit"):
        read_image(path)
    assert len(opened) == 1
