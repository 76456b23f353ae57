"""Every stand-in is written, read, checked and large enough for episodes of 20 + 15."""

import json
from pathlib import Path

import pytest
from medssl_data import load_dataset
from medssl_data.audit import audit_dataset
from medssl_data.catalog import load_manifest
from medssl_data.errors import ManifestError, SettingError
from medssl_data.images.decoding import is_volume
from medssl_data.leaks import find_leaks
from medssl_data.synthetic.phantom import write_phantom

NAMES = [
    *(
        "bach",
        "chestx",
        "chexpert",
        "cifar10",
        "cifar100",
        "diabetic_retinopathy",
        "ichallenge_amd",
    ),
    *("ichallenge_pm", "montgomerycxr", "shenzhencxr", "stoic"),
]


@pytest.mark.parametrize("name", NAMES)
def test_stand_ins_are_sound_and_large_enough(name: str, stand_in) -> None:
    root = stand_in(name)
    assert audit_dataset(name, root=root, decode=False).sound
    for protocol in ("published", "corrected"):
        data = load_dataset(name, root=root, protocol=protocol)
        assert min(data.manifest.counts().values()) >= (35 if len(data.classes) < 100 else 12)
        assert data.manifest.synthetic
    if is_volume(Path(data.manifest.paths[0])):
        pytest.importorskip("SimpleITK")
    assert find_leaks(data).leaks == ()  # cut by patient: no false alarm


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_both_archives_of_cifar_hold_the_same(name: str, tmp_path: Path) -> None:
    both = []
    for archive in ("binary", "python"):
        write_phantom(name, tmp_path / archive, {"archive": archive})
        both.append(load_dataset(name, root=tmp_path / archive, split="official"))
    binary, python = both
    assert (binary.ids, binary.splits) == (python.ids, python.splits)
    assert binary.labels.tolist() == python.labels.tolist()
    for index in range(0, len(binary), 97):
        assert binary.image(index).tobytes() == python.image(index).tobytes()
    with pytest.raises(SettingError, match="no setting archive; it has seed, size"):
        write_phantom("bach", tmp_path, {"archive": "python"})


@pytest.mark.parametrize(
    ("name", "views", "rule"),
    [
        ("chexpert", ("lateral", "frontal"), "first-frontal"),
        ("diabetic_retinopathy", ("left", "right"), "alternate-rows"),
    ],
)
def test_pairs_are_two_views_of_one_patient(name, views, rule, stand_in) -> None:
    split = "official" if rule == "alternate-rows" else "none"
    manifest = load_dataset(name, root=stand_in(name), split=split, protocol="published").manifest
    for chosen in ("same-folder", rule):
        pairs = manifest.pairs(*views, rule=chosen)
        assert len(pairs) > 20
        for left, right in pairs.tolist():
            assert manifest.groups[left] == manifest.groups[right]
            assert (manifest.views[left], manifest.views[right]) == views


def test_one_view_of_a_set_keeps_the_splits_of_the_whole(stand_in) -> None:
    root = stand_in("chexpert")
    whole = load_dataset("chexpert", root=root, protocol="published").manifest
    frontal = load_dataset("chexpert,view=frontal", root=root, protocol="published").manifest
    kept = [row for row, view in enumerate(whole.views) if view == "frontal"]
    assert 0 < len(kept) < len(whole)
    assert frontal.ids == tuple(whole.ids[row] for row in kept)
    assert frontal.splits == tuple(whole.splits[row] for row in kept)
    assert "only images of view frontal" in frontal.notes
    assert len(load_manifest("chexpert,view=frontal", root=root)) == len(kept)
    assert audit_dataset("chexpert,view=frontal", root=root, decode=False).sound
    with pytest.raises(ManifestError, match="'oblique' does not occur; there is frontal, lateral"):
        load_dataset("chexpert,view=oblique,target=Edema", root=root)


def test_a_label_against_its_file_name_is_found(tmp_path: Path) -> None:
    write_phantom("montgomerycxr", tmp_path, {})
    table = tmp_path / "montgomerycxr" / "montgomery_metadata.csv"
    table.write_text(table.read_text().replace(",normal\n", ",Normal\n", 1))
    found = audit_dataset("montgomerycxr", root=tmp_path, decode=False).findings
    assert [finding.what for finding in found if finding.fatal] == ["label against name"]
    assert "MCUCXR_0001_0.png is abnormal in the table" in found[0].where


def test_shuffles_of_the_study() -> None:
    import hashlib

    from medssl_data.splits import shuffle_order

    fixtures = json.loads((Path(__file__).parent / "shuffle_fixtures.json").read_text())
    assert len(fixtures) == 12
    for fixture in fixtures:
        order = shuffle_order(fixture["n"], seed=fixture["seed"])
        assert order[:20].tolist() == fixture["first20"]
        assert order[-5:].tolist() == fixture["last5"]
        digest = hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()
        assert digest == fixture["sha256_int64_le"]
