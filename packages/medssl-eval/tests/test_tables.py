"""Rows for people, and a chart that shows every record."""

import pytest
from medssl_eval.report.drawing import bar_chart
from medssl_models import Provenance, Record
from medssl_models.experiments.cells import best_first, run_tables
from PIL import Image


def record(model, shots, value, *, dataset="scans", **details):
    return Record(
        experiment="few-shot",
        metric="accuracy",
        unit="%",
        value=value,
        ci_low=value - 1,
        ci_high=value + 1,
        n=600,
        settings={"ways": 2, "shots": shots},
        details={"chance": 50.0, "images": 44} | details,
        provenance=Provenance(model=model, dataset=dataset),
    )


@pytest.fixture
def records():
    return [
        record("a", 20, 70.0, control=True),
        record("b", 20, 80.0),
        record("a", 1, 60.0, control=True),
        record("b", 1, 55.0),
        record("a", 1, 52.0, dataset="drawn", synthetic=True),
    ]


def test_best_come_first_within_a_data_set_and_setting(records):
    order = [(r.provenance.dataset, r.settings["shots"], r.value) for r in best_first(records)]
    assert order == [
        ("scans", 1, 60.0),
        ("scans", 1, 55.0),
        ("scans", 20, 80.0),
        ("scans", 20, 70.0),
        ("drawn", 1, 52.0),
    ]


def test_controls_and_phantoms_are_marked(records):
    ((columns, cells),) = run_tables(records)
    assert all(len(row) == len(columns) for row in cells)
    assert [row[2] for row in cells[:2]] == ["a (control)", "b"]
    assert cells[-1][0] == "drawn (phantom)"
    assert cells[0][4:] == ("60.00 %", "59.00 to 61.00", 44)


def test_the_chart_is_a_picture_that_replaces_the_old_one(records, tmp_path):
    path = tmp_path / "deep" / "chart.png"
    bar_chart(records, path, title="Some models")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 400
    bar_chart(records[:1], path)
    assert [entry.name for entry in path.parent.iterdir()] == ["chart.png"]
