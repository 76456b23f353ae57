"""DICOM against pydicom's own files and SimpleITK's reading; without the extra, exit code 4."""

import sys
from pathlib import Path

import numpy as np
import pytest
from medssl_data.errors import MissingExtraError, UnreadableImageError
from medssl_data.images.decoding import read_image
from medssl_data.images.reading import Reading


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


COMPRESSED = ["MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm"]


def decoded(name: str) -> np.ndarray:
    """What is shown of a compressed file; skipped where its decoder is not installed."""
    try:
        return read_image(bundled(name), reading=Reading(window=(0, 2000))).pixels
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_without_loss_is_the_plain_file(name: str) -> None:
    plain = read_image(bundled("MR_small.dcm"), reading=Reading(window=(0, 2000)))
    np.testing.assert_array_equal(decoded(name), plain.pixels)


@pytest.mark.parametrize("name", ["693_J2KI.dcm", "JPEG2000.dcm", "JPGExtended.dcm"])
def test_compressed_with_loss_is_what_simpleitk_reads(name: str) -> None:
    toolkit = pytest.importorskip("SimpleITK")
    shown = decoded(name)
    values = toolkit.GetArrayFromImage(toolkit.ReadImage(str(bundled(name))))[0].astype(float)
    expected = np.rint(np.clip(values, 0, 2000) / 2000 * 255)
    assert np.abs(shown - expected).max() <= 1  # decoders of lossy files round differently


@pytest.mark.parametrize("name", ["SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_rle.dcm"])
def test_colours_are_those_of_simpleitk(name: str) -> None:
    toolkit = pytest.importorskip("SimpleITK")
    shown = decoded(name).astype(float)
    expected = toolkit.GetArrayFromImage(toolkit.ReadImage(str(bundled(name))))[0]
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).max() <= 4


def test_without_a_decoder_the_message_is_the_pip_line(monkeypatch) -> None:
    pytest.importorskip("pydicom")
    from pydicom.pixels.decoders import JPEGLSLosslessDecoder

    monkeypatch.setattr(JPEGLSLosslessDecoder, "_available", {})
    with pytest.raises(MissingExtraError, match=r"JPEG-LS.*pip install 'medssl-data\[dicom\]'"):
        read_image(bundled("MR_small_jpeg_ls_lossless.dcm"))


def test_several_compressed_frames_are_refused_with_advice() -> None:
    with pytest.raises(UnreadableImageError, match="2 frames; export the frame"):
        read_image(bundled("SC_rgb_rle_2frame.dcm"))


def written(path: Path, values: np.ndarray, **tags: object) -> Path:
    """A 12-bit radiograph with slope 2 and intercept -100."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.RescaleSlope, dataset.RescaleIntercept = 2, -100
    for name, value in ({"PhotometricInterpretation": "MONOCHROME2"} | tags).items():
        setattr(dataset, name, value)
    dataset.PixelData = values.astype("<u2").tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


STORED = np.arange(0, 4096, 64).reshape(8, 8)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_window_after_modality_and_inversion_last(tmp_path: Path, photometric: str) -> None:
    path = written(
        tmp_path / "a.dcm", STORED, PhotometricInterpretation=photometric,
        WindowCenter=3000, WindowWidth=4000,
    )  # fmt: skip
    # PS3.3 C.11.2.1.2: linear between centre - 0.5 -+ (width - 1) / 2.
    values = STORED * 2.0 - 100
    shown = np.clip((values - 2999.5) / 3999 + 0.5, 0, 1)
    shown = 1 - shown if photometric == "MONOCHROME1" else shown
    picture = read_image(path)
    np.testing.assert_array_equal(picture.pixels, np.rint(shown * 255))
    assert ("inverted" in picture.rule) == (photometric == "MONOCHROME1")


def test_without_a_window_the_range_is_shown(tmp_path: Path) -> None:
    picture = read_image(written(tmp_path / "a.dcm", STORED))
    np.testing.assert_array_equal(picture.pixels, np.rint(STORED / STORED.max() * 255))
    assert "range -100..7964" in picture.rule


def test_a_window_without_width_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.dcm", STORED, WindowCenter=3000, WindowWidth=0)
    with pytest.raises(UnreadableImageError, match="width 0 is too small"):
        read_image(path)
