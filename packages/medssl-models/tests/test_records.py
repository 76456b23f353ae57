"""Records: round trips, keys, appends that survive a crash, lines that are not records."""

from __future__ import annotations

import json
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from medssl_models.errors import RecordError
from medssl_models.experiments.record import Provenance, Record, record_key
from medssl_models.experiments.record_store import (
    Records,
    RecordStore,
    append_records,
    read_records,
)
from medssl_models.experiments.registry import metric_of
from medssl_models.versions import package_versions
from pydantic import ValidationError

TEXT = st.text(max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=3)
PROVENANCES = st.builds(
    Provenance, model=TEXT, images=TEXT, seed=st.integers(0, 9), versions=st.just({"a": "1"})
)
RECORDS = st.builds(
    Record,
    experiment=st.just("toy"),
    metric=st.sampled_from(["accuracy", "loss"]),
    value=FINITE,
    ci_low=st.none() | FINITE,
    n=st.integers(0, 600),
    settings=OBJECTS,
    details=OBJECTS,
    notes=st.lists(TEXT, max_size=2).map(tuple),
    provenance=PROVENANCES,
)


def make_record(value: float = 0.5, **changes) -> Record:
    defaults = {
        "experiment": "toy",
        "metric": "accuracy",
        "settings": {"shots": 5},
        "provenance": Provenance(model="tiny", versions={"torch": "2"}),
    }
    return Record(value=value, **(defaults | changes))


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(RECORDS, max_size=4))
def test_what_is_appended_is_read_again(tmp_path, records):
    path = tmp_path / "sub" / "results.jsonl"
    path.unlink(missing_ok=True)
    append_records(path, records[:2])
    append_records(path, records[2:])
    found = read_records(path) if records else ()
    assert list(found) == records
    assert [record.key for record in found] == [record.key for record in records]


def test_key_ignores_result_time_device_and_versions():
    one = make_record()
    other = make_record(
        0.7,
        created="2020-01-01",
        n=3,
        provenance=Provenance(model="tiny", device="cuda", versions={"torch": "9"}),
    )
    assert one.key == other.key == record_key("toy", "accuracy", {"shots": 5}, one.provenance)
    assert len(one.key) == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"experiment": "another-toy"},
        {"metric": "loss"},
        {"settings": {"shots": 1}},
        {"provenance": Provenance(model="other")},
        {"provenance": Provenance(model="tiny", seed=1)},
        {"provenance": Provenance(model="tiny", precision="bf16")},
        {"provenance": Provenance(model="tiny", manifest="x")},
    ],
    ids="-".join,
)
def test_key_follows_what_identifies(changes):
    assert make_record(**changes).key != make_record().key


def test_key_does_not_depend_on_the_order_of_settings():
    assert make_record(settings={"a": 1, "b": 2}).key == make_record(settings={"b": 2, "a": 1}).key


def test_foreign_numbers_become_plain_and_nan_becomes_null():
    record = make_record(details={"mean": np.float32(0.5), "per class": np.array([1.0, math.nan])})
    assert record.details == {"mean": 0.5, "per class": [1.0, None]}
    assert "NaN" not in record.model_dump_json()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_refused(value):
    with pytest.raises(ValidationError, match="finite"):
        make_record(value)


def test_torn_last_line_is_skipped_and_healed(tmp_path):
    path = tmp_path / "results.jsonl"
    append_records(path, [make_record(1), make_record(2)])
    path.write_bytes(path.read_bytes()[:-20])
    torn = read_records(path)
    assert [record.value for record in torn] == [1]
    assert "cut off" in torn.notes[0]
    assert "line 2" in torn.notes[0]

    append_records(path, [make_record(3)])
    healed = read_records(path)
    assert [record.value for record in healed] == [1, 3]
    assert len(healed.notes) == 1


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[1]",
        b"\xff\xfe",
        json.dumps({"schema_version": 3, "value": 1}).encode(),
        make_record()
        .model_dump_json()
        .replace('"schema_version":2', '"schema_version":3')
        .encode(),
    ],
    ids=["text", "list", "bytes", "foreign", "newer"],
)
def test_foreign_lines_are_noted(tmp_path, line):
    path = tmp_path / "results.jsonl"
    append_records(path, [make_record(1)])
    path.write_bytes(line + b"\n" + path.read_bytes())
    found = read_records(path)
    assert [record.value for record in found] == [1]
    assert tuple(found[:1]) == (found[0],)
    assert "line 1: not a record" in found.notes[0]


@pytest.mark.parametrize("content", [b"\x89PNG\r\n", b"path,label\na.png,b\n", b"[1, 2]\n"])
def test_a_file_of_another_kind_is_refused_and_stays_as_it_is(tmp_path, content):
    path = tmp_path / "scan.png"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"scan\.png holds something else than records"):
        append_records(path, [make_record()])
    with pytest.raises(RecordError, match="something else"):
        read_records(path)
    assert path.read_bytes() == content


def test_a_mark_that_an_editor_put_before_the_first_line_is_no_other_file(tmp_path):
    path = tmp_path / "results.jsonl"
    append_records(path, [make_record(0.1)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    append_records(path, [make_record(0.2)])
    assert [record.value for record in read_records(path)][-1] == 0.2


def test_newest_record_of_a_key_is_found(tmp_path):
    path = tmp_path / "results.jsonl"
    store = RecordStore(path)
    assert store.refresh() == {}
    append_records(path, [make_record(1), make_record(2), make_record(3, metric="loss")])
    found = store.refresh()
    assert found[make_record().key].value == 2
    assert len(found) == 2


def test_equal_records_are_kept_once_whoever_appends(tmp_path):
    path = tmp_path / "results.jsonl"
    stores = [RecordStore(path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        fresh = list(pool.map(lambda store: store.append([make_record(1)]), stores))
    assert sum(map(len, fresh)) == 1
    assert len(read_records(path)) == 1
    assert len(stores[0].append([make_record(2)], again=True)) == 1
    assert [record.value for record in read_records(path)] == [1, 2]


def test_a_store_reads_on_from_where_it_was_and_leaves_half_a_line_for_later(tmp_path):
    path, notes = tmp_path / "results.jsonl", []
    store = RecordStore(path, notes.append)
    append_records(path, [make_record(1)])
    assert [record.value for record in store.refresh().values()] == [1]
    line = make_record(2, metric="loss").model_dump_json() + "\n"
    with path.open("a") as file:
        file.write(line[:30])
    assert len(store.refresh()) == 1
    with path.open("a") as file:
        file.write(line[30:] + "no record\n")
    assert sorted(record.value for record in store.refresh().values()) == [1, 2]
    assert len(notes) == 1
    assert "line 3" in notes[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metric": "acuracy"}, "toy declares no metric 'acuracy'; did you mean accuracy"),
        ({"experiment": "toys"}, "unknown experiment 'toys'; did you mean toy"),
        ({"unit": "%"}, "unit of accuracy is '%'; it is declared as ''"),
    ],
)
def test_a_record_of_an_undeclared_metric_is_refused(changes, reason):
    with pytest.raises(ValidationError, match=re.escape(reason)):
        make_record(**changes)


def test_a_record_takes_the_unit_of_its_metric():
    assert make_record(metric="share").unit == "%"


def test_a_file_may_hold_records_of_experiments_that_are_not_installed(tmp_path):
    path = tmp_path / "results.jsonl"
    text = make_record().model_dump_json().replace('"toy"', '"of-another-package"')
    path.write_text(text + "\n")
    (found,) = read_records(path)
    assert metric_of(found).direction == "neither"


def test_records_are_short_in_a_shell(tmp_path):
    record = make_record(0.5, ci_low=0.4, ci_high=0.6, details={"correct": list(range(600))})
    assert str(record) == "toy of tiny on images: accuracy 0.5 [0.4, 0.6]"
    assert repr(Records((record,))) == f"<1 record>\n  {record}"


def test_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    append_records(path, [make_record(1)])
    before = path.read_bytes()

    def no_space(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=r"No space.*results\.jsonl"):
        append_records(path, [make_record(2)])
    assert path.read_bytes() == before


def test_appends_of_many_writers_do_not_mix(tmp_path):
    path = tmp_path / "results.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: append_records(path, [make_record(i)] * 2), range(12)))
    found = read_records(path)
    assert sorted(record.value for record in found) == sorted([*range(12), *range(12)])
    assert found.notes == ()


def test_versions_name_what_is_installed():
    versions = package_versions("pytest", "surely-not-installed")
    assert {"python", "torch", "medssl-models", "pytest"} <= set(versions)
    assert "surely-not-installed" not in versions


def test_records_are_a_table_in_a_notebook():
    pandas = pytest.importorskip("pandas")
    frame = Records((make_record(1), make_record(2, metric="loss"))).to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["value"].tolist() == [1, 2]
    assert frame["settings.shots"].tolist() == [5, 5]
    assert frame["provenance.model"].tolist() == ["tiny", "tiny"]
