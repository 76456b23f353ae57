"""Tables as they arrive: every fault is one sentence with file and row, everything else is read."""

import csv
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from medssl_data import load_dataset
from medssl_data.catalog import load_manifest
from medssl_data.errors import (
    DataError,
    MissingFileError,
    TableError,
    UnreadableImageError,
    UnsafePathError,
)
from medssl_data.images.cifar import read_labels, read_record
from medssl_data.images.decoding import read_image
from medssl_data.manifest import Manifest
from medssl_data.synthetic.layouts import LAYOUTS
from medssl_data.synthetic.phantom import write_phantom
from PIL import Image

TABLES = {
    "bach": "ICIAR2018_BACH_Challenge/Photos/microscopy_ground_truth.csv",
    "chestx": "Data_Entry_2017.csv",
    "chexpert": "train.csv",
    "diabetic_retinopathy": "trainLabels.csv",
    "ichallenge_amd": "amd_labels.csv",
    "ichallenge_pm": "PALM-Training400/fovea_location_csv.csv",
    "montgomerycxr": "montgomery_metadata.csv",
    "shenzhencxr": "shenzhen_metadata.csv",
    "stoic": "metadata/reference.csv",
}
HEADED = [name for name in TABLES if name != "bach"]
FUZZ = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def tables_of(name: str, root: Path, change: Callable[[str], str] = str) -> Path:
    """Write the tables of a stand-in without its pictures, the main one changed."""
    plan = LAYOUTS[name].plan(24, np.random.default_rng(3))
    for path, text in plan.tables.items():
        target = root / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        content = change(text) if path == TABLES[name] else text
        target.write_bytes(content.encode("utf-8", "surrogatepass"))
    return root / name / TABLES[name]


def read(name: str, root: Path) -> Manifest:
    return load_manifest(name, root=root)


def rewritten(text: str, delimiter: str = ",", pad: str = "") -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\n")
    writer.writerows([[cell + pad for cell in row] for row in csv.reader(io.StringIO(text))])
    return buffer.getvalue()


SENDINGS = {
    "crlf": lambda text: text.replace("\n", "\r\n"),
    "bom": lambda text: "\ufeff" + text,
    "semicolons": lambda text: rewritten(text, ";"),
    "tabs": lambda text: rewritten(text, "\t"),
    "blank lines": lambda text: text.replace("\n", "\n\n") + "\n\n",
}


@pytest.mark.parametrize("sending", SENDINGS)
@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_read_however_it_was_saved(name: str, sending: str, tmp_path: Path) -> None:
    tables_of(name, tmp_path / "plain")
    tables_of(name, tmp_path / "sent", SENDINGS[sending])
    assert read(name, tmp_path / "sent").fingerprint == read(name, tmp_path / "plain").fingerprint


@pytest.mark.parametrize("name", [n for n in TABLES if not n.endswith("cxr")])
def test_blanks_around_cells_do_no_harm(name: str, tmp_path: Path) -> None:
    tables_of(name, tmp_path / "plain")
    tables_of(name, tmp_path / "sent", lambda text: rewritten(text, pad="  "))
    assert read(name, tmp_path / "sent").labels == read(name, tmp_path / "plain").labels


@pytest.mark.parametrize("name", HEADED)
def test_a_second_heading_line_is_named(name: str, tmp_path: Path) -> None:
    def twice(text: str) -> str:
        return text.partition("\n")[0] + "\n" + text

    table = tables_of(name, tmp_path, twice)
    with pytest.raises(DataError, match=r"row 2") as caught:
        read(name, tmp_path)
    assert table.name in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["chestx", "chexpert", "diabetic_retinopathy", "stoic"])
def test_the_order_of_columns_is_free_and_a_missing_one_is_named(name: str, tmp_path: Path) -> None:
    def reordered(text: str) -> str:
        rows = list(csv.reader(io.StringIO(text)))
        width = len(rows[0]) - (not rows[0][-1])  # lines of chestx end in a comma
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([row[:width][::-1] for row in rows])
        return buffer.getvalue()

    tables_of(name, tmp_path / "plain")
    tables_of(name, tmp_path / "turned", reordered)
    assert read(name, tmp_path / "turned").labels == read(name, tmp_path / "plain").labels
    table = tables_of(name, tmp_path / "cut", lambda text: "wrong" + text)
    with pytest.raises(
        TableError, match=r"column '.*' is missing; the header names wrong"
    ) as caught:
        read(name, tmp_path / "cut")
    assert str(table) in str(caught.value)


LABELS = {
    "bach": (",Normal\n", ",{}\n"),
    "chestx": (",No Finding,", ",{},"),
    "chexpert": (",1.0,", ",{},"),
    "diabetic_retinopathy": (",0\n", ",{}\n"),
    "ichallenge_amd": (",1\n", ",{}\n"),
    "ichallenge_pm": (",0\n", ",{}\n"),
    "stoic": (",0,0\n", ",{},0\n"),
}


@pytest.mark.parametrize("label", ["Banana", "7"])
@pytest.mark.parametrize("name", LABELS)
def test_an_unknown_label_is_named_with_its_row(name: str, label: str, tmp_path: Path) -> None:
    old, new = LABELS[name]
    table = tables_of(name, tmp_path, lambda text: text.replace(old, new.format(label)))
    with pytest.raises(DataError, match=rf"row \d+.*{label}") as caught:
        read(name, tmp_path)
    assert table.name in str(caught.value)


@pytest.mark.parametrize("name", [n for n in LABELS if n not in {"chexpert", "chestx"}])
def test_a_label_that_is_no_number_is_named(name: str, tmp_path: Path) -> None:
    old, new = LABELS[name]
    tables_of(name, tmp_path, lambda text: text.replace(old, new.format("NaN")))
    with pytest.raises(DataError, match=r"row \d+"):
        read(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "old"),
    [("bach", "n001.tif"), ("chestx", "00000001_000.png"), ("stoic", "\n")],
)
def test_a_name_that_climbs_out_is_named(name: str, old: str, tmp_path: Path) -> None:
    new = "\n../../../../" if old == "\n" else "../../../../etc/" + old
    tables_of(name, tmp_path, lambda text: text.replace(old, new, 2))
    with pytest.raises(UnsafePathError, match=r"row \d+: .*climbs out"):
        read(name, tmp_path)


def test_windows_separators_of_chexpert(tmp_path: Path) -> None:
    tables_of("chexpert", tmp_path / "plain")
    tables_of("chexpert", tmp_path / "sent", lambda text: text.replace("/", "\\").replace(
        "Frontal\\Lateral", "Frontal/Lateral").replace("AP\\PA", "AP/PA"))  # fmt: skip
    assert read("chexpert", tmp_path / "sent").paths == read("chexpert", tmp_path / "plain").paths


def test_a_file_that_is_missing_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    tables_of("stoic", tmp_path)
    data = load_dataset("stoic", root=tmp_path, split="none")
    with pytest.raises(MissingFileError, match=r"data/mha/\d+\.mha is not there"):
        data[0]


def test_links_are_followed_where_a_row_names_one(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "mine").mkdir()
    Image.new("L", (3, 2), 9).save(tmp_path / "store" / "é.png")
    (tmp_path / "mine" / "a.png").symlink_to(tmp_path / "store" / "é.png")
    (tmp_path / "mine" / "t.csv").write_text("path,label\na.png,1\n")
    assert load_dataset(f"table:{tmp_path / 'mine' / 't.csv'}")[0][0].getpixel((0, 0)) == (9, 9, 9)


def test_a_huge_picture_is_refused_by_its_header(tmp_path: Path) -> None:
    Image.new("1", (8, 8)).save(tmp_path / "huge.png")
    content = bytearray((tmp_path / "huge.png").read_bytes())
    content[16:24] = (30_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "huge.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"huge\.png.*(limit|30000)"):
        read_image(tmp_path / "huge.png")


# --- fuzzing -----------------------------------------------------------------------------------


def attempt(work: Callable[[], object], kind: type[Exception]) -> tuple[object, Exception | None]:
    """What came of it: a value, or an error of this kind; any other error fails the test."""
    try:
        return work(), None
    except kind as error:
        return None, error


ODD = [
    "",
    " ",
    "nan",
    "-1",
    "1e9",
    "é",
    "../x",
    "/etc",
    "a\\b",
    '"',
    "'",
    ";",
    "\t",
    "\0",
    "\r",
    ",",
]
changes = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from([*ODD, "\n", "x,y"]), st.integers(0, 9)), max_size=5
)


@FUZZ
@given(name=st.sampled_from(sorted(TABLES)), changes=changes)
def test_damaged_tables_are_read_or_refused_in_words(name, changes, tmp_path_factory) -> None:
    def damage(text: str) -> str:
        for place, insert, cut in changes:
            at = int(place * len(text))
            text = text[:at] + insert + text[at + cut :]
        return text

    root = tmp_path_factory.mktemp("fuzz")
    tables_of(name, root, damage)
    manifest, error = attempt(lambda: read(name, root), DataError)
    if isinstance(error, DataError):
        assert error.exit_code == 3
        assert name in str(error)
        return
    assert isinstance(manifest, Manifest)
    assert set(manifest.labels) <= {-1, *range(len(manifest.classes))}
    assert all(".." not in path.split("/") for path in manifest.paths)


def damaged(content: bytes, data: st.DataObject) -> bytes:
    """A file with some bytes changed and its end cut off."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(0, 5))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    return bytes(changed[: data.draw(st.integers(len(changed) // 2, len(changed)))])


@FUZZ
@given(data=st.data())
def test_damaged_pickles_of_cifar_are_refused_in_words(data, tmp_path_factory) -> None:
    pixels = np.arange(2 * 3072, dtype=np.int64).astype(np.uint8).reshape(2, 3072)
    good = pickle.dumps({b"labels": [1, 2], b"data": pixels}, protocol=2)
    head = damaged(good[:200], data)
    path = tmp_path_factory.mktemp("fuzz") / "data_batch_1"
    path.write_bytes(data.draw(st.sampled_from([head + good[200:], head, damaged(good, data)])))
    labels, error = attempt(lambda: read_labels(path), UnreadableImageError)
    assert isinstance(labels, list) or "data_batch_1" in str(error)
    if labels:
        assert read_record(path, "0").shape == (32, 32, 3)


@FUZZ
@given(data=st.data())
def test_damaged_archives_are_refused_in_words(data, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.npz"
    np.savez(path, train_images=np.zeros((3, 4, 5), np.uint8), train_labels=np.eye(3, 1, dtype=int))
    path.write_bytes(damaged(path.read_bytes(), data))
    pixels, error = attempt(lambda: load_dataset(f"medmnist:{path}").image(0), DataError)
    assert pixels is not None or "x.npz" in str(error)


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> bytes:
    pytest.importorskip("SimpleITK")
    from medssl_data.synthetic.stand_ins import _mha

    return _mha(np.zeros((3, 4, 5), np.int16))


@FUZZ
@given(data=st.data())
def test_damaged_volumes_are_refused_in_words(data, volume, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.mha"
    text, numbers = volume[:-120], volume[-120:]
    at, insert = (
        data.draw(st.integers(0, len(text) - 1)),
        data.draw(st.sampled_from([*"-0 \n=x", ""])),
    )
    changed = text[:at] + insert.encode() + text[at + 1 :]
    path.write_bytes(changed + numbers[: data.draw(st.integers(0, 120))])
    picture, error = attempt(lambda: read_image(path), UnreadableImageError)
    assert picture is not None or "x.mha" in str(error)


@pytest.fixture(scope="module")
def radiograph(tmp_path_factory) -> bytes:
    pytest.importorskip("pydicom")
    root = tmp_path_factory.mktemp("hospital")
    write_phantom("hospital", root, {})
    return next((root / "hospital").rglob("*.dcm")).read_bytes()[: 128 + 3000]


@FUZZ
@given(data=st.data())
def test_damaged_dicom_files_are_refused_in_words(data, radiograph, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.dcm"
    path.write_bytes(radiograph[:132] + damaged(radiograph[132:], data))
    picture, error = attempt(lambda: read_image(path), UnreadableImageError)
    assert picture is not None or "x.dcm" in str(error)
