"""Results that version 0.1 wrote: read in the words of today, and known to the commands."""

from pathlib import Path

import pytest
from medssl_eval.cli import app
from medssl_models import read_records
from medssl_models.console import run
from medssl_models.experiments.registry import find_experiment, metric_of

FORMER = Path(__file__).with_name("records_0_1.jsonl")
NAMES = ("few-shot", "linear", "knn", "finetune")


def test_every_record_is_read_and_means_what_is_declared():
    records = read_records(FORMER)
    assert records.notes == ()
    assert len(records) == len(FORMER.read_text().splitlines())
    assert {record.experiment for record in records} == set(NAMES)
    for record in records:
        assert find_experiment(record.experiment).metric(record.metric) == metric_of(record)
        assert record.unit == metric_of(record).unit


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", ["published", "corrected"])
def test_settings_have_the_names_and_values_of_today(name, protocol):
    """What a record keeps is, field by field, what the preset of its protocol says today."""
    (record, *_) = [
        one
        for one in read_records(FORMER)
        if (one.experiment, one.provenance.protocol) == (name, protocol)
    ]
    preset = find_experiment(name).settings_for(protocol).model_dump(mode="json")
    resolved = {"ways", "shots", "fraction", "select"}
    assert set(record.settings) - resolved <= set(preset)
    for field in ("geometry", "normalisation", "padding", "labels", "patients"):
        assert record.settings[field] == preset[field]
    assert "study" not in record.settings.values()


def test_old_and_new_records_stand_in_one_report(tmp_path, capsys):
    assert run(app, ["report", str(FORMER), "--format", "csv", "-o", str(tmp_path / "r.csv")]) == 0
    lines = (tmp_path / "r.csv").read_text().splitlines()
    assert len(lines) == len(FORMER.read_text().splitlines()) + 1
