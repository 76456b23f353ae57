"""Drivers and workers are killed, disks full, lines torn: a second run ends what was begun.

Each matrix runs in a process of its own. One driver is killed here while it writes, and one Ray
worker at work; `MEDSSL_KILLS=20 pytest .../test_matrix_reliability.py` kills so many drivers at
random moments too, and half as many Ray workers.
"""

import importlib.util
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from medssl_eval.matrix.finished import finished_cells

SPEC = importlib.util.spec_from_file_location(
    "matrix_plugin", Path(__file__).with_name("matrix_plugin.py")
)
matrix_plugin = importlib.util.module_from_spec(SPEC)  # tests are no package
SPEC.loader.exec_module(matrix_plugin)
KILLS = int(os.environ.get("MEDSSL_KILLS", "0"))
at_random = pytest.mark.skipif(KILLS < 10, reason="MEDSSL_KILLS=20 kills at random moments too")
WORDS = ["matrix", "plan.toml", "--json"]
COMMAND = [sys.executable, "-m", "medssl_eval.cli", *WORDS]
DYING = """
import os, signal, sys
sync, written = os.fsync, []
def dying(file):
    written.append(file)
    if len(written) == 7:
        os.ftruncate(file, os.fstat(file).st_size - 40)
        os.kill(os.getpid(), signal.SIGKILL)
    sync(file)
os.fsync = dying
from medssl_eval.cli import app
from medssl_models.console import run
sys.exit(run(app, sys.argv[1:]))
"""

PASSED_ON = ("PATH", "LANG", "LD_LIBRARY_PATH", "TMPDIR", "PYTHONDONTWRITEBYTECODE")
PATIENCE = 300
"""Seconds after which a matrix that takes some ten is called stuck."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with data and plan, its environment, and an undisturbed run in it."""
    folder = tmp_path_factory.mktemp("matrix")
    site = matrix_plugin.install(folder / "site")
    environment = {
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
        "HOME": str(folder),
        "MEDSSL_HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    executor = "[executor]\nprocesses = 2\nretries = 3\nshard = 8"
    matrix_plugin.write_plan(folder, "seconds = 0.3", executor).rename(folder / "model.toml")
    began = time.monotonic()
    run(folder, environment, "undisturbed")
    return folder, environment, time.monotonic() - began


def plan(folder, name, brightness="", *, features=None):
    """Give a run its own results, and its own features too where it does not name another's."""
    text = (folder / "model.toml").read_text()
    text = text.replace('"features"', f'"features-{features or name}"')
    text = text.replace("[experiments.brightness]", f"[experiments.brightness]\n{brightness}")
    (folder / "plan.toml").write_text(f'results = "{name}.jsonl"\n' + text)


def start(folder, environment, *more, command=COMMAND, **options):
    """Start the matrix of the plan in a session of its own, so that all of it can be ended."""
    return subprocess.Popen(
        [*command, *more], cwd=folder, env=environment, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def ended(process):
    """Wait for a matrix, and give its exit code, output and messages; one that is stuck fails."""
    try:
        out, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, errors = process.communicate()
        pytest.fail(f"stuck after {PATIENCE} s: {errors.decode()[-2000:]}")
    return process.returncode, out.decode(), errors.decode()


def run(folder, environment, name, *more, brightness=""):
    plan(folder, name, brightness)
    code, out, errors = ended(start(folder, environment, *more))
    assert code == 0, errors
    return json.loads(out)


def same(folder, name):
    """Hold records to those of the undisturbed run; what lies beside them has the run's name."""
    found = matrix_plugin.numbers(folder / f"{name}.jsonl")
    expected = matrix_plugin.numbers(folder / "undisturbed.jsonl")
    for record in (*found, *expected):
        for kept in ("predictions", "influences"):
            record["details"].pop(kept, None)
    assert found == expected


def test_a_killed_driver_loses_and_doubles_nothing(world):
    """Killed in the middle of the records of a fourth cell, while its processes are at work."""
    folder, environment, _ = world
    plan(folder, "killed")
    killed = start(folder, environment, command=[sys.executable, "-c", DYING, *WORDS])
    code, _, errors = ended(killed)  # waits for its processes too, which must notice by themselves
    assert code == -signal.SIGKILL, errors
    assert not (folder / "killed.jsonl").read_bytes().endswith(b"\n")
    assert len(finished_cells(folder / "killed.jsonl").refresh()) == 3
    run(folder, environment, "killed")
    same(folder, "killed")


@at_random
def test_drivers_killed_at_random_moments_lose_and_double_nothing(world):
    folder, environment, seconds = world
    chance = random.Random(0)
    for kill in range(KILLS):
        name = f"killed-{kill}"
        plan(folder, name)
        process = start(folder, environment)
        time.sleep(chance.uniform(0.3, 1.0) * seconds)
        process.kill()  # the driver alone
        ended(process)
        run(folder, environment, name)
        same(folder, name)


def test_two_matrices_on_one_results_file_and_store(world):
    folder, environment, _ = world
    plan(folder, "shared")
    one = ("--processes", "1")
    both = [ended(process) for process in [start(folder, environment, *one) for _ in range(2)]]
    assert [code for code, _, _ in both] == [0, 0]
    assert all(json.loads(out)["failed"] == [] for _, out, _ in both)
    same(folder, "shared")


def test_a_full_disk_is_one_line_and_the_next_run_ends_it(world):
    folder, environment, _ = world
    results = folder / "full.jsonl"
    most = (
        40_000  # bytes of any file; a third of the records fit behind empty lines, which are none
    )
    results.write_bytes(b"\n" * (most - 10_000))
    plan(folder, "full", features="undisturbed")
    compiled = {"PYTHONDONTWRITEBYTECODE": "1"}  # or half of a module's bytecode would be kept
    limited = start(
        folder, environment | compiled, "--processes", "1",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )  # fmt: skip
    code, out, errors = ended(limited)
    assert (code, json.loads(out)["exit_code"]) == (1, 1)
    assert [line for line in errors.splitlines() if "full.jsonl" in line] == [errors.rstrip()]
    assert "File too large" in errors
    kept = results.read_bytes()
    assert kept.endswith(b"}\n")  # whole lines only
    assert 0 < len(matrix_plugin.numbers(results)) < 36
    results.write_bytes(kept[:-40])  # and the disk tears the last one
    done = ended(start(folder, environment, "--processes", "1"))
    assert done[0] == 0, done[2]
    same(folder, "full")


def test_ray_gives_the_same_numbers_from_shards_and_survives_a_killed_worker(world):
    pytest.importorskip("ray")
    folder, environment, _ = world
    once = folder / "died"
    run(folder, environment, "ray", "--executor", "ray", brightness=f'dies_once = "{once}"')
    assert once.exists()
    same(folder, "ray")
    assert len(list((folder / "features-ray").glob("*.h5"))) == 4  # the shards are joined


@at_random
def test_killed_ray_workers_lose_and_double_nothing(world):
    pytest.importorskip("ray")
    folder, environment, _ = world
    chance = random.Random(1)
    killed = 0
    while killed < KILLS // 2:
        name = f"ray-{killed}"
        plan(folder, name)
        process = start(folder, environment, "--executor", "ray")
        time.sleep(chance.uniform(0.0, 3.0))
        while process.poll() is None:
            workers = busy_workers(process.pid)
            if workers:
                os.kill(chance.choice(workers), signal.SIGKILL)
                killed += 1
                break
            time.sleep(0.02)
        code, _, errors = ended(process)
        assert code == 0, errors
        same(folder, name)


def busy_workers(driver):
    """Processes below the driver that Ray names after the task that they do."""
    parents, found = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(stat[1])
                if b"ray::perform" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue

    def below(pid):
        while pid in parents and pid != driver:
            pid = parents[pid]
        return pid == driver

    return [pid for pid in found if below(pid)]
