"""Label policies against truth tables written from the protocol's text, not from the code."""

import gzip
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from medssl_data import load_dataset
from medssl_data.card import Options
from medssl_data.catalog import load_manifest
from medssl_data.errors import LabelError, SettingError
from medssl_data.targets import finding_policy, myopia_label, single_label, suffix_label

OUT = -1
CELLS = ("1.0", "0.0", "-1.0", "")
TRUTH = {
    "u-zeros": (1, 0, 0, 0),
    "u-ones": (1, 0, 1, 0),
    "u-ignore": (1, 0, OUT, 0),
    "u-zeros,blank=0": (1, 0, 0, 0),
    "u-zeros,blank=nan": (1, 0, 0, OUT),
    "u-ones,blank=nan": (1, 0, 1, OUT),
    "u-ignore,blank=nan": (1, 0, OUT, OUT),
}


@pytest.mark.parametrize(("name", "expected"), TRUTH.items())
def test_uncertain_and_blank_findings(name: str, expected: tuple[int, ...]) -> None:
    labelled = finding_policy(name).apply(CELLS)
    assert labelled.labels == expected
    assert labelled.targets is None


@examples(deadline=None)
@given(cells=st.lists(st.sampled_from(CELLS), max_size=60), blank=st.sampled_from(["0", "nan"]))
def test_smoothed_findings_stay_soft_and_are_seeded(cells: list[str], blank: str) -> None:
    policy = finding_policy(f"u-ones-lsr,blank={blank}")
    labelled = policy.apply(cells)
    assert labelled.targets is not None
    np.testing.assert_array_equal(labelled.targets, policy.apply(cells).targets)
    certain = {"1.0": 1.0, "0.0": 0.0, "": 0.0 if blank == "0" else float("nan")}
    for cell, target, label in zip(cells, labelled.targets, labelled.labels, strict=True):
        if cell == "-1.0":
            assert 0.55 <= target < 0.85
            assert label == 1
        else:
            np.testing.assert_equal(target, certain[cell])
            assert label == (OUT if np.isnan(target) else target)


def test_one_row_does_not_change_the_target_of_another() -> None:
    policy = finding_policy("u-ones-lsr")
    first, second = policy.apply(["-1.0", "-1.0"]).targets, policy.apply(["1.0", "-1.0"]).targets
    assert first is not None
    assert second is not None
    assert first[1] == second[1]
    assert first[0] != first[1]


def test_unknown_cells_and_policies_are_named() -> None:
    with pytest.raises(LabelError, match=r"row 1: '2\.0' is not one of"):
        finding_policy("u-ones").apply(["0.0", "2.0"], lambda index: f"row {index}")
    with pytest.raises(SettingError, match="'u-twos' is not one of u-zeros"):
        finding_policy("u-twos")


@pytest.mark.parametrize(
    ("level", "high_is_positive", "expected"),
    [(0, True, 0), (1, True, 1), (2, True, 1), (0, False, 0), (1, False, 0), (2, False, 1)],
)
def test_merges_of_myopia(level: int, high_is_positive: bool, expected: int) -> None:
    assert myopia_label(level, high_is_positive=high_is_positive) == expected


@pytest.mark.parametrize(("protocol", "positive"), [("published", "HP"), ("corrected", "P")])
def test_myopia_by_the_initials_of_the_files(stand_in, protocol, positive: str) -> None:
    manifest = load_manifest(
        "ichallenge_pm", root=stand_in("ichallenge_pm"), options=Options(protocol)
    )
    expected = [int(Path(path).name[0] in positive) for path in manifest.paths]
    assert list(manifest.labels) == expected
    assert 0 < sum(expected) < len(expected)


@pytest.mark.parametrize(
    ("findings", "expected"),
    [("A", 0), ("B", 1), ("A|B", OUT), ("A|C", OUT), ("C", OUT), ("No Finding", OUT), ("", OUT)],
)
def test_single_findings(findings: str, expected: int) -> None:
    assert single_label(findings, ("A", "B")) == expected


def test_suffixes() -> None:
    names = ("CHNCXR_0001_0.png", "CHNCXR_0327_1.png", "CHNCXR_0327.png", "a_2.png")
    assert [suffix_label(name) for name in names] == [0, 1, OUT, OUT]


@pytest.fixture(scope="module")
def chest(stand_in) -> Path:
    stand_in("chestx")
    return stand_in("chexpert")


def test_soft_targets_reach_the_data_set(chest: Path) -> None:
    data = load_dataset("chexpert", root=chest, labels="u-ones-lsr", split="none")
    assert data.targets is not None
    soft = data.targets[(data.targets > 0) & (data.targets < 1)]
    assert len(soft) > 0
    assert soft.min() >= 0.55
    assert soft.max() <= 0.85
    assert data.manifest.label_policy == "u-ones-lsr"


def test_official_lists_of_chestx(chest: Path) -> None:
    data = load_dataset("chestx", root=chest, split="official")
    folder = chest / "chestx"
    lists = {"train": "train_val_list.txt", "test": "test_list.txt"}
    listed = {name: set((folder / file).read_text().split()) for name, file in lists.items()}
    assert set(data.splits) == {"train", "test"}
    for image, split in zip(data.ids, data.splits, strict=True):
        assert image in listed[split]


def test_official_validation_of_chexpert(chest: Path) -> None:
    manifest = load_manifest("chexpert", root=chest, options=Options(official=True))
    rows = {
        name: (chest / "chexpert" / f"{name}.csv").read_text().splitlines()[1:]
        for name in ("train", "valid")
    }
    assert manifest.splits.count("train") == len(rows["train"])
    assert manifest.splits.count("val") == len(rows["valid"])
    for path, split in zip(manifest.paths, manifest.splits, strict=True):
        assert ("/valid/" in path) == (split == "val")


HEAD = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,"
    "Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,"
    "Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


def chexpert_table(root: Path, top: str, rows: int) -> Path:
    """Write a CheXpert of two images a patient: present, absent, uncertain, blank in turn."""
    lines = [HEAD]
    for row in range(rows):
        view = ("frontal", "lateral")[row % 2]
        path = f"{top}/train/patient{row // 2 + 1:05d}/study1/view{row % 2 + 1}_{view}.jpg"
        side = "AP" if view == "frontal" else ""
        finding = CELLS[row % 4]
        lines.append(f"{path},Male,60,{view.title()},{side},,,,,,,,,,,{finding},,,")
    folder = root / "chexpert"
    folder.mkdir()
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("top", ["CheXpert-v1.0", "CheXpert-v1.0-small"])
def test_both_styles_of_paths_of_chexpert(tmp_path: Path, top: str) -> None:
    chexpert_table(tmp_path, top, 8)
    manifest = load_manifest("chexpert", root=tmp_path, options=Options("published"))
    assert manifest.paths[1] == f"{top}/train/patient00001/study1/view2_lateral.jpg"
    assert manifest.groups == tuple(f"patient{row // 2 + 1:05d}" for row in range(8))
    assert manifest.views == ("frontal", "lateral") * 4
    assert manifest.labels == (1, 0, 1, 0) * 2
    assert manifest.label_policy == "u-ones"


def test_a_table_of_the_one_style_beside_images_of_the_other(tmp_path: Path) -> None:
    folder = chexpert_table(tmp_path, "CheXpert-v1.0", 2)
    (folder / "CheXpert-v1.0-small" / "train").mkdir(parents=True)
    manifest = load_manifest("chexpert", root=tmp_path)
    assert manifest.paths[0].startswith("CheXpert-v1.0-small/train/patient00001/")


def test_twenty_thousand_rows_keep_their_order(tmp_path: Path) -> None:
    chexpert_table(tmp_path, "CheXpert-v1.0-small", 20_000)
    manifest = load_manifest("chexpert", root=tmp_path, options=Options(labels="u-ignore"))
    assert len(manifest) == 20_000
    assert manifest.labels == (1, 0, OUT, 0) * 5_000
    assert manifest.groups[-1] == "patient10000"


def batch(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A CIFAR batch as the owner's Python archive has it: bytes as keys, pickle protocol 2."""
    return pickle.dumps({b"data": pixels, b"labels": labels}, protocol=2)


def test_the_python_archive_of_cifar(tmp_path: Path) -> None:
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (6, 2, 3072), np.uint8)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for number, name in enumerate(names):
        (folder / name).write_bytes(batch(pixels[number], [number, 9]))
    data = load_dataset("cifar10", root=tmp_path, split="official")
    assert data.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert data.splits == ("train",) * 10 + ("test",) * 2
    planes = pixels[2, 1].reshape(3, 32, 32)
    np.testing.assert_array_equal(np.asarray(data[5][0]), np.moveaxis(planes, 0, -1))


def test_a_batch_of_python_2_is_read(tmp_path: Path) -> None:
    """As cPickle wrote it: byte strings, arrays whose content is one of them."""
    from medssl_data.images.cifar import read_labels, read_record

    pixels = np.arange(2 * 3072).astype(np.uint8)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R"
        b"(K\x01K\x02M\0\x0c\x86cnumpy\ndtype\nU\x02u1K\0K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89T"
        + len(pixels).to_bytes(4, "little")
        + pixels.tobytes()
        + b"tb"
    )
    path = tmp_path / "data_batch_1"
    path.write_bytes(
        b"\x80\x02}(U\x0bbatch_labelU\x01xU\x06labels](K\x06K\x09eU\x04data" + array + b"u."
    )
    assert pickle.loads(path.read_bytes(), encoding="bytes")[b"labels"] == [6, 9]
    assert read_labels(path) == [6, 9]
    planes = pixels[3072:].reshape(3, 32, 32)
    np.testing.assert_array_equal(read_record(path, "1"), np.moveaxis(planes, 0, -1))


def test_a_key_that_takes_for_ever_to_hash_is_never_hashed(tmp_path: Path) -> None:
    from medssl_data.errors import UnreadableImageError
    from medssl_data.images.cifar import read_labels

    twice = b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(60))
    path = tmp_path / "data_batch_1"
    path.write_bytes(b"\x80\x02}()q\0" + twice + b"K\1u.")
    with pytest.raises(UnreadableImageError, match="no pictures"):
        read_labels(path)


def test_a_hostile_batch_is_not_run(tmp_path: Path) -> None:
    from medssl_data.errors import UnreadableImageError
    from medssl_data.images.cifar import read_labels

    trap = tmp_path / "trapped"

    class Trap:
        def __reduce__(self):
            return Path.touch, (trap,)

    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": Trap(), b"labels": [0]}, protocol=2))
    with pytest.raises(UnreadableImageError, match="no pictures"):
        read_labels(path)
    assert not trap.exists()


def test_an_archive_whose_member_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    from medssl_data.errors import UnreadableImageError

    member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    member.size = 6 * 2**30
    (tmp_path / "cifar10").mkdir()
    with gzip.open(tmp_path / "cifar10" / "cifar-10-binary.tar.gz", "wb") as file:
        file.write(member.tobuf() + bytes(2**16))
    with pytest.raises(UnreadableImageError, match=r"would take 6,442,450,944 bytes"):
        load_dataset("cifar10", root=tmp_path)
