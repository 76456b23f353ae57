"""Kept pictures are those that would be made; changed, damaged or foreign entries are not given."""

import os
import pickle
import stat
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from medssl_data import load_dataset
from medssl_data.dataset import ImageDataset
from medssl_data.errors import SettingError
from medssl_data.images import cache as cache_module
from medssl_data.images.cache import PictureCache, cache_from_environment
from medssl_data.images.parallel import quietly
from medssl_data.images.reading import Reading
from PIL import Image


def half(image: Image.Image) -> Image.Image:
    return image.resize((4, 5), Image.Resampling.BICUBIC)


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of coloured and grey pictures that count as written."""
    monkeypatch.setattr(cache_module, "_SETTLED", -1.0)
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for index, shape in enumerate([(9, 8, 3), (9, 8)]):
            pixels = generator.integers(0, 255, shape, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "mine" / name / f"{index}.png")
    return tmp_path / "mine"


def cached(folder: Path, limit: int = 10**9) -> ImageDataset:
    data = load_dataset(f"folder:{folder}", split="none")
    return replace(data, cache=PictureCache(folder.parent / "kept", limit))


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in (folder.parent / "kept").rglob("*") if path.is_file())


def refuse(image: Image.Image) -> Image.Image:
    raise AssertionError(image)


def test_kept_pictures_are_those_that_were_made_and_are_not_made_again(colours: Path) -> None:
    data = cached(colours)
    plain = [half(data.image(index)) for index in range(4)]
    for make in (half, refuse):
        for index in range(4):
            picture = data.derive(index, "half", make)
            assert picture.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(picture), np.asarray(plain[index]))
    assert len(entries(colours)) == 4
    sizes = {path.stat().st_size for path in entries(colours)}
    assert sizes == {17 + 20, 17 + 60}  # grey pictures take a third


@pytest.mark.parametrize("what", ["content", "recipe", "reading", "versions"])
def test_whatever_decides_pixels_is_another_entry(colours: Path, what: str, monkeypatch) -> None:
    data = cached(colours)
    data.derive(0, "half", half)
    recipe = "half"
    if what == "content":
        path = data.manifest.root / data.manifest.paths[0]
        before = path.stat()
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
        with path.open("ab") as stream:
            stream.truncate(before.st_size)  # the same size and, as rsync sets it, the same time
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif what == "recipe":
        recipe = "other"
    elif what == "reading":
        manifest = replace(data.manifest, reading=Reading(exif_orientation=False))
        data = replace(data, manifest=manifest)
    else:
        monkeypatch.setattr(cache_module, "_versions", lambda: ("pillow 99",))
    np.testing.assert_array_equal(
        np.asarray(data.derive(0, recipe, half)), np.asarray(half(data.image(0)))
    )
    assert len(entries(colours)) == 2


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
def test_a_damaged_entry_is_made_again(colours: Path, damage: str) -> None:
    data = cached(colours)
    expected = np.asarray(data.derive(0, "half", half))
    (entry,) = entries(colours)
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    damaged = {"cut": content[:-9], "flip": content, "empty": b"", "foreign": b"GIF89a" * 20}
    entry.write_bytes(damaged[damage])
    np.testing.assert_array_equal(np.asarray(data.derive(0, "half", half)), expected)
    np.testing.assert_array_equal(np.asarray(data.derive(0, "half", refuse)), expected)


def test_a_folder_that_is_only_read_is_used(colours: Path, monkeypatch) -> None:
    data = cached(colours)
    data.derive(0, "half", half)
    os.utime(entries(colours)[0], (0, 0))

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(cache_module.os, "utime", refused)
    data.derive(0, "half", refuse)


def test_a_file_that_was_just_written_is_not_kept(colours: Path, monkeypatch) -> None:
    monkeypatch.setattr(cache_module, "_SETTLED", 1e9)
    data = cached(colours)
    data.derive(0, "half", half)
    assert entries(colours) == []


def test_a_file_that_changes_while_it_is_read_is_not_kept(colours: Path) -> None:
    data = cached(colours)
    path = data.manifest.root / data.manifest.paths[0]

    def slow(image: Image.Image) -> Image.Image:
        with path.open("ab") as stream:
            stream.write(b"x")
        return half(image)

    data.derive(0, "half", slow)
    assert entries(colours) == []


def test_it_stays_within_its_limit_and_old_entries_make_room(colours: Path, monkeypatch) -> None:
    monkeypatch.setattr(cache_module, "_SHARDS", 1)
    monkeypatch.setattr(PictureCache, "_entry", lambda self, path, *_: self.folder / path.name)
    data = cached(colours, limit=100)
    for index in range(4):
        data.derive(index, "half", half)
    assert sum(path.stat().st_size for path in entries(colours)) <= 100
    (colours.parent / "kept" / ".0.x").write_bytes(bytes(90))  # what a killed process leaves
    for path in entries(colours):
        os.utime(path, (0, 0))
    data.derive(0, "half", half)  # found, so it is young again
    (colours.parent / "kept" / "0.png").unlink()
    data.derive(0, "half", half)
    assert [path.name for path in entries(colours)].count("0.png") == 1
    assert sum(path.stat().st_size for path in entries(colours)) <= 100


def test_a_folder_that_cannot_be_written_is_said_once(colours: Path, caplog) -> None:
    cache_module._warn_once.cache_clear()
    (colours.parent / "kept").write_text("a file stands where the folder should")
    data = cached(colours)
    for index in range(4):
        np.testing.assert_array_equal(
            np.asarray(data.derive(index, "half", half)), np.asarray(half(data.image(index)))
        )
    assert len([r for r in caplog.records if "pictures are not kept" in r.message]) == 1


def test_several_processes_share_it(colours: Path) -> None:
    script = (
        "import sys; from medssl_data.images import cache\n"
        "from pathlib import Path; from PIL import Image\n"
        "cache._SETTLED = -1.0\n"
        "kept = cache.PictureCache(Path(sys.argv[1]), 10**9)\n"
        "for path in sorted(Path(sys.argv[2]).rglob('*.png')) * 20:\n"
        "    make = lambda: Image.open(path).convert('RGB').resize((64, 64))\n"
        "    assert kept.picture(path, 'r', make).tobytes() == make().tobytes()\n"
    )
    words = [sys.executable, "-c", script, str(colours.parent / "kept"), str(colours)]
    running = [subprocess.Popen(words) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(entries(colours)) == 4


def test_volumes_whose_numbers_lie_elsewhere_are_not_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cache_module, "_SETTLED", -1.0)
    kept = PictureCache(tmp_path / "kept", 10**9)
    headers = {
        "a.mha": "ElementDataFile = LOCAL\n", "b.mhd": "ElementDataFile = b.raw\n",
        "c.nhdr": "NRRD0004\ndata file: c.raw\n", "d.nrrd": "NRRD0004\nencoding: raw\n\n",
    }  # fmt: skip
    for name, text in headers.items():
        (tmp_path / name).write_text(text)
        kept.picture(tmp_path / name, "r", lambda: Image.new("RGB", (2, 2)))
    assert len([path for path in (tmp_path / "kept").rglob("*") if path.is_file()]) == 2


def test_the_environment_turns_it_on(tmp_path: Path, colours: Path, monkeypatch) -> None:
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path / "home"))
    for text, limit in {"20GB": 20 * 10**9, "1.5 M": 1_500_000, "300": 300}.items():
        monkeypatch.setenv("MEDSSL_IMAGE_CACHE", text)
        assert cache_from_environment() == PictureCache(tmp_path / "home" / "pictures", limit)
    data = load_dataset(f"folder:{colours}", split="none")
    assert data.cache is not None
    assert pickle.loads(pickle.dumps(data)).select([0]).cache == data.cache
    for text in ("", "0"):
        monkeypatch.setenv("MEDSSL_IMAGE_CACHE", text)
        assert load_dataset(f"folder:{colours}", split="none").cache is None
    monkeypatch.setenv("MEDSSL_IMAGE_CACHE", "much")
    with pytest.raises(SettingError, match="MEDSSL_IMAGE_CACHE='much' is not a size") as caught:
        load_dataset(f"folder:{colours}")
    assert caught.value.exit_code == 2


def test_entries_can_be_read_by_others(colours: Path) -> None:
    cached(colours).derive(0, "half", half)
    assert stat.S_IMODE(entries(colours)[0].stat().st_mode) == 0o644


def test_threads_may_ask_at_a_time(colours: Path) -> None:
    data = cached(colours)
    assert data.thread_safe
    expected = [np.asarray(data.image(index)) for index in range(4)]
    wrong: list[int] = []

    def ask() -> None:
        for index in [0, 1, 2, 3] * 20:
            same = np.array_equal(np.asarray(data.image(index)), expected[index])
            wrong.extend([] if same else [index])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_filters_of_warnings_come_back_whoever_leaves_last() -> None:
    before = list(warnings.filters)
    first, second = quietly(), quietly()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert list(warnings.filters) != before
    second.__exit__(None, None, None)
    assert list(warnings.filters) == before
