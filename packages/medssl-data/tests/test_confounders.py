"""What the label follows besides the disease: it rings where it should, and seldom elsewhere."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from medssl_data import Manifest, Row, load_dataset
from medssl_data.audit import audit_dataset
from medssl_data.cli import app
from medssl_data.confounders.association import (
    Property,
    adjusted_p,
    auroc,
    cramers_v,
    strength,
)
from medssl_data.confounders.pictures import header_facts, measure_picture
from medssl_data.confounders.search import find_confounders, number_of, sampled_rows
from medssl_data.console import run
from medssl_data.synthetic.phantom import chest_xray, draw_phantom, write_phantom
from PIL import Image


def manifest_of(labels, groups=None, **attributes) -> Manifest:
    groups = groups or [f"p{row}" for row in range(len(labels))]
    rows = [
        Row(f"i{row}", f"{row}.png", int(label), str(group))
        for row, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]
    columns = {name: tuple(map(str, cells)) for name, cells in attributes.items()}
    return Manifest.from_rows("mine", Path(), ("no finding", "covid"), rows, attributes=columns)


# ------------------------------------------------------------------------------- the arithmetic


def test_cramers_v_is_that_of_bergsma() -> None:
    table = np.array([[21, 5], [4, 14]])
    total, spare = table.sum(), table.sum() - 1
    expected = np.outer(table.sum(1), table.sum(0)) / total
    phi = ((table - expected) ** 2 / expected).sum() / total - 1 / spare
    size = 2 - 1 / spare
    assert cramers_v(table, 44) == pytest.approx(np.sqrt(phi / (size - 1)))
    assert cramers_v([[10, 0], [0, 10]], 20) == 1
    assert cramers_v([[10, 10], [0, 0]], 20) == 0


def test_cramers_v_of_nothing_is_near_nothing() -> None:
    """Uncorrected, twelve categories of sixty patients have a mean square of 11 / 59 = 0.19."""
    generator = np.random.default_rng(0)
    tables = generator.multinomial(60, np.full(24, 1 / 24), 400).reshape(400, 2, 12)
    assert np.mean(cramers_v(tables, 60) ** 2) < 0.04


def test_auroc_counts_pairs() -> None:
    generator = np.random.default_rng(1)
    values, positive = generator.integers(0, 6, 40).astype(float), generator.random(40) < 0.4
    above = (values[:, None] > values) + 0.5 * (values[:, None] == values)
    area, influences = auroc(values, positive)
    assert area == pytest.approx(above[positive][:, ~positive].mean())
    assert influences.sum() == pytest.approx(0)
    assert auroc(-values, positive)[0] == pytest.approx(1 - area)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5])
def test_intervals_of_auroc_hold_its_true_value(shift: float) -> None:
    """Several images a patient: nominal 95 %."""
    generator, held = np.random.default_rng(11), 0
    truth = auroc(
        np.concatenate([generator.normal(shift, 1, 100_000), generator.normal(0, 1, 100_000)]),
        np.arange(200_000) < 100_000,
    )[0]
    for seed in range(150):
        labels = np.arange(60) % 2
        one = Property("age", np.repeat(generator.normal(shift * labels), 3))
        found = strength(
            one, np.repeat(labels, 3), np.repeat(np.arange(60), 3), resamples=1, seed=seed
        )
        value, low, high = found[:3] if found.label else (1 - found.value, 1 - found.high,
                                                          1 - found.low)  # fmt: skip
        assert low <= value <= high
        held += low <= truth <= high
    assert 136 <= held <= 149


def test_a_number_that_tells_classes_apart_for_sure_has_an_interval_too() -> None:
    labels = np.arange(30) % 2
    found = strength(Property("age", labels * 1.0), labels, np.arange(30), resamples=1, seed=0)
    assert found == (1.0, 0.9, 1.0, 1)


def simulated(seed: int, patients: int = 40) -> tuple[list[Property], np.ndarray, np.ndarray]:
    """Properties of patients with one to four images that know nothing of the label."""
    generator = np.random.default_rng(seed)
    units = np.repeat(np.arange(patients), generator.integers(1, 5, patients))
    labels = (generator.random(patients) < 0.5).astype(np.int64)[units]
    changing = generator.random(len(units)) < 0.2
    labels = np.where(changing, generator.integers(0, 2, len(units)), labels)
    rare = (generator.random(patients) < 0.06)[units].astype(float)
    site = generator.integers(0, 4, patients)[units].astype(float)
    site[generator.random(len(units)) < 0.1] = np.nan
    found = [Property("rare", rare, ("no", "yes")), Property("site", site, ("a", "b", "c", "d"))]
    found += [Property(f"n{k}", generator.normal(size=patients)[units]) for k in range(4)]
    return found, labels, units


def test_false_alarms_of_all_tests_together_keep_the_level() -> None:
    rang = sum(
        min(adjusted_p(*simulated(seed), permutations=199, seed=seed)) <= 0.05
        for seed in range(120)
    )
    assert rang <= 12  # 6 are expected; more than 12 come in one case of a hundred


def test_images_of_one_patient_are_no_independent_witnesses() -> None:
    """Sixteen patients with twenty images each: by images the same table would be overwhelming."""
    units = np.repeat(np.arange(16), 20)
    labels = (np.arange(16) % 2)[units]
    view = np.isin(np.arange(16), [0, 1, 3, 5, 7, 9])[units].astype(float)
    one = Property("view", view, ("pa", "ap"))
    (by_patient,) = adjusted_p([one], labels, units, permutations=999, seed=0)
    (by_image,) = adjusted_p([one], labels, np.arange(320), permutations=999, seed=0)
    assert by_image == 0.001
    assert by_patient > 0.05


def test_what_changes_within_patients_is_seen() -> None:
    """Each patient is ill and well once, and lies down when ill: patients do not differ at all."""
    units = np.repeat(np.arange(15), 2)
    labels = np.tile([0, 1], 15)
    generator = np.random.default_rng(0)
    lying = Property("view", labels.astype(float), ("pa", "ap"))
    chance = Property("site", generator.integers(0, 2, 30).astype(float), ("a", "b"))
    p = adjusted_p([lying, chance], labels, units, permutations=999, seed=0)
    assert p[0] <= 0.005
    assert p[1] > 0.05


@pytest.mark.parametrize("truth", [0.3, 0.6])
def test_intervals_of_v_hold_its_true_value(truth: float) -> None:
    generator = np.random.default_rng(7)
    held = 0
    for seed in range(100):
        labels = generator.integers(0, 2, 120)
        follows = generator.random(120) < truth
        view = np.where(follows, labels, generator.integers(0, 2, 120)).astype(float)
        one = Property("view", view, ("pa", "ap"))
        found = strength(one, labels, np.arange(120), resamples=200, seed=seed)
        held += found.low <= truth <= found.high
    assert held >= 88


def test_of_two_classes_that_with_the_larger_values_is_named() -> None:
    labels = np.arange(90) % 2
    for values in (labels, 1 - labels):
        one = Property("age", values + np.random.default_rng(0).normal(size=90))
        found = strength(one, labels, np.arange(90), resamples=20, seed=0)
        assert found.value > 0.5
        assert found.label == int(values[1] == 1)


def test_intervals_are_wider_where_patients_have_many_images() -> None:
    generator = np.random.default_rng(3)
    labels = np.repeat(generator.integers(0, 2, 30), 6)
    ages = np.repeat(generator.normal(size=30), 6) + labels
    one = Property("age", ages)
    alone = strength(one, labels, np.arange(180), resamples=300, seed=0)
    together = strength(one, labels, np.repeat(np.arange(30), 6), resamples=300, seed=0)
    assert alone.value == together.value
    assert together.high - together.low > 1.8 * (alone.high - alone.low)


# ------------------------------------------------------------------------------------ phantoms


def rings(text: str) -> list[str]:
    data = load_dataset(f"phantom:chest-xray,size=96,{text}", split="none")
    return [one.name for one in find_confounders(data).ringing]


def test_clean_phantoms_seldom_ring() -> None:
    assert sum(bool(rings(f"count=60,seed={seed}")) for seed in range(16)) <= 2
    planted_at_random = "count=60,confounder=view,strength=0"
    assert sum(bool(rings(f"{planted_at_random},seed={seed}")) for seed in range(8)) <= 1


@pytest.mark.parametrize(
    ("confounder", "name"),
    [
        ("view", "view"),
        ("marker", "bright pixels in the upper left corner"),
        ("brightness", "brightness at the edges"),
    ],
)
def test_planted_confounders_ring(confounder: str, name: str) -> None:
    for seed in range(5):
        assert name in rings(f"count=120,seed={seed},confounder={confounder},strength=0.9")


def test_planted_confounders_change_only_what_they_say() -> None:
    plain = chest_xray(count=12, seed=4)
    planted = chest_xray(count=12, seed=4, confounder="marker", strength=1)
    assert plain.labels == planted.labels
    assert plain.attributes == planted.attributes
    assert plain.images_fingerprint != planted.images_fingerprint
    assert planted.selection["confounder"] == "marker"
    assert plain.drawer is not None
    assert planted.drawer is not None
    for index, label in enumerate(plain.labels):
        before = np.asarray(plain.drawer(plain.items[index]))
        after = np.asarray(planted.drawer(planted.items[index]))
        changed = np.argwhere((before != after).any(axis=2))
        assert bool(len(changed)) == bool(label)
        assert not len(changed) or changed.max() < 24


def test_written_phantoms_keep_their_columns(tmp_path: Path) -> None:
    settings = {"count": "8", "confounder": "view", "strength": "1"}
    use = str(write_phantom("chest-xray", tmp_path, settings)["use"])
    written, drawn = load_dataset(use, split="none"), chest_xray(count=8, confounder="view")
    assert set(written.views) == {"ap", "pa"}
    assert written.attributes == drawn.attributes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("confounder=vew", "cannot be planted; did you mean view"),
        ("confounder=view,strength=2", "strength=2 is out of range"),
    ],
)
def test_wrong_confounders_are_refused(text: str, message: str, capsys) -> None:
    assert run(app, ["check", "-d", f"phantom:chest-xray,{text}"]) == 2
    assert message in capsys.readouterr().err


# ------------------------------------------------------------------------------ columns of tables


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The student's: 44 radiographs, COVID mostly AP, and columns of all kinds."""
    views = ["AP"] * 21 + ["PA"] * 5 + ["AP"] * 4 + ["PA"] * 14
    rows = []
    for row, view in enumerate(views):
        name = f"{row}.png"
        grey = np.random.default_rng(row).integers(0, 200, (20, 20)).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / name)
        label = "covid" if row < 26 else "no finding"
        age = "" if row % 5 == 0 else 30 + row * 7 % 50
        rows.append((name, label, view, "MF"[row % 2], age, "Bern", f"2020-03-{row}", ""))
    path = tmp_path / "mine.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "label", "View Position", "sex", "age", "site", "date", "note"))
        writer.writerows(rows)
    return path


def test_a_table_with_further_columns_needs_no_options(table: Path, capsys) -> None:
    assert run(app, ["check", "-d", f"table:{table}"]) == 0
    out, err = capsys.readouterr()
    assert "label follows View Position: AP 21 of 26 in covid against 4 of 18 in no finding" in out
    assert "44 images of unknown patients" in out
    assert "date was not tested: 44 values for 44 patients" in err
    assert "sex  " in out


def test_the_document_holds_every_test(table: Path, capsys) -> None:
    assert run(app, ["check", "-d", f"table:{table}", "--fast", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    found = report["confounders"]
    tested = {one["name"]: one for one in found["associations"]}
    assert set(tested) == {"View Position", "sex", "age", "age missing"}
    assert tested["View Position"]["rings"]
    assert found["rings"]
    assert tested["age"]["measure"] == "AUROC"
    assert tested["age missing"]["kind"] == "missing"
    assert found["skipped"]["site"] == "it has one value"
    assert not found["pictures"]
    low, value, high = (tested["View Position"][key] for key in ("low", "value", "high"))
    assert 0 < low < value < high < 1


def test_columns_are_kept_by_selections_and_files(table: Path, tmp_path: Path) -> None:
    manifest = load_dataset(f"table:{table}", split="none").manifest
    assert list(manifest.attributes) == ["View Position", "sex", "age", "site", "date"]
    few = manifest.select([3, 1])
    assert few.attributes["sex"] == ("F", "F")
    few.to_csv(tmp_path / "few.csv")
    again = Manifest.from_csv(tmp_path / "few.csv")
    assert again.attributes == few.attributes
    bare = replace(manifest, attributes={})
    assert bare.fingerprint == manifest.fingerprint


def test_columns_of_parquet_are_read(table: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import csv as arrow
    from pyarrow import parquet

    path = table.with_suffix(".parquet")
    parquet.write_table(arrow.read_csv(table), path)
    found = load_dataset(f"table:{path}", split="none").attributes
    assert found["sex"][:2] == ("M", "F")
    assert found["age"][1] == "37"


def test_cards_carry_what_their_tables_tell(stand_in) -> None:
    shenzhen = load_dataset("shenzhencxr", root=stand_in("shenzhencxr"))
    assert set(shenzhen.attributes) == {"sex", "age"}
    chexpert = load_dataset("chexpert", root=stand_in("chexpert"), split="official")
    assert set(chexpert.attributes) == {"Sex", "Age", "AP/PA"}
    assert len(chexpert.attributes["Age"]) == len(chexpert)


def test_columns_that_cannot_be_tested_are_named() -> None:
    labels = np.arange(60) % 2
    found = find_confounders(
        manifest_of(
            labels,
            empty=["NA"] * 60,
            same=["x"] * 60,
            identifier=[f"k{row}" for row in range(60)],
            score=[f"{row / 7:.3f}" for row in range(60)],
            odd=["12", "1e999", "0x10"] * 20,
        ),
        pictures=0,
    )
    assert dict(found.skipped) == {
        "empty": "all its cells are empty",
        "same": "it has one value",
        "identifier": "60 values for 60 patients: no category",
        "images of the patient": "it has one value",
        "file format": "it has one value",
    }
    kinds = {one.name: one.kind for one in found.associations}
    assert kinds == {"score": "number", "odd": "category"}


def test_missing_cells_are_a_property() -> None:
    labels = np.arange(60) % 2
    ages = ["61" if label else "" for label in labels]
    found = find_confounders(manifest_of(labels, age=ages), pictures=0)
    (one,) = found.ringing
    assert one.sentence == (
        "label follows age missing: given 30 of 30 in covid against 0 of 30 in no finding"
    )


def test_trifles_do_not_ring_however_many_images_there_are() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 20_000)
    slightly = np.where(generator.random(20_000) < 0.03, labels, generator.integers(0, 2, 20_000))
    manifest = manifest_of(labels, site=slightly, note=[f"{row}" for row in range(20_000)])
    assert len(sampled_rows(manifest)) == 5000
    found = find_confounders(manifest, pictures=0)
    assert found.total == 20_000
    assert found.images == 5000
    assert not found.ringing
    assert found == find_confounders(manifest, pictures=0)


def test_what_a_table_says_cannot_reach_the_terminal() -> None:
    labels = np.arange(40) % 2
    cells = ["\x1b[31mred" if label else "x" * 150 for label in labels]
    (one,) = find_confounders(manifest_of(labels, **{"si\x07te": cells}), pictures=0).ringing
    assert one.sentence.isprintable()
    assert "label follows si?te: ?[31mred 20 of 20" in one.sentence


def test_free_text_and_the_hundredth_column_are_left_out(table: Path) -> None:
    lines = table.read_text().splitlines()
    more = [f"c{k}" for k in range(120)]
    head = ",".join(["report", *more])
    lines[0] += f",{head}"
    lines[1:] = [
        f"{line},{'word ' * 60},{','.join(str(k) for k in range(120))}" for line in lines[1:]
    ]
    table.write_text("\n".join(lines))
    found = load_dataset(f"table:{table}", split="none").attributes
    assert len(found) == 100
    assert "report" not in found


def test_one_class_has_nothing_to_follow() -> None:
    assert find_confounders(manifest_of([1] * 9, sex=["M", "F", "F"] * 3), pictures=0).rows() == []


def test_numbers_are_read_and_never_run() -> None:
    assert number_of(" 61 ") == 61
    assert number_of("-1.5e2") == -150
    assert all(np.isnan(number_of(text)) for text in ("", "1e999", "0x10", "1_000", "nan", "six"))


# -------------------------------------------------------------------------------------- pictures


def test_pictures_are_measured() -> None:
    grey = np.zeros((40, 80), np.uint8)
    grey[:8, -8:] = 255
    facts = measure_picture(grey)
    assert facts["bright pixels in the upper right corner"] == 100
    assert facts["bright pixels in the lower left corner"] == 0
    assert (facts["width"], facts["height"], facts["aspect ratio"]) == (80, 40, 2)
    deep = measure_picture(np.linspace(0, 4095, 400).reshape(20, 20).astype(np.uint16))
    assert deep["depth"] == "16 bit"
    assert deep["mean brightness"] == pytest.approx(50, abs=0.1)
    assert measure_picture(np.zeros((1, 1, 3), np.uint8))["colour"] == "grey"


def test_headers_of_dicom_tell_the_scanner(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    write_phantom("hospital", tmp_path, {})
    path = next(tmp_path.rglob("*.dcm"))
    assert header_facts(path) == {}
    header = pydicom.dcmread(path)
    header.Manufacturer, header.PatientAge, header.PatientSex = "Acme", "058Y", "F"
    header.save_as(path)
    assert header_facts(path) == {
        "manufacturer": "Acme",
        "age in the header": "58",
        "sex in the header": "F",
    }
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    assert header_facts(path) == {}


def test_check_measures_while_it_decodes(tmp_path: Path) -> None:
    """Markers that only one class has, in files; a damaged file is reported and left out."""
    draw_phantom(chest_xray(count=40, size=96, confounder="marker", strength=1), tmp_path)
    damaged = next(iter(sorted((tmp_path / "images").iterdir())))
    damaged.write_bytes(damaged.read_bytes()[:300])
    report = audit_dataset(f"table:{tmp_path / 'manifest.csv'}")
    assert [finding.what for finding in report.findings][:2] == ["unreadable", "confounder"]
    assert report.confounders is not None
    first = report.confounders.associations[0]
    assert (first.name, first.images) == ("bright pixels in the upper left corner", 39)


def test_real_radiographs_of_children(shared: Path) -> None:
    """The edges of PneumoniaMNIST's pneumonias are brighter; what is inside does not ring."""
    found = find_confounders(load_dataset(f"medmnist:{shared / 'data' / 'pneumoniamnist.npz'}"))
    assert [one.name for one in found.ringing] == ["brightness at the edges"]
    assert {one.name for one in found.associations if one.verdict} == {
        "brightness at the edges", "contrast", "mean brightness", "split",
    }  # fmt: skip
