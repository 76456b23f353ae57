"""Scores within the values of a column and adjusted for it: arithmetic, records, refusals."""

from dataclasses import replace

import numpy as np
import pytest
from medssl_data import ImageDataset, load_dataset
from medssl_eval.cli import app
from medssl_eval.compare.cells import gather_cells
from medssl_eval.compare.comparison import Comparer
from medssl_eval.errors import PredictionsError, SettingsError
from medssl_eval.experiments import knn as knn_module
from medssl_eval.experiments.finetune import finetune
from medssl_eval.experiments.knn import knn
from medssl_eval.experiments.linear import linear
from medssl_eval.experiments.predictions import read_predictions
from medssl_eval.statistics.metrics import metric
from medssl_eval.stratified import adjustment
from medssl_eval.stratified.adjustment import (
    ADJUSTABLE,
    adjusted_auroc,
    adjusted_influences,
    estimate_adjusted,
    independent_weights,
)
from medssl_eval.stratified.columns import combined, strata_of
from medssl_models import RunContext, read_records
from medssl_models.console import run as run_app
from medssl_models.experiments.released import find_released
from medssl_models.testing import tiny_backbone

CONFOUNDED = "phantom:chest-xray,count=90,size=80,confounder=view,strength=0.7"


def drawn(seed, images=200, *, follows=0.8, knows=0.0):
    """Labels, a view that follows them, and scores that know the view and some of the label."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, images)
    view = np.where(generator.random(images) < follows, labels, generator.integers(0, 2, images))
    scores = view + knows * labels + generator.normal(0, 0.5, images)
    return labels, 1 / (1 + np.exp(-scores)), view


# -------------------------------------------------------------------------------- the arithmetic


def test_weights_make_label_and_stratum_independent() -> None:
    generator = np.random.default_rng(0)
    labels, strata = generator.integers(0, 3, 500), generator.integers(0, 4, 500)
    labels[strata == 2] = np.maximum(labels[strata == 2], 1)  # stratum 2 lacks class 0
    weights = generator.integers(0, 3, (6, 500)).astype(float)
    for before, after in zip(weights, independent_weights(labels, strata, weights), strict=True):
        assert not after[strata == 2].any()
        table, given = np.zeros((3, 4)), np.zeros((3, 4))
        np.add.at(table, (labels, strata), after)
        np.add.at(given, (labels, strata), before)
        np.testing.assert_allclose(table, np.outer(table.sum(1), table.sum(0)) / table.sum())
        np.testing.assert_allclose(table.sum(1), given.sum(1))
        held = np.array([0, 1, 3])
        shares = given[:, held].sum(0) / given[:, held].sum()
        np.testing.assert_allclose(table.sum(0)[held] / table.sum(), shares)


def test_adjusted_auroc_is_the_mean_placement_of_the_cases() -> None:
    labels, scores, view = drawn(1, knows=0.5)
    placements = [
        np.mean(scores[(labels == 0) & (view == view[case])] < scores[case])
        for case in np.flatnonzero(labels)
    ]
    found = adjusted_auroc(labels, np.stack([1 - scores, scores], 1), view, np.ones((1, 200)))
    assert found[0] == pytest.approx(np.mean(placements))


def test_one_stratum_changes_nothing() -> None:
    generator = np.random.default_rng(2)
    labels, scores = generator.integers(0, 3, 120), generator.dirichlet(np.ones(3), 120)
    whole = estimate_adjusted(
        labels, scores, np.zeros(120, np.int64), ["accuracy", "auroc", "brier"]
    )
    for name, found in whole.items():
        assert found.value == pytest.approx(metric(name)(labels, scores).value)


def test_a_classifier_of_views_is_worth_nothing_once_adjusted() -> None:
    labels, scores, view = drawn(5, images=2000)
    assert metric("auroc")(labels, scores).value > 0.8
    found = estimate_adjusted(labels, scores, view, ["auroc", "balanced_accuracy"])
    for one in found.values():
        assert one.value == pytest.approx(0.5, abs=0.05)
        assert one.low < 0.51
        assert one.high > 0.49


def test_intervals_hold_the_adjusted_value_of_the_population() -> None:
    """Several images a patient: nominal 95 %."""
    labels, scores, view = drawn(4, images=200_000, follows=0.5, knows=0.6)
    table = np.stack([1 - scores, scores], 1)
    truth = adjusted_auroc(labels, table, view, np.ones((1, len(labels))))[0]
    held = 0
    for seed in range(60):
        patients = [f"p{place}" for place in np.repeat(np.arange(60), 2)]
        columns = (np.repeat(one, 2) for one in drawn(seed, 60, follows=0.5, knows=0.6))
        found = estimate_adjusted(*columns, ["auroc"], clusters=patients)["auroc"]
        assert found.units == 60
        held += found.low <= truth <= found.high
    assert 52 <= held <= 60


def test_influences_add_up_to_the_variance() -> None:
    """Held against 400 populations."""
    columns = [drawn(seed, 100, follows=0.4, knows=0.5) for seed in range(400)]
    for name in ("accuracy", "auroc"):
        values, errors = [], []
        for labels, scores, view in columns[: 400 if name == "accuracy" else 200]:
            table = np.stack([1 - scores, scores], 1)
            values.append(ADJUSTABLE[name](labels, table, view, np.ones((1, 100)))[0])
            if len(errors) < 40:
                found = adjusted_influences(labels, table, view, name, np.arange(100))
                assert found.values.sum() == pytest.approx(0, abs=1e-9)
                errors.append(found.standard_error)
        assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.12)


def test_blocks_of_patients_stand_for_them_where_there_are_many(monkeypatch) -> None:
    labels, scores, view = drawn(8, images=1200, follows=0.5, knows=0.6)
    one_by_one = estimate_adjusted(labels, scores, view, ["auroc"])["auroc"]
    monkeypatch.setattr(adjustment, "_MOST", 1)
    in_blocks = estimate_adjusted(labels, scores, view, ["auroc"])["auroc"]
    assert in_blocks.value == one_by_one.value
    assert in_blocks.units == 1200
    widths = [found.high - found.low for found in (one_by_one, in_blocks)]
    assert widths[1] == pytest.approx(widths[0], rel=0.3)


def test_nothing_is_adjusted_where_the_column_is_the_label() -> None:
    labels = np.arange(20) % 2
    found = estimate_adjusted(labels, labels * 0.9, labels, ["auroc", "accuracy"])
    for one in found.values():
        assert one.value is None
        assert "no stratum holds all classes" in one.reason


# ----------------------------------------------------------------------------------- the columns


def carrying(**columns) -> ImageDataset:
    data = load_dataset("phantom:chest-xray,count=40,size=80", split="none")
    attributes = {name: tuple(map(str, cells)) for name, cells in columns.items()}
    return ImageDataset(replace(data.manifest, attributes=attributes))


def test_numbers_are_cut_into_quarters() -> None:
    strata = strata_of(carrying(age=range(40)), "AGE")
    assert strata.order == (
        "age up to 9", "age over 9 to 19", "age over 19 to 29", "age over 29",
    )  # fmt: skip
    assert [strata.names.count(name) for name in strata.order] == [10, 10, 10, 10]
    assert strata.names[19] == "age over 9 to 19"


def test_missing_cells_are_a_stratum_and_columns_combine() -> None:
    data = carrying(sex=["M", "F", "", "NA"] * 10, site=["a", "b"] * 20)
    assert strata_of(data, "sex").order == ("sex = F", "sex = M", "sex unknown")
    both = combined(data, ["sex", "site"])
    assert both.columns == ("sex", "site")
    assert set(both.names) == {
        "sex = M, site = a", "sex = F, site = b", "sex unknown, site = a", "sex unknown, site = b",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("vieww", "has no column 'vieww'; did you mean view?"),
        ("same", "column 'same' has the one value 'x' and makes no strata"),
        ("empty", "column 'empty' has the one value and makes no strata"),
        ("name", "column 'name' has 40 values, of at most 20, and makes no strata"),
    ],
)
def test_columns_that_make_no_strata_are_refused(column: str, message: str) -> None:
    data = carrying(same=["x"] * 40, empty=[""] * 40, name=[f"n{k}" for k in range(40)])
    with pytest.raises(SettingsError) as caught:
        strata_of(data, column)
    assert message in str(caught.value)


def test_a_data_set_without_columns_says_how_to_bring_some(scans) -> None:
    with pytest.raises(SettingsError, match="a table's columns beside path and label are carried"):
        strata_of(load_dataset(f"folder:{scans}"), "view")


def test_the_command_refuses_before_it_opens_an_image(tiny_models, capsys) -> None:
    for command in ("linear", "knn", "finetune"):
        words = [command, "-m", "random_r18", "-d", CONFOUNDED, "--by", "seks"]
        assert run_app(app, words) == 2
        assert "did you mean sex?" in capsys.readouterr().err


# ----------------------------------------------------------------------------------- the records


def by_setting(records, name="accuracy"):
    return {
        record.settings.get("stratum") or record.settings.get("adjusted"): record
        for record in records
        if record.metric == name
    }


@pytest.mark.parametrize("measure", [linear, knn])
def test_strata_are_records_of_their_own(measure, tmp_path) -> None:
    data = load_dataset(CONFOUNDED)
    context = RunContext(results=tmp_path / "results.jsonl")
    backbone = tiny_backbone()
    plain = measure(backbone, data, context=RunContext())
    records = measure(backbone, data, context=context, by=("view", "sex"), adjust="view")
    found = by_setting(records)
    assert set(found) == {None, "view = ap", "view = pa", "sex = F", "sex = M", "view"}
    assert found[None].key == by_setting(plain)[None].key
    assert found[None].value == by_setting(plain)[None].value
    assert len({record.key for record in records}) == len(records)
    whole = read_predictions(found[None], context.results)
    for column in ("view", "sex"):
        parts = [record for name, record in found.items() if name and f"{column} =" in name]
        assert sum(part.n for part in parts) == found[None].n
        mean = sum(part.n * part.value for part in parts) / found[None].n
        assert mean == pytest.approx(found[None].value)
    place = dict(zip(data.ids, data.views, strict=True))
    held = read_predictions(found["view = ap"], context.results)
    assert set(held.ids) == {ident for ident in whole.ids if place[ident] == "ap"}
    assert "predictions" not in found["view"].details
    assert {record.metric for record in records if record.settings.get("adjusted")} == {
        "accuracy", "balanced_accuracy", "auroc", "brier",
    }  # fmt: skip


def test_n_of_an_adjusted_value_counts_what_it_rests_on(tmp_path) -> None:
    """Images of strata that lack a class are not scored, and the table must not count them."""
    manifest = load_dataset("phantom:chest-xray,count=60,size=80").manifest
    ill = [label == 1 for label in manifest.labels]
    site = tuple("c" if sick and place % 3 else "ab"[place % 2] for place, sick in enumerate(ill))
    data = ImageDataset(replace(manifest, attributes={"site": site}))
    records = knn(tiny_backbone(), data, adjust="site")
    adjusted = by_setting(records)["site"]
    scored = [place for place, name in enumerate(site) if name != "c"]
    patients = {data.groups[place] for place in scored}
    assert adjusted.n == adjusted.details["images"] == len(scored) < len(data)
    assert adjusted.details["patients"] == adjusted.details["resampled"] == len(patients)
    assert adjusted.details["interval"].startswith(f"over {len(patients)} test patients")
    left_out = f"{len(data) - len(scored)} of 60 images left out"
    assert any(note.startswith(left_out) for note in adjusted.notes)


def test_strata_of_what_is_known_need_no_network(tmp_path, monkeypatch) -> None:
    data, backbone = load_dataset(CONFOUNDED), tiny_backbone()
    results = tmp_path / "results.jsonl"
    context = RunContext(results=results)
    fresh = knn(backbone, data, context=context, by="view", adjust="sex")
    plain = [record for record in fresh if not {"stratum", "adjusted"} & record.settings.keys()]
    again = RunContext(results=results, known={record.key: record for record in plain})
    monkeypatch.setattr(knn_module, "collect", None)
    later = knn(backbone, data, context=again, by="view", adjust="sex")
    assert [record.key for record in later] == [record.key for record in fresh]
    assert [record.value for record in later] == [record.value for record in fresh]
    assert [record.details.get("interval") for record in later] == [
        record.details.get("interval") for record in fresh
    ]
    for path in results.with_suffix(".predictions").iterdir():
        path.unlink()
    with pytest.raises(PredictionsError, match="repeat the experiment with force"):
        knn(backbone, data, context=again, by="view")


def test_another_column_of_the_same_name_is_another_record() -> None:
    data = carrying(site=["a", "b"] * 20)
    other = carrying(site=["a", "b", "b", "a"] * 10)
    keys = [
        {record.key for record in knn(tiny_backbone(), one, context=RunContext(), by="site")}
        for one in (data, other)
    ]
    assert len(keys[0] & keys[1]) == 6
    assert len(keys[0] - keys[1]) > 6


def test_fine_tuning_is_stratified(tmp_path) -> None:
    data = load_dataset("phantom:chest-xray,count=60,size=80,confounder=view,strength=0.3")
    results = tmp_path / "results.jsonl"
    changes = {"steps": 4, "batch_size": 8, "validate_every": 4, "side": 32, "by": "view"}
    for protocol in ("corrected", "published"):
        context = RunContext(results=results, output=tmp_path / protocol)
        backbone = tiny_backbone(width=8)
        records = finetune(backbone, data, context=context, protocol=protocol, **changes)
        found = by_setting(records)
        assert set(found) == {None, "view = ap", "view = pa"}
        assert sum(record.n for name, record in found.items() if name) == found[None].n
        areas = by_setting(records, "auroc")
        recalls = by_setting(records, "balanced_accuracy")
        decided = {name: areas[name].value == pytest.approx(recalls[name].value / 100)
                   for name in areas}  # fmt: skip
        assert protocol == "corrected" or all(decided.values())


def test_strata_stand_apart_in_comparisons(tmp_path, tiny_models, capsys) -> None:
    words = ["-d", CONFOUNDED, "--by", "view", "--adjust", "view", "-k", "5"]
    assert run_app(app, ["knn", "-m", "random_r18", "-m", "random_r50", *words]) == 0
    shown = capsys.readouterr().out
    for name in ("view = ap", "view = pa", "adjusted for view"):
        assert name in shown
    results = tmp_path / "results.jsonl"
    records = [r for r in read_records(results).records if r.metric == "accuracy"]
    cells = gather_cells(records)
    assert sorted(len(cell.records) for cell in cells) == [2, 2, 2, 2]
    assert len({cell.setting for cell in cells}) == 4
    comparer = Comparer(results, resamples=100, seed=0)
    pairs = [pair for cell in cells for pair in comparer.compare(cell)]
    assert {pair.cell.setting for pair in pairs} == {
        "k = 5, folds", "k = 5, folds, view = ap", "k = 5, folds, view = pa",
        "k = 5, folds, adjusted for view",
    }  # fmt: skip
    assert not comparer.notes


def test_strata_are_not_held_against_the_study() -> None:
    data = load_dataset("phantom:chest-xray,count=60,size=80")
    records = linear(tiny_backbone(), data, protocol="published", context=RunContext(), by="sex")
    whole, stratum = (
        next(r for r in records if r.metric == "accuracy" and bool(r.settings.get("stratum")) == s)
        for s in (False, True)
    )
    named = {"model": "moco-v2", "dataset": "chexpert", "selection": {}}
    found = [
        find_released(r.model_copy(update={"provenance": r.provenance.model_copy(update=named)}))
        for r in (whole, stratum)
    ]
    assert not any("stratum" in text for text in found[0].differences)
    assert any("stratum is sex = " in text for text in found[1].differences)
