"""The user's own files: folder:, table:, medmnist:."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_data import load_dataset
from medssl_data.errors import (
    DataError,
    DuplicateIdError,
    EmptySourceError,
    LabelError,
    ManifestError,
    MissingDatasetError,
    MissingFileError,
    SettingError,
    TableError,
    UnknownDatasetError,
    UnreadableImageError,
    UnsafePathError,
)
from medssl_data.images import archives
from medssl_data.images.decoding import read_image
from PIL import Image


def picture(path: Path, grey: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 3), grey).save(path)


# --- folder: ---------------------------------------------------------------------------------


def test_folder_has_sorted_classes_and_paths_as_ids(class_folders: Path) -> None:
    data = load_dataset(f"folder:{class_folders}")
    assert data.classes == ("healthy", "ill")
    assert data.ids == ("healthy/0.png", "healthy/1.png", "ill/0.png", "ill/1.png", "ill/2.png")
    assert data.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.labels.dtype == np.int64
    image, label = data[2]
    assert (image.mode, image.size, label) == ("RGB", (10, 8), 1)
    assert type(label) is int


def test_a_folder_may_be_called_like_a_setting(class_folders: Path) -> None:
    odd = class_folders.rename(class_folders.with_name("scans,view=frontal"))
    assert len(load_dataset(f"folder:{odd}")) == 5


def test_folder_agrees_with_image_folder_convention(class_folders: Path) -> None:
    (class_folders / "ill" / "deeper").mkdir()
    picture(class_folders / "ill" / "deeper" / "x.PNG")
    (class_folders / "ill" / "notes.txt").write_text("no picture")
    (class_folders / ".hidden").mkdir()
    data = load_dataset(f"folder:{class_folders}")
    assert "ill/deeper/x.PNG" in data.ids
    assert len(data) == 6


def test_folder_of_splits(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        for name in ("a", "b"):
            picture(tmp_path / split / name / "0.png")
    data = load_dataset(f"folder:{tmp_path}")
    assert data.classes == ("a", "b")
    assert set(data.splits) == {"train", "val", "test"}
    assert data.manifest.split_policy == "official"
    assert len(data.split("val")) == 2


def test_folder_faults(tmp_path: Path) -> None:
    with pytest.raises(MissingDatasetError, match="is not there"):
        load_dataset(f"folder:{tmp_path / 'gone'}")
    with pytest.raises(EmptySourceError, match="no class folders"):
        load_dataset(f"folder:{tmp_path}")
    picture(tmp_path / "a" / "0.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(EmptySourceError, match=r"class folder .*b holds no image"):
        load_dataset(f"folder:{tmp_path}")


def test_folder_follows_links_but_not_in_circles(class_folders: Path) -> None:
    (class_folders / "ill" / "loop").symlink_to(class_folders / "ill", target_is_directory=True)
    (class_folders / "ill" / "link.png").symlink_to(class_folders / "healthy" / "0.png")
    data = load_dataset(f"folder:{class_folders}")
    assert "ill/link.png" in data.ids
    assert len(data) == 6


# --- table: ----------------------------------------------------------------------------------


def table(folder: Path, text: str, name: str = "t.csv") -> str:
    for grey, file in enumerate(("a.png", "b.png", "sub/c.png", "d é.png")):
        picture(folder / file, grey)
    (folder / name).write_bytes(text.encode())
    return f"table:{folder / name}"


def test_table_with_all_columns(tmp_path: Path) -> None:
    name = table(
        tmp_path, "label,path,group,view,split\nx,a.png,p1,front,train\ny,b.png,p2,,test\n"
    )
    data = load_dataset(name)
    assert data.classes == ("x", "y")
    assert data.groups == ("p1", "p2")
    assert data.views == ("front", "")
    assert data.splits == ("train", "test")


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.png,1\nb.png,10\nsub/c.png,2\n",
        "\ufeffpath,label\r\na.png,1\r\nb.png,10\r\nsub\\c.png,2\r\n",
        "Path;Label\na.png; 1\nb.png;10 \n ./sub/c.png;2\n\n",
        "label\tpath\n1\ta.png\n10\tb.png\n2\tsub/c.png\n",
        'path,label\n"a.png","1"\n"b.png",10\n"sub/c.png",2,\n',
    ],
    ids=["plain", "bom-crlf-backslash", "semicolon-spaces", "tab-reordered", "quoted"],
)
def test_tables_as_people_send_them(tmp_path: Path, text: str) -> None:
    data = load_dataset(table(tmp_path, text))
    assert data.classes == ("1", "2", "10")
    assert data.labels.tolist() == [0, 2, 1]
    assert data.manifest.paths == ("a.png", "b.png", "sub/c.png")


def test_table_with_absolute_and_non_ascii_paths(tmp_path: Path) -> None:
    name = table(tmp_path, f"path,label\n{tmp_path / 'a.png'},0\nd é.png,1\n")
    assert load_dataset(name).manifest.paths == ("a.png", "d é.png")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", TableError, "is empty"),
        ("path,label\n", EmptySourceError, "no rows"),
        ("file,label\na.png,1\n", TableError, "column 'path' is missing; the header names file"),
        ("path,label\na.png,1\nb.png,\n", TableError, "row 3: label is empty"),
        ("path,label\na.png,NaN\n", TableError, "row 2: label is empty"),
        ("path,label\ngone.png,1\n", MissingFileError, "row 2: image .*gone.png is not there"),
        ("path,label\n../t.png,1\n", UnsafePathError, "row 2: .*climbs out"),
        ("path,label\n/etc/passwd,1\n", UnsafePathError, "row 2: .*outside"),
        ("path,label\na.png,1\na.png,1\n", DuplicateIdError, "occurs 2 times"),
        ("path,label\na.png\n", TableError, "row 2: 1 cells for 2 columns"),
        ("path,label\na.png,1,2\n", TableError, "row 2: 3 cells for 2 columns"),
        ("path,path,label\na.png,1,2\n", TableError, "column name occurs twice"),
        ('path,label\na.png,"1\n', TableError, "unexpected end of data"),
        ("path,label\na.png,\0\n", TableError, "zero bytes"),
    ],
)
def test_table_faults_name_file_and_row(tmp_path: Path, text, kind, message) -> None:
    with pytest.raises(kind, match=message) as caught:
        load_dataset(table(tmp_path, text))
    assert "t.csv" in str(caught.value) or "t:" in str(caught.value)
    assert caught.value.exit_code == 3


def test_table_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("path,label\né.png,1\n".encode("latin-1"))
    with pytest.raises(TableError, match="not UTF-8"):
        load_dataset(f"table:{tmp_path / 't.csv'}")


def test_written_manifests_are_tables(tmp_path: Path, class_folders: Path) -> None:
    first = load_dataset(f"folder:{class_folders}")
    first.manifest.to_csv(class_folders / "m.csv")
    second = load_dataset(f"table:{class_folders / 'm.csv'}", split="none")
    assert second.classes == first.classes
    assert second.manifest.images_fingerprint == first.manifest.images_fingerprint


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    columns = arrow.table({"path": ["a.png", "b.png"], "label": [1.0, 0.0], "group": ["p", None]})
    parquet.write_table(columns, tmp_path / "t.parquet")
    data = load_dataset(f"table:{tmp_path / 't.parquet'}")
    assert (data.classes, data.labels.tolist(), data.groups) == (("0", "1"), [1, 0], ("p", ""))


@settings(deadline=None, max_examples=80)
@given(content=st.one_of(st.binary(max_size=200), st.text('pathlbe,;\n\r"\0 .1', max_size=80)))
def test_any_bytes_are_a_table_or_a_clear_error(content, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else b"path,label\n" + content.encode())
    with pytest.raises(DataError) as caught:
        load_dataset(f"table:{path}")
    assert caught.value.exit_code == 3


# --- medmnist: -------------------------------------------------------------------------------


def medmnist(path: Path, *, save=np.savez_compressed, shape=(5, 6), **changed: object) -> str:
    generator = np.random.default_rng(0)
    arrays: dict[str, object] = {}
    for part, number in (("train", 6), ("val", 3), ("test", 4)):
        arrays[f"{part}_images"] = generator.integers(0, 255, (number, *shape), np.uint8)
        arrays[f"{part}_labels"] = np.arange(number)[:, None] % 2
    save(path, **(arrays | changed))
    return f"medmnist:{path}"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3)])
def test_medmnist_pictures_are_the_arrays(tmp_path: Path, save, shape) -> None:
    path = tmp_path / "pneumoniamnist.npz"
    data = load_dataset(medmnist(path, save=save, shape=shape))
    stored = np.load(path)
    assert data.classes == ("normal", "pneumonia")
    assert data.splits == ("train",) * 6 + ("val",) * 3 + ("test",) * 4
    expected = stored["test_images"][2]
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, -1)
    np.testing.assert_array_equal(np.asarray(data[11][0]), expected)
    assert (
        data.labels.tolist()
        == np.concatenate(
            [stored[f"{part}_labels"][:, 0] for part in ("train", "val", "test")]
        ).tolist()
    )


def test_large_compressed_arrays_are_unpacked_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(archives, "_IN_MEMORY", 10)
    archives._open_cached.cache_clear()
    data = load_dataset(medmnist(tmp_path / "x.npz"))
    assert isinstance(archives.open_member(tmp_path / "x.npz", "train_images"), np.memmap)
    np.testing.assert_array_equal(
        np.asarray(data[3][0])[..., 0], np.load(tmp_path / "x.npz")["train_images"][3]
    )
    archives._open_cached.cache_clear()
    assert data[3][0].size == (6, 5)
    assert len(list((tmp_path / "home" / "arrays").glob("*.npy"))) == 1 + 3


def test_stored_arrays_are_mapped_where_they_lie(tmp_path: Path) -> None:
    load_dataset(medmnist(tmp_path / "x.npz", save=np.savez))
    assert isinstance(archives.open_member(tmp_path / "x.npz", "train_images"), np.memmap)


def test_several_findings_need_a_target(tmp_path: Path) -> None:
    sizes = {"train": 6, "val": 3, "test": 4}
    labels = {f"{part}_labels": np.eye(14, dtype=int)[:n] for part, n in sizes.items()}
    name = medmnist(tmp_path / "chestmnist_64.npz", **labels)
    with pytest.raises(SettingError, match="choose one of atelectasis, cardiomegaly"):
        load_dataset(name)
    data = load_dataset(f"{name},target=effusion")
    assert data.classes == ("no effusion", "effusion")
    assert data.labels.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0]
    assert load_dataset(f"{name},target=2").labels.tolist() == data.labels.tolist()
    with pytest.raises(SettingError, match="unknown setting colour"):
        load_dataset(f"{name},colour=2")


def test_medmnist_faults(tmp_path: Path) -> None:
    cases = [
        ({"test_labels": np.full((4, 1), 9)}, LabelError, "label 9 is outside the 2 classes"),
        ({"test_labels": np.zeros((3, 1), int)}, ManifestError, "does not fit"),
        ({"val_labels": np.zeros((3, 1))}, ManifestError, "not whole numbers"),
        ({"val_images": np.zeros((3, 5, 6, 7), np.uint8)}, ManifestError, "no 8-bit 2-D"),
        ({"val_images": np.array([{}] * 3)}, UnreadableImageError, "Python objects"),
    ]
    for number, (changed, kind, message) in enumerate(cases):
        name = medmnist(tmp_path / f"pneumoniamnist_{number}.npz", **changed)
        with pytest.raises(kind, match=message):
            load_dataset(name)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ManifestError, match="not a MedMNIST file"):
        load_dataset(f"medmnist:{tmp_path / 'other.npz'}")
    with pytest.raises(MissingDatasetError, match=r"gone.npz is not there"):
        load_dataset(f"medmnist:{tmp_path / 'gone.npz'}")


def test_a_pickle_in_an_archive_is_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trapped"

    class Trap:
        def __reduce__(self):
            return Path.touch, (trap,)

    path = tmp_path / "evil.npz"
    np.savez(path, train_images=np.array([Trap()], object), train_labels=np.zeros((1, 1), int))
    with pytest.raises(UnreadableImageError, match="could run code"):
        load_dataset(f"medmnist:{path}")
    assert not trap.exists()


@pytest.mark.parametrize("share", [0.2, 0.7, 0.99])
def test_truncated_archives(tmp_path: Path, share: float) -> None:
    path = tmp_path / "x.npz"
    name = medmnist(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UnreadableImageError, match=r"x.npz is not a readable .npz"):
        load_dataset(name)


def test_an_archive_that_lies_about_its_size(tmp_path: Path) -> None:
    from numpy.lib import format as npy

    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("train_images.npy", "w") as member:
        npy.write_array_header_1_0(
            member, {"shape": (10**6, 999, 999), "fortran_order": False, "descr": "|u1"}
        )
    with pytest.raises(UnreadableImageError, match="holds another amount"):
        load_dataset(f"medmnist:{path}")


def test_damage_inside_an_array_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    name = medmnist(path)
    content = bytearray(path.read_bytes())
    start = content.index(b"train_images.npy") + 200
    content[start] ^= 255
    path.write_bytes(bytes(content))
    with pytest.raises(UnreadableImageError, match=r"x.npz"):
        load_dataset(name)[0]


def test_an_array_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(
        path, train_images=np.zeros((1, 9000, 9000), np.uint8), train_labels=np.zeros((1, 1), int)
    )
    with pytest.raises(UnreadableImageError, match="more than 200 times its size"):
        load_dataset(f"medmnist:{path}")


def test_labels_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.npz"
    labels = np.array([[0], [10**12]])
    np.savez(path, train_images=np.zeros((2, 4, 4), np.uint8), train_labels=labels)
    with pytest.raises(LabelError, match="label 1000000000000 is beyond"):
        load_dataset(f"medmnist:{path}")


def test_a_header_of_nested_brackets_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.npz"
    text = b"{'descr': " + b"(" * 5000 + b")" * 4900
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "train_images.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
        )
    with pytest.raises(UnreadableImageError, match=r"deep\.npz"):
        load_dataset(f"medmnist:{path}")


@pytest.mark.parametrize("name", ["a.png", "a.mha", "a.csv", "a.npz", "a.dcm"])
def test_a_pipe_is_no_image_and_nothing_waits_for_it(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    if name.endswith((".csv", ".npz")):
        source = f"table:{tmp_path / name}" if name == "a.csv" else f"medmnist:{tmp_path / name}"
        with pytest.raises(DataError):
            load_dataset(source)
    else:
        with pytest.raises(UnreadableImageError, match="is a folder, a pipe or a device"):
            read_image(tmp_path / name)


def test_a_file_whose_name_is_no_text_is_named_before_any_work(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        picture(tmp_path / label / "0.png")
    (tmp_path / "a" / "0.png").rename(tmp_path / "a" / os.fsdecode(b"caf\xe9.png"))
    with pytest.raises(UnsafePathError, match=r"caf\\udce9.png': the name is not UTF-8 text"):
        load_dataset(f"folder:{tmp_path}")


# --- any source ------------------------------------------------------------------------------


def test_datasets_are_picklable_and_light(class_folders: Path, tmp_path: Path) -> None:
    for name in (
        f"folder:{class_folders}",
        medmnist(tmp_path / "x.npz"),
        "phantom:chest-xray,count=6",
    ):
        data = load_dataset(name)
        again = pickle.loads(pickle.dumps(data))
        assert again.fingerprint == data.fingerprint
        np.testing.assert_array_equal(np.asarray(again[1][0]), np.asarray(data[1][0]))


def test_unknown_sources_are_named() -> None:
    with pytest.raises(UnknownDatasetError, match="source 'floder:'"):
        load_dataset("floder:x")


def test_unreadable_images_are_named_when_they_are_asked_for(class_folders: Path) -> None:
    (class_folders / "ill" / "1.png").write_bytes(b"")
    data = load_dataset(f"folder:{class_folders}")
    with pytest.raises(UnreadableImageError, match=r"ill/1.png is empty"):
        data[3]


def test_real_pneumoniamnist(shared: Path) -> None:
    file = shared / "data" / "pneumoniamnist.npz"
    data = load_dataset(f"medmnist:{file}")
    assert len(data) == 3882 + 524 + 624
    assert data.classes == ("normal", "pneumonia")
    assert data[0][0].size == (28, 28)
    assert [data.splits.count(split) for split in ("train", "val", "test")] == [3882, 524, 624]
