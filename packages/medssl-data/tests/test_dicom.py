"""DICOM against pydicom's own files and SimpleITK's reading; without the extra, exit code 4."""

import sys
from pathlib import Path

import numpy as np
import pytest
from medssl_data.errors import MissingExtraError, UnreadableImageError
from medssl_data.images import read_image
from medssl_data.reading import Reading


def bundled(name: str) -> Path:
    pydicom = pytest.importorskip("pydicom")
    return Path(pydicom.__file__).parent / "data" / "test_files" / name


def test_without_the_extra_the_message_is_the_pip_line(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 64)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'medssl-data\[dicom\]'") as caught:
        read_image(path)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm"])
def test_values_are_those_of_simpleitk(name: str) -> None:
    toolkit = pytest.importorskip("SimpleITK")
    path = bundled(name)
    values = toolkit.GetArrayFromImage(toolkit.ReadImage(str(path)))[0].astype(float)
    picture = read_image(path, reading=Reading(window=(-100, 900)))
    expected = np.rint((np.clip(values, -100, 900) + 100) / 1000 * 255)
    np.testing.assert_array_equal(picture.pixels, expected)


def test_reports_and_several_frames_are_refused_with_advice() -> None:
    with pytest.raises(UnreadableImageError, match="without pixels"):
        read_image(bundled("rtplan.dcm"))
    with pytest.raises(UnreadableImageError, match="export the frame"):
        read_image(bundled("rtdose.dcm"))
