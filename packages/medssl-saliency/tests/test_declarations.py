"""What others know of the experiments: settings, metrics, and what records of 0.1 called them."""

from pathlib import Path

import pytest
from medssl_models import RunContext, read_records
from medssl_models.experiments.registry import find_experiment, metric_of
from medssl_models.experiments.settings import differences
from medssl_saliency.errors import SettingsError
from medssl_saliency.experiments.declarations import MAP, SANITY, STATS
from medssl_saliency.experiments.means import settings_in_record
from medssl_saliency.maps.settings import MapSettings, preset
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
    assert entries >= {"I-11", "I-37"}
    assert ("I-38" in entries) is (experiment is STATS)
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
