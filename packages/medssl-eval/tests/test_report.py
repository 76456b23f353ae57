"""Reports: what is read, what is said of it, and that the page needs nothing but itself."""

import csv
import io
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from medssl_eval import cli
from medssl_eval.errors import ResultsError
from medssl_eval.report import export, published_content, read_content, write_page
from medssl_eval.report.relations import relations, spearman, spearman_p
from medssl_models.console import run
from medssl_models.errors import RecordError
from medssl_models.experiments.record import Provenance, Record
from medssl_models.experiments.record_store import append_records
from PIL import Image
from scipy import stats

HOSTILE = "</script><script>document.title='stolen'</script>"


def record(model="a", dataset="scans", value=70.0, *, width=1.0, metric="accuracy", **more):
    given = {
        "experiment": "few-shot",
        "settings": {"ways": 2, "shots": 5},
        "unit": "%",
        "provenance": Provenance(model=model, dataset=dataset, weights=f"weights of {model}"),
    } | more
    return Record(metric=metric, value=value, ci_low=value - width, ci_high=value + width, **given)


@pytest.fixture
def results(tmp_path):
    """Four models on three data sets, with a trait, a picture and a curve."""
    path = tmp_path / "results.jsonl"
    rng = np.random.default_rng(0)
    for number, model in enumerate(["alpha", "beta", "gamma", "delta"]):
        values = 60 + 5 * number + rng.normal(0, 1, 3)
        found = [
            record(model, name, float(value))
            for name, value in zip(["lungs", "eyes", "cells"], values, strict=True)
        ]
        found.append(
            record(
                model,
                "eyes",
                40.0 + number,
                experiment="toy-trait",
                metric="diffusion",
                settings={},
                details={"picture": "maps/eye.png"},
                notes=("one image",),
            )
        )
        found.append(
            record(model, "eyes", 50.0, experiment="finetune", settings={"fraction": 1.0},
                   details={"files": {"curve": "curve.csv"}})
        )  # fmt: skip
        append_records(path, found)
    (tmp_path / "maps").mkdir()
    Image.fromarray(np.full((30, 40, 3), 200, np.uint8)).save(tmp_path / "maps" / "eye.png")
    (tmp_path / "curve.csv").write_text("step,loss,accuracy\n0,0.7,\n10,0.5,60\n20,0.4,70\n")
    return path


class Outside(HTMLParser):
    """Collects what a page refers to and how its elements nest."""

    def __init__(self):
        super().__init__()
        self.addresses, self.images, self.headings = [], [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.addresses += [given[name] for name in ("src", "href") if given.get(name)]
        if (tag in {"img", "svg"} and "role" in given) or tag == "img":
            self.images.append(given.get("alt") or given.get("aria-label") or "")


def parsed(page):
    parser = Outside()
    parser.feed(page)
    return parser


def test_the_newest_of_equal_records_counts(tmp_path):
    path = tmp_path / "results.jsonl"
    append_records(path, [record(value=60.0), record("b", value=65.0), record(value=70.0)])
    content = read_content([path])
    assert {entry.model: entry.value for entry in content.entries} == {"a": 70.0, "b": 65.0}


def test_only_equal_records_replace_each_other(tmp_path):
    first = record(experiment="linear")
    others = [
        record(value=1.0, experiment="linear"),
        record("b", experiment="linear"),
        record(dataset="c", experiment="linear"),
        record(metric="auroc", experiment="linear", unit=""),
        record(settings={"shots": 5, "ways": 2}, experiment="linear"),
        record(settings={"shots": 1}, experiment="linear"),
    ]
    for field in type(first.provenance).model_fields:
        value = {"seed": 7, "versions": {"torch": "1"}, "selection": {"x": "y"}}.get(field, "else")
        changed = first.provenance.model_copy(update={field: value})
        others.append(first.model_copy(update={"provenance": changed}))
    for number, other in enumerate(others):
        path = tmp_path / f"{number}.jsonl"
        append_records(path, [first, other])
        content = read_content([path])
        assert len(content.entries) == (1 if other.key == first.key else 2)
        cells = sum(len(board.cells) for board in content.boards)
        assert cells == len(content.entries)


def test_two_records_that_differ_have_cells_of_their_own_in_every_export(tmp_path):
    """Of transforms, layers, targets and pictures the last record used to win."""
    path = tmp_path / "results.jsonl"
    found = [record(value=float(v), experiment="toy-trait", metric="distance", unit="",
                    settings={"transform": name, "layer": layer})
             for v, (name, layer) in enumerate([("rotation", "layer1"), ("h_flip", "layer1"),
                                                ("rotation", "layer4")])]  # fmt: skip
    for value, target in ((0.3, "Edema"), (0.4, "Effusion")):
        one = record(value=value, experiment="linear", metric="auroc", unit="")
        origin = one.provenance.model_copy(update={"selection": {"target": target}})
        found.append(one.model_copy(update={"provenance": origin}))
    append_records(path, found)
    content = read_content([path])
    assert len({(e.group, e.model, e.dataset) for e in content.entries}) == 5
    assert {e.dataset for e in content.entries if e.experiment == "linear"} == {
        "scans,target=Edema",
        "scans,target=Effusion",
    }
    lines = list(csv.DictReader(io.StringIO(export(content, "csv"))))
    columns = ("experiment", "setting", "metric", "data set", "model", "protocol")
    assert len({tuple(line[name] for name in columns) for line in lines}) == 5
    for kind in ("markdown", "latex"):
        text = export(content, kind)
        assert all(f"{entry.value:.1f}" in text for entry in content.entries)


def test_a_torn_line_becomes_a_warning(tmp_path):
    path = tmp_path / "results.jsonl"
    append_records(path, [record()])
    with path.open("a") as file:
        file.write('{"schema_version": 1, "experi')
    content = read_content([path])
    assert len(content.entries) == 1
    assert "cut off" in content.warnings[0]


@pytest.mark.parametrize("text", [None, "", "no json\n"], ids=["missing", "empty", "foreign"])
def test_a_file_without_records_is_an_error(tmp_path, text):
    path = tmp_path / "results.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises((ResultsError, RecordError), match=r"results\.jsonl") as caught:
        read_content([path])
    assert caught.value.exit_code == 3


def test_a_board_ranks_models_by_their_mean_and_knows_its_complete_part(results):
    board = read_content([results]).boards[0]
    assert board.models == ["delta", "gamma", "beta", "alpha"]
    assert board.complete == (board.models, ["lungs", "eyes", "cells"])
    assert board.best("eyes").model == "delta"


def test_less_is_better_for_distances(tmp_path):
    path = tmp_path / "results.jsonl"
    append_records(
        path,
        [
            record(m, value=v, experiment="toy-trait", metric="distance", unit="")
            for m, v in (("near", 0.2), ("far", 0.8))
        ],
    )
    board = read_content([path]).boards[0]
    assert board.sign == -1
    assert board.best("scans").model == "near"
    assert board.models[0] == "near"


def test_rank_correlation_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    x = rng.integers(0, 6, 12).astype(float)
    y = x + rng.normal(0, 2, 12).round()
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert np.isnan(spearman(np.ones(5), x[:5]))


def test_a_trait_that_follows_transfer_is_found(results):
    (found,) = [r for r in relations(read_content([results])) if "few-shot" in r.outcome]
    assert found.rho == pytest.approx(1.0)
    assert found.models == ("delta", "gamma", "beta", "alpha")
    # Two of the 24 orders of four models are as extreme, and they allow no interval.
    assert found.p == pytest.approx(2 / 24)
    assert (found.low, found.high) == (None, None)
    assert found.p_adjusted >= found.p


def test_rank_correlations_have_exact_p_values_and_no_interval_of_width_0():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=5), rng.normal(size=5)
    orders = [abs(spearman(x, np.array(one))) for one in itertools.permutations(y)]
    exact = np.mean(np.array(orders) >= abs(spearman(x, y)) - 1e-9)
    assert spearman_p(x, y) == pytest.approx(exact)
    many = np.arange(13.0)
    assert spearman_p(many, many) == pytest.approx(1 / 10_000)
    noise = rng.normal(size=13)
    theirs = stats.spearmanr(many, noise).pvalue
    assert spearman_p(many, noise) == pytest.approx(theirs, abs=0.03)


def test_accuracies_of_other_weights_are_put_right_or_flagged(tmp_path):
    models = ("supervised_r50", "supervised_r18", "supervised_d121", "byol", "swav", "moco-v2")
    for protocol in ("corrected", "published"):
        path = tmp_path / f"{protocol}.jsonl"
        append_records(
            path,
            [
                record(
                    model,
                    value=50.0 + place,
                    provenance=Provenance(model=model, dataset="scans", protocol=protocol),
                )
                for place, model in enumerate(models)
            ],
        )
        found = next(r for r in relations(read_content([path])) if "imagenet" in r.trait)
        values = dict(zip(found.models, found.x.tolist(), strict=True))
        used = {"corrected": (76.13, 69.76, 74.43), "published": (77.2, 72.12, 74.98)}[protocol]
        assert tuple(values[name] for name in models[:3]) == used
        assert values["byol"] == 74.3
        assert any(note.startswith("F12") for note in found.notes) == (protocol == "published")
        page = write_page(read_content([path]))
        assert ("F12" in page) == (protocol == "published")


def test_the_page_refers_to_nothing_outside(results):
    page = write_page(read_content([results]))
    outside = parsed(page)
    assert outside.addresses
    assert all(address.startswith(("#", "data:")) for address in outside.addresses)
    assert "url(" not in re.sub(r"url\(#[^)]*\)", "", page)
    assert not re.search(r"@import|fetch\(|XMLHttpRequest|WebSocket", page)


def test_every_picture_is_described(results):
    page = write_page(read_content([results]))
    assert "need models on at least 5 data sets, not 3" in page
    more = [
        record(model, dataset, 60.0 + place)
        for dataset in ("bones", "skin")
        for place, model in enumerate(("alpha", "beta", "gamma", "delta"))
    ]
    append_records(results, more)
    page = write_page(read_content([results]))
    assert "need models on at least 5 data sets" not in page
    images = parsed(page).images
    assert any("Average ranks" in text for text in images)
    assert any("Learning curves" in text for text in images)
    assert any("eye.png" in text for text in images)
    assert all(images)


def test_texts_of_records_cannot_act(tmp_path):
    path = tmp_path / "results.jsonl"
    append_records(path, [record(HOSTILE, HOSTILE, notes=(HOSTILE,)), record("b", HOSTILE)])
    page = write_page(read_content([path]))
    assert "<script>document" not in page
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1)
    assert HOSTILE in json.loads(data)["model"]["texts"]


def test_what_is_no_picture_is_left_out_with_a_warning(tmp_path):
    path = tmp_path / "results.jsonl"
    (tmp_path / "bad.png").write_bytes(b"<svg onload=alert(1)>")
    append_records(path, [record(details={"picture": "bad.png"})])
    page = write_page(read_content([path]))
    assert "not shown, it is no picture" in page
    assert "onload" not in page


def test_the_csv_holds_every_digit(results):
    content = read_content([results])
    rows = list(csv.DictReader(io.StringIO(export(content, "csv"))))
    assert [float(row["value"]) for row in rows] == [entry.value for entry in content.entries]
    assert {row["data set"] for row in rows} == {"lungs", "eyes", "cells"}


def test_the_papers_tables_mark_the_best(results):
    content = read_content([results])
    markdown = export(content, "markdown").splitlines()
    line = next(line for line in markdown if line.startswith("| delta"))
    assert line.count("**") == 6
    assert sum(line.startswith("| --- |") for line in markdown) == len(content.boards)
    latex = export(content, "latex")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == len(content.boards)
    assert r"\textbf{" in latex


def test_latex_signs_are_escaped(tmp_path):
    path = tmp_path / "results.jsonl"
    append_records(path, [record("lr_0.1 & 50 % #1", "a_b")])
    assert r"lr\_0.1 \& 50 \% \#1" in export(read_content([path]), "latex")


HOSTILE = "=cmd|'/C calc'!A0\n<script>alert(1)</script> [x](javascript:1)"


def test_no_name_does_anything_in_an_export(tmp_path):
    path = tmp_path / "results.jsonl"
    append_records(path, [record("m", HOSTILE), record(HOSTILE, "d")])
    content = read_content([path])
    rows = list(csv.reader(io.StringIO(export(content, "csv"))))
    assert {"'" + HOSTILE, "m", "d"} <= {cell for row in rows for cell in row}
    assert not any(cell.startswith(("=", "@", "+")) for row in rows for cell in row)
    markdown = export(content, "markdown")
    assert not re.search(r"(?<!\\)(<|\]\()", markdown)
    assert "\\<script\\>" in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} <= {3, 4}


def test_the_released_numbers_make_a_report_of_their_own():
    content = published_content()
    assert len(content.entries) == 940
    board = content.boards[0]
    assert board.cells["byol", "ichallenge_pm"].notes[0].startswith("F")
    assert len(board.complete[0]) == 13
    found = {r.trait.partition(",")[0] for r in relations(content)}
    assert found >= {"imagenet-top1", "attentive-diffusion", "perceptual-distance", "invariance"}


def test_the_command_writes_whole_files_and_says_where(results, capsys):
    assert run(cli.app, ["report", str(results), "-o", "out/page.html", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["numbers"] == 20
    page = results.parent / "out" / "page.html"
    assert page.read_text("utf-8").rstrip().endswith("</html>")
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        ([], 2, "--published"),
        (["results.jsonl", "--published"], 2, "--published"),
        (["nowhere.jsonl"], 3, "nowhere.jsonl"),
        (["--published", "--format", "pdf"], 2, "html"),
    ],
)
def test_wrong_use_is_one_line(arguments, code, word, capsys):
    assert run(cli.app, ["report", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert word in captured.err
    assert "Traceback" not in captured.err


@pytest.fixture
def grown(tmp_path):
    """Two models with a fraction of the labels and all of them, on two data sets."""
    path = tmp_path / "grown.jsonl"
    found = [
        record(
            model, data, value + 10 * fraction, experiment="linear", metric=metric, unit=unit,
            settings={"fraction": fraction, "select": "accuracy"}, n=44,
            details={"labelled_images": round(300 * fraction), "images": 44, "patients": 39,
                     "control": model == "random_r18", "interval": "over 39 test patients"},
        )
        for model, value in (("random_r18", 60.0), ("moco-v2", 75.0))
        for data in ("lungs", "eyes")
        for fraction in (0.1, 0.5, 1.0)
        for metric, unit in (("accuracy", "%"), ("auroc", ""))
    ]  # fmt: skip
    found += [record("moco-v2", "lungs", 80.0 + shots, settings={"ways": 2, "shots": shots},
                     details={"images": 60}) for shots in (1, 5, 20)]  # fmt: skip
    found.append(record("moco-v2", "lungs", 50.0, experiment="linear", metric="brier", unit="",
                        settings={"fraction": 1.0, "select": "accuracy"}))  # fmt: skip
    append_records(path, found)
    return path


def test_more_labels_make_a_curve_for_each_data_set_and_metric(grown):
    content = read_content([grown])
    curves = {curve.title: curve for curve in content.growth}
    assert set(curves) == {
        *(f"linear, {metric}, {data}" for metric in ("accuracy", "auroc")
          for data in ("lungs", "eyes")),
        "few-shot, 2-way, accuracy, lungs",
    }  # fmt: skip
    lines = curves["linear, accuracy, lungs"].lines
    assert list(lines) == ["moco-v2", "random_r18"]
    assert [entry.learnt_from for entry in lines["moco-v2"]] == [30, 150, 300]
    assert [entry.value for entry in lines["moco-v2"]] == [76, 80, 85]
    shots = curves["few-shot, 2-way, accuracy, lungs"]
    assert [entry.learnt_from for entry in shots.lines["moco-v2"]] == [1, 5, 20]
    page = write_page(content)
    images = parsed(page).images
    assert any(
        "linear, accuracy, lungs against labelled images. moco-v2: 76 from 30, 80 from "
        "150, 85 from 300; random_r18: 61 from 30" in text
        for text in images
    )
    assert "labelled images of a class (logarithmic)" in page
    assert page.count("Bands are 95 % intervals.") == 5
    assert page.count("Asked: n = 44, 39 patients. Bands") == 4
    assert 'href="#labels"' in page


def test_other_settings_are_other_curves(grown):
    more = [
        record("moco-v2", "lungs", 70.0 + fraction, experiment="linear",
               settings={"fraction": fraction, "select": "auroc"},
               details={"labelled_images": round(300 * fraction)})
        for fraction in (0.5, 1.0)
    ]  # fmt: skip
    append_records(grown, more)
    titles = [curve.title for curve in read_content([grown]).growth if "lungs" in curve.title]
    assert len(titles) == len(set(titles)) == 4
    assert any("select auroc" in title for title in titles)


def test_one_point_makes_no_curve(results):
    content = read_content([results])
    assert content.growth == []
    assert 'href="#labels"' not in write_page(content)


def test_n_and_controls_stand_in_every_table(grown):
    content = read_content([grown])
    page, markdown = write_page(content), export(content, "markdown")
    assert "lungs <small>n = 44, 39 patients</small>" in page
    assert '<th scope="row">random_r18 (control)</th>' in page
    assert "<td>n = 44, 39 patients</td>" in page
    assert "| model | lungs (n = 44, 39 patients) | eyes (n = 44, 39 patients) |" in markdown
    assert "| random_r18 (control) |" in markdown.replace("\\", "")
    assert "random\\_r18 (control)" in export(content, "latex")
    first = next(csv.DictReader(io.StringIO(export(content, "csv"))))
    assert (first["images"], first["patients"], first["control"]) == ("44", "39", "1")
    assert "over 39 test patients" in page


def test_cells_that_rest_on_other_numbers_of_images_say_so(tmp_path):
    path = tmp_path / "mixed.jsonl"
    append_records(
        path, [record(model, details={"images": n}) for model, n in (("a", 44), ("b", 9))]
    )
    content = read_content([path])
    assert "(n = 9)" in export(content, "markdown")
    assert "| model | scans |" in export(content, "markdown")
    assert "<small>[69.0, 71.0] n = 9</small>" in write_page(content)
