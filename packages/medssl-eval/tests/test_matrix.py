"""Plans, executors, what is skipped, what fails: with a plug-in package that is installed."""

import importlib.util
import json
import multiprocessing
import os
import re
import struct
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from medssl_eval import matrix
from medssl_eval.cli import app
from medssl_eval.errors import PlanError
from medssl_eval.matrix.executors import LocalExecutor, _finished, _Worker
from medssl_eval.matrix.finished import FinishedCell, finished_cells
from medssl_eval.matrix.jobs import Job, MatrixCell, SharedContext
from medssl_eval.matrix.plan import DatasetChoice, experiment_settings, read_plan
from medssl_eval.matrix.running import Matrix
from medssl_models import ExtractionSettings, read_records
from medssl_models.console import run
from medssl_models.experiments import registry
from medssl_models.experiments.experiment import GROUP
from medssl_models.plugins import load_plugins

SPEC = importlib.util.spec_from_file_location(
    "matrix_plugin", Path(__file__).with_name("matrix_plugin.py")
)
matrix_plugin = importlib.util.module_from_spec(SPEC)  # tests are no package
SPEC.loader.exec_module(matrix_plugin)


@pytest.fixture
def place(tmp_path, monkeypatch):
    site = matrix_plugin.install(tmp_path / "site", probes=True)
    monkeypatch.syspath_prepend(str(site))
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    caches = (load_plugins, registry._load)
    for cache in caches:
        cache.cache_clear()
    yield tmp_path
    for cache in caches:
        cache.cache_clear()
    sys.modules.pop("medssl_test_plugin", None)


def carried_out(plan, executor, **options):
    return Matrix(read_plan(plan), **options).run(executor)


def states(cells):
    return [cell.state for cell in cells]


def test_local_processes_do_every_cell_once_and_a_killed_one_again(place, capsys):
    once = place / "died"
    plan = matrix_plugin.write_plan(place, f'dies_once = "{once}"')
    cells = carried_out(plan, LocalExecutor(2, retries=1))
    assert once.exists()
    assert states(cells) == ["done"] * 12
    first = matrix_plugin.numbers(Path("results.jsonl"))
    assert len(first) == 4 * (2 + 6 + 1)
    again = carried_out(plan, LocalExecutor(2))
    assert states(again) == ["done before"] * 12
    assert matrix_plugin.numbers(Path("results.jsonl")) == first
    Path("results-cells.jsonl").unlink()  # the records are there, and are not written twice
    assert states(carried_out(plan, LocalExecutor(1))) == ["done"] * 12
    assert matrix_plugin.numbers(Path("results.jsonl")) == first
    assert run(app, ["matrix", str(plan), "--dry-run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {cell["state"] for cell in shown["cells"]} == {"done before"}
    assert shown["seconds"] == 0


def test_a_failed_cell_stops_no_other_and_is_named(place, capsys):
    plan = matrix_plugin.write_plan(place, 'fails_on = "tiny-b"')
    assert run(app, ["matrix", str(plan), "--processes", "2"]) == 1
    captured = capsys.readouterr()
    assert "2 of 12 cells failed" in captured.err
    assert (
        "brightness of tiny-b on folder:two: ValueError: a picture is upside down" in captured.err
    )
    assert "Traceback" not in captured.err
    assert captured.out.count(" done ") == 10
    assert states(Matrix(read_plan(plan)).cells()).count("to do") == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('modles = ["tiny-a"]', "plan.toml: unknown key 'modles'; did you mean models"),
        ("[executor]\ncpu = 2", "unknown key 'executor.cpu'; did you mean cpus"),
        ("[experiments.knn]\nneighbors = 2", "experiments.knn: unknown setting 'neighbors'"),
        ("[experiments.few-shots]", "did you mean few-shot"),
        ("[experiments.brightness]\nseconds = 'x'", "experiments.brightness: seconds is 'x'"),
        ("seed = -1", "plan.toml: seed: "),
        ("[", "not TOML"),
    ],
)
def test_a_wrong_plan_is_one_line_with_file_and_key(place, capsys, text, says):
    path = place / "plan.toml"
    rest = 'models = ["tiny-a"]\ndatasets = ["folder:x"]\n'
    experiments = "" if "[experiments" in text else "[experiments.knn]\n"
    top = text if not text.startswith("[") else ""
    path.write_text(f"{top}\n{rest}{text if not top else ''}\n{experiments}")
    code = run(app, ["matrix", str(path)])
    captured = capsys.readouterr()
    assert code in {2, 3}
    assert says in captured.err
    assert captured.err.count("\n") == 1


def test_a_cell_whose_part_is_possible_gives_that_part(place):
    plan = matrix_plugin.write_plan(place)
    plan.write_text(plan.read_text().replace("shots = [1, 2]", "shots = [1, 50]"))
    assert states(carried_out(plan, LocalExecutor(1))) == ["done"] * 12
    found = [one for one in matrix_plugin.numbers(Path("results.jsonl"))
             if one["experiment"] == "few-shot"]  # fmt: skip
    assert [one["settings"]["shots"] for one in found] == [1] * 4
    assert all("50 shots left out" in " ".join(one["notes"]) for one in found)
    assert states(carried_out(plan, LocalExecutor(1))) == ["done before"] * 12


def test_impossible_cells_are_said_before_any_work(place):
    plan = matrix_plugin.write_plan(place)
    plan.write_text(plan.read_text().replace("queries = 3", "queries = 40"))
    with pytest.raises(PlanError, match="4 of 12 cells are impossible, few-shot of tiny-a"):
        carried_out(plan, LocalExecutor(1))
    assert not Path("results.jsonl").exists()
    looked = Matrix(read_plan(plan)).cells()
    assert states(looked).count("impossible") == 4


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("brightness", ("seconds", 1.0, 0.0, ["I-99"])),
        ("darkness", ("whitest", 254, 255, ["I-98"])),
    ],
)
def test_the_protocols_of_another_package_are_compared(place, capsys, name, difference):
    assert run(app, ["protocol", "diff", name, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["differences"]
    assert difference == tuple(found[key] for key in ("field", "published", "corrected", "entries"))


def test_a_plan_of_version_0_1_is_done_with_a_note_and_so_is_a_probe(place, capsys):
    plan = matrix_plugin.write_plan(place, more="[engine]\ncpus = 1")
    text = plan.read_text().replace("[experiments.", "[probes.").replace("neighbours = 3", "")
    plan.write_text(text.replace("[probes.brightness]", "[probes.darkness]") + LINEAR)
    assert run(app, ["matrix", str(plan), "--processes", "1"]) == 0
    said = capsys.readouterr().err
    assert f"warning: {plan}: probes is called experiments now" in said
    assert f"warning: {plan}: engine is called executor now" in said
    assert "warning: experiment darkness comes through the entry-point group medssl.probes" in said
    records = read_records("results.jsonl")
    found = {record.experiment for record in records}
    assert found == {"few-shot", "linear", "knn", "darkness"}
    assert {record.unit for record in records if record.experiment == "darkness"} == {"%"}
    assert read_plan(plan).experiments["linear"] == {"Cs": [0.1], "labels": "published"}


LINEAR = """
[probes.linear]
strengths = [0.1]
labels = "study"
"""


def test_a_lost_process_fails_only_its_cell(place):
    plan = matrix_plugin.write_plan(place, 'dies_once = "/nonexistent-folder/x"')
    cells = carried_out(plan, LocalExecutor(2, retries=0))
    assert states(cells).count("done") == 8
    reasons = {cell.reason for cell in cells if cell.state == "failed"}
    assert all("nonexistent-folder" in reason for reason in reasons)
    shared = SharedContext(
        place, place, place / "r.jsonl", place / "store", ExtractionSettings(), threads=1
    )
    settings = read_plan(plan).experiments["brightness"]
    choice = DatasetChoice(name="folder:one")
    from medssl_test_plugin import Settings

    dying = Settings(**{**settings, "dies_once": str(place / "now")})
    job = Job("dies", "cell", MatrixCell("tiny-a", choice, "brightness", dying))
    after = Job("waits", "cell", job.cell, after=("dies",))
    outcomes = list(LocalExecutor(1, retries=0).run([job, after], shared, wanted=lambda _: True))
    assert [outcome.job for outcome in outcomes] == ["dies", "waits"]
    assert all("signal 9" in outcome.error for outcome in outcomes)


def test_a_process_that_is_killed_while_it_waits_is_replaced(place):
    plan = read_plan(matrix_plugin.write_plan(place))
    shared = Matrix(plan).shared
    settings = experiment_settings(plan, "brightness")
    cells = [MatrixCell(name, plan.datasets[0], "brightness", settings) for name in plan.models]
    jobs = [Job(cell.name, "cell", cell) for cell in cells]
    outcomes = LocalExecutor(1, retries=0).run(jobs, shared, wanted=lambda _: True)
    assert next(outcomes).error == ""
    (idle,) = multiprocessing.active_children()
    idle.kill()
    idle.join()
    assert [outcome.error for outcome in outcomes] == [""]


def test_a_process_that_is_killed_while_it_sends_its_outcome_is_lost():
    place = _Worker(shared=None)
    place.pipe, theirs = multiprocessing.Pipe()
    place.busy = True
    os.write(theirs.fileno(), struct.pack("!i", 1000) + b"half of a thousand bytes")
    theirs.close()
    assert list(_finished([place])) == [(place, None)]
    place.pipe.close()


def test_a_folder_that_cannot_be_written_is_said_before_any_work(place):
    (place / "taken").write_text("a file")
    plan = matrix_plugin.write_plan(place, more='results = "taken/results.jsonl"')
    with pytest.raises(OSError, match=r"taken cannot be written .*; name another with results"):
        carried_out(plan, LocalExecutor(1))
    assert not (place / "features").exists()


def test_two_names_of_a_model_are_one(place):
    plan = matrix_plugin.write_plan(place)
    names = '["random:resnet18", "random_r18"]'
    plan.write_text(plan.read_text().replace('["tiny-a", "tiny-b"]', names))
    cells = [planned.cell for planned in Matrix(read_plan(plan)).cells()]
    assert len(cells) == 6
    assert {(cell.model, cell.asked) for cell in cells} == {("random_r18", "random:resnet18")}


def test_two_who_append_at_once_lose_and_double_nothing(tmp_path):
    def line(number):
        names = dict.fromkeys(("model", "weights", "dataset", "manifest"), "m")
        return FinishedCell(experiment="e", settings={"n": number}, **names)

    results = tmp_path / "results.jsonl"
    path = finished_cells(results).path
    path.write_bytes(b'{"torn": ')
    notes = []

    def append():
        store = finished_cells(results, notes.append)
        for number in range(30):
            store.append([line(number), line(number + 1)])

    threads = [threading.Thread(target=append) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = finished_cells(results)
    assert len(last.refresh()) == 31
    assert path.read_text().count("\n") == 32  # the torn line was closed
    assert any("not a record" in note for note in notes)
    assert last.append([line(0)]) == []
    assert last.append([line(0)], again=True) == [line(0)]


def test_times_of_version_0_1_still_count(tmp_path):
    origin = {"model": "m", "weights": "w", "dataset": "d", "manifest": "f", "layer": "pooled"}
    details = {"records": ["k"], "images": 24, "passes": None, "reads_features": True}
    old = {
        "experiment": "matrix-cell", "metric": "seconds", "unit": "s", "value": 2.5,
        "settings": {"probe": "e", "settings": {"n": 1}}, "details": details, "provenance": origin,
    }  # fmt: skip
    store = finished_cells(tmp_path / "results.jsonl")
    store.path.write_text(json.dumps(old) + "\n" + json.dumps({**old, "details": None}) + "\n")
    notes = []
    store.warn = notes.append
    (line,) = store.refresh().values()
    assert (line.experiment, line.settings, line.seconds) == ("e", {"n": 1}, 2.5)
    assert (line.images, line.reads_features, line.records) == (24, True, ("k",))
    assert len(notes) == 1


def test_no_experiment_is_named_where_cells_are_planned_and_done():
    names = "|".join(re.escape(entry.name) for entry in entry_points(group=GROUP))
    folder = Path(matrix.__path__[0])
    for path in folder.glob("*.py"):
        found = re.findall(rf"[^\w-](?:{names})[^\w-]", path.read_text())
        assert not found, f"{path.name} names {found}"
