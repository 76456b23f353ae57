"""Drivers and workers are killed, lines torn: what was kept is whole, and a second run ends it.

One kill here; `MEDSSL_KILLS=20 pytest .../test_matrix_reliability.py` does so many of a driver,
and half as many of a Ray worker.
"""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location(
    "matrix_plugin", Path(__file__).with_name("matrix_plugin.py")
)
matrix_plugin = importlib.util.module_from_spec(SPEC)  # tests are no package
SPEC.loader.exec_module(matrix_plugin)
KILLS = int(os.environ.get("MEDSSL_KILLS", "1"))
COMMAND = [sys.executable, "-m", "medssl_eval.cli", "matrix", "plan.toml", "--json"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with data and plan, its environment, and an undisturbed run in it."""
    folder = tmp_path_factory.mktemp("matrix")
    site = matrix_plugin.install(folder / "site")
    environment = {
        **os.environ,
        "MEDSSL_HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }
    engine = "[engine]\nprocesses = 2\nretries = 3\nshard = 8"
    matrix_plugin.write_plan(folder, "seconds = 0.3", engine).rename(folder / "model.toml")
    began = time.monotonic()
    run(folder, environment, "undisturbed")
    return folder, environment, time.monotonic() - began


def plan(folder, name):
    """Give a run its own results and features."""
    text = (folder / "model.toml").read_text().replace('"features"', f'"features-{name}"')
    (folder / "plan.toml").write_text(f'results = "{name}.jsonl"\n' + text)


def run(folder, environment, name, *more):
    plan(folder, name)
    done = subprocess.run(
        [*COMMAND, *more], cwd=folder, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def same(folder, name):
    found = matrix_plugin.numbers(folder / f"{name}.jsonl")
    expected = matrix_plugin.numbers(folder / "undisturbed.jsonl")
    for record in (*found, *expected):
        record["details"].pop("predictions", None)
    assert found == expected


def test_a_killed_driver_loses_and_doubles_nothing(world):
    folder, environment, seconds = world
    chance = random.Random(0)
    for kill in range(KILLS):
        name = f"killed-{kill}"
        plan(folder, name)
        process = subprocess.Popen(
            COMMAND, cwd=folder, env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(chance.uniform(0.3, 1.0) * seconds)
        matrix_plugin.kill_group(process)
        run(folder, environment, name)
        same(folder, name)


def test_two_matrices_on_one_results_file_and_store(world):
    folder, environment, _ = world
    plan(folder, "shared")
    both = [
        subprocess.Popen(COMMAND, cwd=folder, env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    documents = [json.loads(process.communicate()[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all(document["failed"] == [] for document in documents)
    same(folder, "shared")


def test_a_torn_last_line_is_done_again(world):
    folder, environment, _ = world
    for name in ("torn.jsonl", "torn-cells.jsonl"):
        whole = (folder / name.replace("torn", "undisturbed")).read_bytes()
        (folder / name).write_bytes(whole[:-40])
    run(folder, environment, "torn")
    same(folder, "torn")


@pytest.mark.skipif(KILLS < 10, reason="MEDSSL_KILLS=20 kills workers of a Ray cluster too")
def test_killed_ray_workers_lose_and_double_nothing(world):
    pytest.importorskip("ray")
    folder, environment, _ = world
    chance = random.Random(1)
    killed = 0
    while killed < KILLS // 2:
        name = f"ray-{killed}"
        plan(folder, name)
        process = subprocess.Popen(
            [*COMMAND, "--engine", "ray"], cwd=folder, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        time.sleep(chance.uniform(0.0, 3.0))
        while process.poll() is None:
            workers = busy_workers(process.pid)
            if workers:
                os.kill(chance.choice(workers), signal.SIGKILL)
                killed += 1
                break
            time.sleep(0.02)
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
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
