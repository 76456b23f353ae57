import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_data.errors import DuplicateIdError, LabelError, ManifestError, UnsafePathError
from medssl_data.manifest import UNLABELLED, Manifest, Row
from medssl_data.synthetic.phantom import chest_xray
from medssl_data.tables.paths import confine

CLASSES = ("normal", 'ill; very, "so"', "naïve\nclass")

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
names = texts.map(lambda text: f"x{text}y")
steps = st.text(st.characters(categories=["L", "N"], include_characters=" -_.é"), min_size=1)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    ids = draw(st.lists(names, unique=True, max_size=6))
    rows = [
        Row(
            ident,
            f"d/{draw(steps)}x",
            draw(st.integers(-1, len(CLASSES) - 1)),
            draw(texts),
            draw(texts),
            draw(texts),
            draw(texts),
        )
        for ident in ids
    ]
    soft = draw(st.booleans())
    targets = tuple(draw(st.floats(0, 1)) for _ in ids) if soft else None
    return Manifest.from_rows(
        draw(names),
        Path("data"),
        CLASSES,
        rows,
        targets=targets,
        notes=tuple(draw(st.lists(names, max_size=2))),
        label_policy=draw(texts),
        synthetic=draw(st.booleans()),
    )


@settings(deadline=None, max_examples=60)
@given(manifest=manifests())
def test_csv_round_trip_keeps_everything(manifest: Manifest, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("csv") / "manifest.csv"
    manifest.to_csv(path)
    assert Manifest.from_csv(path, root=manifest.root) == manifest


def three(**fields: object) -> Manifest:
    rows = [Row("a", "a.png", 0, "p1", "frontal", "train"), Row("b", "b.png", 1, "p1", "lateral"),
            Row("c", "c.png", 1, "p2", "frontal", "test")]  # fmt: skip
    return Manifest.from_rows("three", Path("data"), ("n", "i"), rows, **fields)


def test_rows_come_back_as_they_went_in() -> None:
    assert [row.id for row in three().rows] == ["a", "b", "c"]
    assert len(three()) == 3
    assert three().counts() == {"n": 1, "i": 2}


def test_manifest_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        three().name = "other"  # type: ignore[misc]


def test_duplicate_ids_name_the_id_and_its_files() -> None:
    rows = [Row("a", "a.png", 0), Row("a", "b.png", 0)]
    with pytest.raises(DuplicateIdError, match=r"'a' occurs 2 times \(a.png, b.png\)") as caught:
        Manifest.from_rows("twice", Path(), ("n",), rows)
    assert caught.value.exit_code == 3


def test_label_outside_the_classes_names_the_image() -> None:
    with pytest.raises(LabelError, match="image 'a' has label 7, but there are 1 classes"):
        Manifest.from_rows("m", Path(), ("n",), [Row("a", "a.png", 7)])


def test_class_named_twice_is_refused() -> None:
    with pytest.raises(LabelError, match="class name occurs twice"):
        Manifest.from_rows("m", Path(), ("n", "n"), [])


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ManifestError, match="1 views for 2 ids"):
        Manifest("m", Path(), ("n",), ("a", "b"), ("a", "b"), (0, 0), views=("x",))


@pytest.mark.parametrize(
    "path", ["../a.png", "a/../../b.png", "/etc/passwd", "C:\\x.png", "..", "a/..", "", "x\0.png"]
)
def test_paths_that_leave_the_root_are_refused(path: str) -> None:
    with pytest.raises(UnsafePathError):
        Manifest.from_rows("m", Path(), ("n",), [Row("a", path, 0)])


def test_windows_separators_are_turned_round() -> None:
    assert confine("train\\n\\a.png") == "train/n/a.png"
    assert confine("./a//b.png") == "a/b.png"
    assert confine("a/..b/c.png") == "a/..b/c.png"


def test_select_keeps_order_and_targets() -> None:
    chosen = three(targets=(0.1, 0.2, 0.3)).select([2, 0])
    assert chosen.ids == ("c", "a")
    assert chosen.targets == (0.3, 0.1)
    assert chosen.splits == ("test", "train")


def test_filters() -> None:
    assert three().filter(split="test").ids == ("c",)
    assert three().filter(view=["frontal"], classes=["i"]).ids == ("c",)
    with pytest.raises(ManifestError, match="split 'val' does not occur; there is test, train"):
        three().filter(split="val")


def test_unlabelled_rows_can_be_dropped() -> None:
    manifest = Manifest.from_rows(
        "m", Path(), ("n",), [Row("a", "a.png", UNLABELLED), Row("b", "b.png", 0)]
    )
    assert manifest.filter(labelled=True).ids == ("b",)


def test_fingerprint_survives_a_copy_and_sees_each_column(class_folders: Path, tmp_path) -> None:
    import shutil

    from medssl_data.readers.folder import read_folder

    copy = shutil.copytree(class_folders, tmp_path / "elsewhere" / "mine")
    here, there = read_folder(class_folders), read_folder(copy)
    assert here.fingerprint == there.fingerprint
    seen = {here.fingerprint}
    seen.add(replace(here, labels=here.labels[::-1]).fingerprint)
    seen.add(replace(here, groups=("g",) * 5).fingerprint)
    seen.add(replace(here, splits=("s",) * 5).fingerprint)
    seen.add(replace(here, classes=("x", "y")).fingerprint)
    assert len(seen) == 5
    assert replace(here, labels=here.labels[::-1]).images_fingerprint == here.images_fingerprint


def test_fingerprint_sees_a_changed_size_and_stamps_a_changed_file(class_folders: Path) -> None:
    from medssl_data.readers.folder import read_folder

    before = read_folder(class_folders)
    before_images, stamps = before.images_fingerprint, before.stamps
    with (class_folders / "ill" / "0.png").open("ab") as stream:
        stream.write(b"x")
    after = read_folder(class_folders)
    assert after.images_fingerprint != before_images
    assert [a == b for a, b in zip(stamps, after.stamps, strict=True)].count(False) == 1


def test_content_fingerprint_sees_what_sizes_do_not(class_folders: Path) -> None:
    from medssl_data.readers.folder import read_folder

    before = read_folder(class_folders)
    first = before.content_fingerprint()
    file = class_folders / "ill" / "0.png"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert read_folder(class_folders).fingerprint == before.fingerprint
    assert read_folder(class_folders).content_fingerprint() != first


def test_drawn_manifests_are_not_written_as_csv(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="write it with `medssl-data phantom`"):
        chest_xray(count=4).to_csv(tmp_path / "x.csv")


def test_damaged_manifest_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    three().to_csv(path)
    good = path.read_text()
    for bad, match in (
        ("path,label\n", "not a manifest"),
        (good.replace('{"name"', "{name"), "first line is damaged"),
        (good.replace("id,path", "path,id"), "must name the columns"),
        (good.replace(",i,", ",zebra,"), "'zebra' is not one of n, i"),
        (good + "x,y\n", "row 6 has 2 cells"),
    ):
        path.write_text(bad)
        with pytest.raises(ManifestError, match=match):
            Manifest.from_csv(path)


def test_first_line_is_json(tmp_path: Path) -> None:
    three().to_csv(tmp_path / "m.csv")
    first = (tmp_path / "m.csv").read_text().splitlines()[0]
    assert json.loads(first.removeprefix("# medssl-manifest 1 "))["classes"] == ["n", "i"]
