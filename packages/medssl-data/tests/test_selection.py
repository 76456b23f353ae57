"""What was taken of a data set, in one spelling, and data sets in one line."""

from dataclasses import replace
from pathlib import Path

import pytest
from medssl_data import Manifest, Row, dataset_card, list_datasets, load_dataset
from medssl_data.errors import SettingError
from medssl_data.synthetic.phantom import chest_xray, draw_phantom
from PIL import Image

CHEXPERT = [
    ("chexpert", {}),
    ("chexpert,target=Pleural Effusion", {}),
    ("chexpert,target=Edema", {"target": "Edema"}),
    ("chexpert,view=frontal,target=Edema", {"target": "Edema", "view": "frontal"}),
    ("chexpert,target=Edema,view=frontal", {"target": "Edema", "view": "frontal"}),
    ("chexpert,reduced=64,view=frontal", {"view": "frontal", "reduced": "64"}),
    ("chexpert,limit=89478485,reduced=64", {"reduced": "64"}),
]


@pytest.mark.parametrize(("name", "selection"), CHEXPERT)
def test_findings_and_views_are_told_apart(name, selection, stand_in) -> None:
    data = load_dataset(name, root=stand_in("chexpert"))
    assert data.name == "chexpert"
    assert list(data.selection.items()) == list(selection.items())
    assert data.split("train").select([0]).selection == selection
    assert data.manifest.label_policy == "u-ignore"


STOIC = [
    ("stoic", {}),
    ("stoic,window=-1000..250,slice=0.50,axis=z", {}),
    ("stoic,slice=0.40,window=-600..1500", {"window": "-600..1500", "slice": "0.4"}),
    ("stoic,window=-600.5..1500.0,axis=y", {"window": "-600.5..1500", "axis": "y"}),
    ("stoic,slice=1", {"slice": "1"}),
    ("stoic,slice=1.0", {"slice": "1.0"}),
]


@pytest.mark.parametrize("protocol", ["published", "corrected"])
@pytest.mark.parametrize(("name", "selection"), STOIC)
def test_windows_and_slices_are_spelled_in_one_way(name, selection, protocol, stand_in) -> None:
    data = load_dataset(name, root=stand_in("stoic"), protocol=protocol)
    assert list(data.selection.items()) == list(selection.items())
    spelled = ",".join(["stoic", *(f"{key}={value}" for key, value in selection.items())])
    again = load_dataset(spelled, root=stand_in("stoic"), protocol=protocol)
    assert again.manifest.reading == data.manifest.reading


def test_settings_of_phantoms_are_part_of_it() -> None:
    assert load_dataset("phantom:chest-xray").selection == {}
    assert load_dataset("phantom:chest-xray,count=240,difficulty=0.40,seed=0").selection == {}
    name = "phantom:chest-xray,seed=07,count=20,difficulty=1"
    chosen = {"count": "20", "difficulty": "1.0", "seed": "7"}
    assert load_dataset(name).selection == chosen
    assert chest_xray(seed=7, count=20, difficulty=1).selection == chosen


def test_views_and_classes_that_are_filtered_are_part_of_it() -> None:
    rows = [Row("a", "a.png", 0, view="frontal"), Row("b", "b.png", 1, view="lateral")]
    manifest = Manifest.from_rows("mine", Path(), ("ill", "healthy"), rows)
    assert manifest.filter(classes=["healthy"], view=["lateral"]).selection == {
        "view": "lateral",
        "classes": "healthy",
    }
    both = manifest.filter(classes=["healthy", "ill"], view=["lateral", "frontal"])
    assert both.selection == {"view": "frontal and lateral", "classes": "ill and healthy"}
    assert both.ids == manifest.ids


def test_it_survives_the_way_over_files(tmp_path: Path) -> None:
    drawn = chest_xray(count=4, seed=3).filter(view="frontal")
    draw_phantom(drawn, tmp_path)
    data = load_dataset(f"table:{tmp_path / 'manifest.csv'}", split="none")
    assert data.selection == {"view": "frontal", "count": "4", "seed": "3"}


def test_manifests_of_version_0_1_select_nothing(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    draw_phantom(chest_xray(count=4), tmp_path)
    text = path.read_text()
    assert '"selection": {"count": "4"}, ' in text
    path.write_text(text.replace('"selection": {"count": "4"}, ', ""))
    assert Manifest.from_csv(path).selection == {}


def test_a_target_is_refused_where_there_is_nothing_to_choose(stand_in) -> None:
    with pytest.raises(SettingError, match="leave target=Edema out"):
        load_dataset("montgomerycxr,target=Edema", root=stand_in("montgomerycxr"))


def test_data_sets_print_in_one_line() -> None:
    data = load_dataset("phantom:chest-xray,count=20")
    line = (
        "phantom-chest-xray, count=20: 20 images, 2 classes (normal 10, opacity 10), "
        "labels as drawn, split patient, seed 0, train 0.64/val 0.16/test 0.2"
    )
    assert repr(data) == str(data) == f"<ImageDataset {line}>"
    assert repr(data.manifest) == str(data.manifest) == f"<Manifest {line}>"
    rows = [Row("a", "a.png", 0)]
    plain = Manifest.from_rows("x\ny", Path(), tuple("abcde"), rows, label_policy="")
    assert repr(plain) == "<Manifest x y: 1 image, 5 classes>"
    many = replace(data.manifest.select([]), classes=("one",))
    assert repr(many).startswith(
        "<Manifest phantom-chest-xray, count=20: 0 images, 1 class (one 0)"
    )


def test_cards_print_in_one_line() -> None:
    line = "<DatasetCard chexpert: chest radiograph, 223,414 images, 2 classes, labels u-ignore>"
    card = dataset_card("chexpert")
    assert repr(card) == str(card) == line
    unknown = card.model_copy(update={"rows": None})
    assert "any number of images" in repr(unknown)
    assert all("\n" not in repr(card) and len(repr(card)) < 120 for card in list_datasets())


@pytest.mark.parametrize("source", ["folder", "card"])
def test_published_opens_files_as_they_are_and_has_another_fingerprint(
    source: str, tmp_path: Path
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    folders = {"folder": ("ill", "well"), "card": ("AMD", "Non-AMD")}[source]
    for folder in folders:
        path = tmp_path / "ichallenge_amd/Training400" / folder / "N0001.jpg"
        path.parent.mkdir(parents=True)
        Image.new("L", (96, 64)).save(path.with_stem(folder), exif=turned)
    name = {"folder": f"folder:{tmp_path / 'ichallenge_amd/Training400'}", "card": "ichallenge_amd"}
    sides = {}
    for protocol in ("corrected", "published"):
        data = load_dataset(name[source], root=tmp_path, protocol=protocol)
        sides[data.fingerprint] = [data.image(row).size for row in range(2)]
    assert list(sides.values()) == [[(64, 96)] * 2, [(96, 64)] * 2]
