"""What others know of the experiments: settings, metrics, and what records of 0.1 called them."""

from pathlib import Path

import numpy as np
import pytest
from medssl_data import dataset_card, load_dataset
from medssl_data.synthetic.phantom import write_phantom
from medssl_models import RunContext, read_records
from medssl_models.experiments.experiment import ImageFiles
from medssl_models.experiments.registry import find_experiment, metric_of
from medssl_models.experiments.settings import differences
from medssl_saliency.errors import SettingsError
from medssl_saliency.experiments.declarations import MAP, SANITY, STATS
from medssl_saliency.experiments.means import settings_in_record
from medssl_saliency.images import items_of
from medssl_saliency.maps.settings import MapSettings, preset
from PIL import Image
from pydantic import ValidationError

FORMER = Path(__file__).with_name("records_0_1.jsonl")


@pytest.mark.parametrize("experiment", [MAP, STATS, SANITY], ids=lambda one: one.name)
def test_the_experiments_are_installed(experiment):
    assert find_experiment(experiment.name) is experiment


def test_records_of_version_0_1_are_read_in_the_words_of_today():
    records = read_records(FORMER)
    assert records.notes == ()
    assert [(record.experiment, record.metric) for record in records] == [
        ("saliency-map", "attentive_diffusion"),
        ("saliency-map", "centre_of_mass_row"),
        ("saliency-stats", "border_mass"),
        ("saliency-stats", "agreement_spearman"),
        ("saliency-sanity", "similarity_overlap"),
        ("saliency-sanity", "deletion_area"),
    ]
    assert [metric_of(record).direction for record in records[2:]] == [
        "lower",
        "neither",
        "neither",
        "higher",
    ]
    assert records[0].value == 56.9375
    assert records[2].details["chance"] == pytest.approx(0.36, abs=0.05)


def test_settings_of_version_0_1_are_those_that_today_s_records_hold():
    facts = {
        "saliency-map": {"picture": "scan"},
        "saliency-stats": {"pictures": 3},
        "saliency-sanity": {"pictures": 2},
    }
    for record in read_records(FORMER):
        more = {"other", "other_weights", "test", "randomised", "order"} & set(record.settings)
        experiment = find_experiment(record.experiment)
        protocol = record.provenance.protocol
        settings = experiment.settings_for(protocol)
        today = settings_in_record(RunContext(), settings, **facts[record.experiment])
        assert set(record.settings) - more == set(today)
        told = {name: record.settings[name] for name in ("normalisation", "padding", "labels")}
        assert told == {name: today[name] for name in told}


@pytest.mark.parametrize("experiment", [MAP, STATS, SANITY], ids=lambda one: one.name)
def test_the_protocols_differ_in_what_the_page_of_defects_says(experiment):
    found = differences(experiment.settings_for("published"), experiment.settings_for())
    entries = {entry for one in found for entry in one.entries}
    assert entries >= {"I-11", "I-37", "I-38"}
    assert {"padding", "margin", "resize", "crop"} <= {one.field for one in found}


def test_fast_stands_for_fidelity_and_precision():
    fast = MAP.settings_for("corrected", {"fast": True})
    assert (fast.fidelity, fast.precision, fast.fast) == (0.995, "bf16", False)
    assert SANITY.settings_for("corrected", {"fast": True}).stride == 1
    assert preset(fast=True) == preset(fidelity=0.995, precision="bf16")
    with pytest.raises(SettingsError, match="fast and stride"):
        preset(fast=True, stride=2)
    with pytest.raises(ValidationError, match="set them"):
        MapSettings(fast=True)


@pytest.mark.parametrize("experiment", [MAP, STATS, SANITY], ids=lambda one: one.name)
def test_published_looks_at_the_picture_that_the_study_took(experiment, tmp_path):
    write_phantom("bach", tmp_path, {})
    data = load_dataset("bach", root=tmp_path, protocol="published")

    def looked_at(source=data, **changes):
        items = items_of(source, experiment.settings_for("published", changes))
        return [item.name for item in items]

    assert looked_at() == ["iv001"]
    assert looked_at(named=("n003.tif",)) == ["n003"]
    assert len(looked_at(pictures=3)) == 3
    others = data.select([row for row, name in enumerate(data.ids) if name != "iv001.tif"])
    assert len(looked_at(others)) == 1
    assert len(items_of(data, MAP.settings_for())) == 160


def test_volumes_that_are_named_are_read_as_the_study_read_its_own(tmp_path):
    toolkit = pytest.importorskip("SimpleITK")
    values = np.random.default_rng(0).integers(-1200, 600, (8, 24, 30)).astype(np.int16)
    (tmp_path / "stoic/data/mha").mkdir(parents=True)
    (tmp_path / "stoic/metadata").mkdir()
    (tmp_path / "stoic/metadata/reference.csv").write_text("PatientID,probCOVID\n8622,1\n")
    path = tmp_path / "stoic/data/mha/8622.mha"
    toolkit.WriteImage(toolkit.GetImageFromArray(values), str(path))
    pictures = {}
    for protocol in ("published", "corrected"):
        data = load_dataset("stoic", root=tmp_path, protocol=protocol, split="none")
        (named,) = items_of(ImageFiles((path,)), MAP.settings_for(protocol))
        pictures[protocol] = np.asarray(named.read())
        same = np.array_equal(pictures[protocol], np.asarray(data.image(0)))
        assert same == (protocol == "published")  # else a file has the window of its own values
    assert pictures["published"].shape == (30, 24, 3)
    assert pictures["corrected"].shape == (24, 30, 3)
    own = dataset_card("stoic").reading["published"]
    assert MAP.settings_for("published").reading == own


def test_files_that_are_named_are_opened_as_the_study_opened_them(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("L", (96, 64)).save(tmp_path / "a.jpg", exif=turned)
    for protocol, size in (("published", (96, 64)), ("corrected", (64, 96))):
        (item,) = items_of(ImageFiles((tmp_path / "a.jpg",)), MAP.settings_for(protocol))
        assert item.read().size == size
