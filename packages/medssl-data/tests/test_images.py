from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_data.errors import MissingFileError, UnreadableImageError
from medssl_data.images.decoding import read_image, read_rgb
from medssl_data.images.reading import Reading
from PIL import Image, ImageFile

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], -1)


def saved(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "pgm"])
def test_lossless_grey_comes_back_exactly(tmp_path: Path, suffix: str) -> None:
    picture = read_image(saved(tmp_path / f"a.{suffix}", RAMP))
    assert picture.rule == "grey"
    np.testing.assert_array_equal(picture.pixels, RAMP)
    rgb, _ = read_rgb(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(np.asarray(rgb), np.repeat(RAMP[..., None], 3, -1))


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_lossless_colour_comes_back_exactly(tmp_path: Path, suffix: str) -> None:
    np.testing.assert_array_equal(
        read_image(saved(tmp_path / f"a.{suffix}", COLOUR)).pixels, COLOUR
    )


def test_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", COLOUR)
    np.testing.assert_array_equal(read_image(path).pixels, np.asarray(Image.open(path)))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_stays_and_is_stretched_for_rgb(tmp_path: Path, suffix: str) -> None:
    deep = (RAMP.astype(np.uint16) + 1000) * 16
    path = saved(tmp_path / f"a.{suffix}", deep)
    picture = read_image(path)
    assert picture.pixels.dtype == np.uint16
    np.testing.assert_array_equal(picture.pixels, deep)
    rgb, rule = read_rgb(path)
    grey = np.asarray(rgb)[..., 0]
    expected = np.rint((deep.astype(float) - deep.min()) / (np.ptp(deep)) * 255)
    np.testing.assert_array_equal(grey, expected)
    assert "16000..19760 -> 0..255" in rule


def test_floats_and_wide_integers_are_stretched(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4))
    picture = read_image(path)
    assert picture.pixels.min() == 0
    assert picture.pixels.max() == 65535
    assert "-1..1" in picture.rule
    wide = saved(tmp_path / "b.tif", np.array([[0, 100_000]], np.int32))
    np.testing.assert_array_equal(read_image(wide).pixels, [[0, 65535]])


def test_nan_pixels_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", np.array([[0, np.nan]], np.float32))
    with pytest.raises(UnreadableImageError, match="NaN"):
        read_image(path)


def test_constant_sixteen_bit_is_black(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.full((2, 2), 500, np.uint16))
    assert np.asarray(read_rgb(path)[0]).max() == 0


def test_palette_alpha_and_bilevel(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOUR).quantize(16)
    picture = read_image(saved(tmp_path / "p.png", palette))
    np.testing.assert_array_equal(picture.pixels, np.asarray(palette.convert("RGB")))
    rgba = np.dstack([COLOUR, np.full((6, 8), 9, np.uint8)])
    picture = read_image(saved(tmp_path / "a.png", rgba))
    assert picture.rule == "alpha dropped"
    np.testing.assert_array_equal(picture.pixels, COLOUR)
    grey_alpha = np.dstack([RAMP, np.full((6, 8), 9, np.uint8)])
    np.testing.assert_array_equal(read_image(saved(tmp_path / "la.png", grey_alpha)).pixels, RAMP)
    bits = read_image(saved(tmp_path / "b.png", Image.fromarray(RAMP > 99)))
    np.testing.assert_array_equal(bits.pixels, (RAMP > 99) * 255)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
def test_exif_orientation_is_applied_and_recorded(tmp_path: Path, turn: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(COLOUR), exif=exif)
    plain = COLOUR if suffix == "tif" else np.asarray(Image.open(path))
    by_hand = {
        1: plain, 2: plain[:, ::-1], 3: plain[::-1, ::-1], 4: plain[::-1],
        5: plain.swapaxes(0, 1), 6: plain.swapaxes(0, 1)[:, ::-1],
        7: plain.swapaxes(0, 1)[::-1, ::-1], 8: plain.swapaxes(0, 1)[::-1],
    }[turn]  # fmt: skip
    picture = read_image(path)
    np.testing.assert_array_equal(picture.pixels, by_hand)
    assert ("EXIF" in picture.rule) == (turn != 1)
    flat = read_image(path, reading=Reading(exif_orientation=False))
    np.testing.assert_array_equal(flat.pixels, by_hand if suffix == "tif" else plain)


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", RAMP).rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(path).pixels, RAMP)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello, I am no picture", "is not a PNG"),
        (b"\x89PNG\r\n\x1a\n", "cannot|is no"),
    ],
)
def test_no_pictures_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad picture é.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        read_image(path)
    assert "bad picture é.png" in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = saved(tmp_path / f"a.{suffix}", noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UnreadableImageError, match=path.name):
        read_image(path)


PUBLISHED = Reading().as_published()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_the_study_took_truncated_files_as_far_as_they_go(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (256, 64, 3), np.uint8)
    path = saved(tmp_path / f"a.{suffix}", noise)
    whole = read_image(path, reading=PUBLISHED).pixels
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    picture = read_image(path, reading=PUBLISHED)
    same = (picture.pixels == whole).all((1, 2))
    rows = slice(-96, None) if suffix == "bmp" else slice(96)  # a BMP begins at the bottom
    assert same[rows].all()
    assert not same.all()
    assert picture.rule.startswith("damaged, read as far as it goes")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    with pytest.raises(UnreadableImageError):
        read_image(path)


def test_damaged_files_change_nothing_for_other_threads(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = saved(tmp_path / "a.jpg", noise)
    path.write_bytes(path.read_bytes()[:1500])

    def is_read(index: int) -> bool:
        try:
            read_image(path, reading=PUBLISHED if index % 2 else None)
        except UnreadableImageError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(is_read, range(400))) == [False, True] * 200


def test_the_study_clipped_deep_grey(tmp_path: Path) -> None:
    deep = np.array([[0, 100, 255], [256, 4000, 65535]], np.uint16)
    image, rule = read_rgb(saved(tmp_path / "a.png", deep), reading=PUBLISHED)
    np.testing.assert_array_equal(np.asarray(image)[..., 0], [[0, 100, 255], [255, 255, 255]])
    assert rule == "0..65535 clipped"


def test_rules_at_their_defaults_keep_the_identity_of_version_0_1() -> None:
    assert Reading().model_dump_json() == (
        '{"pixel_limit":89478485,"exif_orientation":true,"reduced":null,"axis":2,'
        '"position":0.5,"window":null,"transposed":false}'
    )
    changed = [{"truncated": True}, {"deep_grey": "clipped"}, {"exif_orientation": False}]
    read = [Reading(), PUBLISHED, *(Reading().model_copy(update=change) for change in changed)]
    assert len({one.model_dump_json() for one in read}) == 5
    assert [Reading.model_validate(one.model_dump()) for one in read] == read


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"gone.png is not there"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(UnreadableImageError, match="is a folder"):
        read_image(tmp_path)


def test_pixel_limit_is_checked_before_decoding(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", RAMP)
    with pytest.raises(UnreadableImageError, match="8 x 6 pixels, more than the limit of 40"):
        read_image(path, reading=Reading(pixel_limit=40))


def test_a_huge_header_is_refused_at_once(tmp_path: Path) -> None:
    # A BMP header of 30,000 x 30,000 pixels without the pixels.
    import struct

    header = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
    header += struct.pack("<IiiHHIIiiII", 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0)
    path = tmp_path / "huge.bmp"
    path.write_bytes(header)
    with pytest.raises(UnreadableImageError, match=r"huge.bmp"):
        read_image(path)


def test_reduced_decoding_is_off_by_default_and_recorded(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", np.zeros((512, 640, 3), np.uint8))
    assert read_image(path).pixels.shape == (512, 640, 3)
    small = read_image(path, reading=Reading(reduced=128))
    assert small.pixels.shape == (128, 160, 3)
    assert "decoded at 160/640" in small.rule


@settings(deadline=None, max_examples=80)
@given(data=st.data(), suffix=st.sampled_from(["png", "jpg", "tif", "bmp"]))
def test_damaged_files_never_escape_as_other_errors(
    data: st.DataObject, suffix: str, tmp_path_factory
) -> None:
    path = saved(tmp_path_factory.mktemp("fuzz") / f"a.{suffix}", COLOUR)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        picture = read_image(path)
    except UnreadableImageError:
        return
    assert picture.pixels.ndim in {2, 3}
