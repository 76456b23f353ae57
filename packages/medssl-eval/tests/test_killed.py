"""Linear and k-NN evaluation killed with SIGKILL: nothing lost, nothing twice, nothing half."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from medssl_eval.cli import app
from medssl_models import read_records
from medssl_models.console import run as run_app

CONFTEST = Path(__file__).with_name("conftest.py")
CHILD = """
import runpy, sys
import medssl_models
medssl_models.create_model = runpy.run_path(sys.argv[1])["_tiny_model"]
from medssl_eval.cli import app
from medssl_models.console import run
sys.exit(run(app, sys.argv[2:]))
"""


@pytest.mark.parametrize("experiment", ["linear", "knn"])
def test_a_killed_run_goes_on_where_it_was(scans, tmp_path, tiny_models, experiment):
    words = [experiment, "-d", f"folder:{scans}", "--split", "patient", "--quiet"]
    words += [word for name in ("r18", "r50", "d121") for word in ("-m", f"random_{name}")]
    results = tmp_path / "killed.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(CONFTEST), *words, "--results", str(results)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline:
        if results.exists() and results.stat().st_size:
            break
        time.sleep(0.002)
    child.kill()
    child.wait()
    assert results.stat().st_size
    assert run_app(app, [*words, "--results", str(results)]) == 0
    whole = tmp_path / "whole.jsonl"
    assert run_app(app, [*words, "--results", str(whole)]) == 0
    lines = results.read_text("utf-8").splitlines()
    assert all(json.loads(line) for line in lines)
    found, expected = read_records(results), read_records(whole)
    assert len(lines) == len(found) == len(expected) == 18
    values = {record.key: record.value for record in found}
    assert values == pytest.approx({record.key: record.value for record in expected}, abs=0.05)


@pytest.mark.parametrize("experiment", ["linear", "knn"])
def test_a_torn_record_of_several_is_made_again(scans, tmp_path, tiny_models, experiment):
    """The first metric's record is whole: it must not vouch for the others."""
    results = tmp_path / "results.jsonl"
    words = [experiment, "-m", "random_r18", "-d", f"folder:{scans}", "--split", "patient"]
    words += ["--quiet", "--results", str(results)]
    assert run_app(app, words) == 0
    whole = {record.key: record.value for record in read_records(results)}
    results.write_bytes(results.read_bytes()[:-40])
    assert run_app(app, words) == 0
    assert {record.key: record.value for record in read_records(results)} == whole
