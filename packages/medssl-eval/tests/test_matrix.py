"""Plans, both engines, what is skipped, what fails: with a plug-in package that is installed."""

import importlib.util
import json
import multiprocessing
import os
import struct
import sys
import threading
from pathlib import Path

import pytest
from medssl_eval.cli import app
from medssl_eval.errors import PlanError
from medssl_eval.experiments.declarations import differences, experiment_names
from medssl_eval.matrix.executors import LocalEngine, _finished, _Place
from medssl_eval.matrix.jobs import Cell, Job, Surroundings
from medssl_eval.matrix.ledger import Ledger
from medssl_eval.matrix.plan import DatasetChoice, probe_settings, read_plan
from medssl_eval.matrix.running import Matrix
from medssl_models import ExtractionSettings, Provenance, Record
from medssl_models.console import run
from medssl_models.plugins import load_plugins

SPEC = importlib.util.spec_from_file_location(
    "matrix_plugin", Path(__file__).with_name("matrix_plugin.py")
)
matrix_plugin = importlib.util.module_from_spec(SPEC)  # tests are no package
SPEC.loader.exec_module(matrix_plugin)


@pytest.fixture
def place(tmp_path, monkeypatch):
    site = matrix_plugin.install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(site))
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    load_plugins.cache_clear()
    yield tmp_path
    load_plugins.cache_clear()
    sys.modules.pop("medssl_test_plugin", None)


def carried_out(plan, engine, **options):
    return Matrix(read_plan(plan), **options).run(engine)


def states(cells):
    return [cell.state for cell in cells]


def test_local_processes_do_every_cell_once_and_a_killed_one_again(place, capsys):
    once = place / "died"
    plan = matrix_plugin.write_plan(place, f'dies_once = "{once}"')
    cells = carried_out(plan, LocalEngine(2, retries=1))
    assert once.exists()
    assert states(cells) == ["done"] * 12
    first = matrix_plugin.numbers(Path("results.jsonl"))
    assert len(first) == 4 * (2 + 6 + 1)
    again = carried_out(plan, LocalEngine(2))
    assert states(again) == ["done before"] * 12
    assert matrix_plugin.numbers(Path("results.jsonl")) == first
    Path("results-cells.jsonl").unlink()  # the records are there, and are not written twice
    assert states(carried_out(plan, LocalEngine(1))) == ["done"] * 12
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
        ("[engine]\ncpu = 2", "unknown key 'engine.cpu'; did you mean cpus"),
        ("[probes.knn]\nneighbors = 2", "probes.knn: unknown setting 'neighbors'"),
        ("[probes.few-shots]", "did you mean few-shot"),
        ("[probes.brightness]\nseconds = 'x'", "probes.brightness"),
        ("seed = -1", "plan.toml: seed: "),
        ("[", "not TOML"),
    ],
)
def test_a_wrong_plan_is_one_line_with_file_and_key(place, capsys, text, says):
    path = place / "plan.toml"
    rest = 'models = ["tiny-a"]\ndatasets = ["folder:x"]\n'
    probes = "" if "[probes" in text else "[probes.knn]\n"
    top = text if not text.startswith("[") else ""
    path.write_text(f"{top}\n{rest}{text if not top else ''}\n{probes}")
    code = run(app, ["matrix", str(path)])
    captured = capsys.readouterr()
    assert code in {2, 3}
    assert says in captured.err
    assert captured.err.count("\n") == 1


def test_impossible_cells_are_said_before_any_work(place):
    plan = matrix_plugin.write_plan(place)
    plan.write_text(plan.read_text().replace("queries = 3", "queries = 40"))
    with pytest.raises(PlanError, match="4 of 12 cells are impossible, few-shot of tiny-a"):
        carried_out(plan, LocalEngine(1))
    assert not Path("results.jsonl").exists()
    looked = Matrix(read_plan(plan)).cells()
    assert states(looked).count("impossible") == 4


def test_the_protocols_of_another_package_are_compared(place):
    assert "brightness" in experiment_names()
    (found,) = differences("brightness")
    assert (found.field, found.published, found.corrected) == ("seconds", 1.0, 0.0)
    assert found.entries == ("I-99",)


def test_a_lost_process_fails_only_its_cell(place):
    plan = matrix_plugin.write_plan(place, 'dies_once = "/nonexistent-folder/x"')
    cells = carried_out(plan, LocalEngine(2, retries=0))
    assert states(cells).count("done") == 8
    reasons = {cell.reason for cell in cells if cell.state == "failed"}
    assert all("nonexistent-folder" in reason for reason in reasons)
    shared = Surroundings(
        place, place, place / "r.jsonl", place / "store", ExtractionSettings(), threads=1
    )
    settings = read_plan(plan).probes["brightness"]
    choice = DatasetChoice(name="folder:one")
    from medssl_test_plugin import Settings

    dying = Settings(**{**settings, "dies_once": str(place / "now")})
    job = Job("dies", "cell", Cell("tiny-a", choice, "brightness", dying))
    after = Job("waits", "cell", job.cell, after=("dies",))
    outcomes = list(LocalEngine(1, retries=0).run([job, after], shared, wanted=lambda _: True))
    assert [outcome.job for outcome in outcomes] == ["dies", "waits"]
    assert all("signal 9" in outcome.error for outcome in outcomes)


def test_a_process_that_is_killed_while_it_waits_is_replaced(place):
    plan = read_plan(matrix_plugin.write_plan(place))
    shared = Matrix(plan).surroundings
    settings = probe_settings(plan, "brightness")
    cells = [Cell(name, plan.datasets[0], "brightness", settings) for name in plan.models]
    jobs = [Job(cell.name, "cell", cell) for cell in cells]
    outcomes = LocalEngine(1, retries=0).run(jobs, shared, wanted=lambda _: True)
    assert next(outcomes).error == ""
    (idle,) = multiprocessing.active_children()
    idle.kill()
    idle.join()
    assert [outcome.error for outcome in outcomes] == [""]


def test_a_process_that_is_killed_while_it_sends_its_outcome_is_lost():
    place = _Place(shared=None)
    place.pipe, theirs = multiprocessing.Pipe()
    place.busy = True
    os.write(theirs.fileno(), struct.pack("!i", 1000) + b"half of a thousand bytes")
    theirs.close()
    assert list(_finished([place])) == [(place, None)]
    place.pipe.close()


def test_two_who_append_at_once_lose_and_double_nothing(tmp_path):
    def record(number):
        return Record(
            experiment="e", metric="m", value=number, settings={"n": number},
            provenance=Provenance(model="m"),
        )  # fmt: skip

    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"torn": ')
    notes = []

    def append():
        ledger = Ledger(path, notes.append)
        for number in range(30):
            ledger.add([record(number), record(number + 1)])

    threads = [threading.Thread(target=append) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = Ledger(path)
    last.refresh()
    assert len(last.records) == 31
    assert path.read_text().count("\n") == 32  # the torn line was closed
    assert any("not a record" in note for note in notes)
    assert last.add([record(0)]) == []
    assert last.add([record(0)], again=True) == [record(0)]
