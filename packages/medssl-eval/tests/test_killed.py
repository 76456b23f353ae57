"""Linear and k-NN evaluation killed with SIGKILL: nothing lost, nothing twice, nothing half."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from medssl_eval.cli import app
from medssl_models import read_records
from medssl_models.console import run as run_app

CONFTEST = Path(__file__).with_name("conftest.py")
CHILD = """
import os, runpy, signal, sys
import medssl_models.backbone, torch
conftest, threads, results, *words = sys.argv[1:]
torch.set_num_threads(int(threads))
medssl_models.backbone.create_model = runpy.run_path(conftest)["_tiny_model"]
sync, appended = os.fsync, []
def dying(file):
    if os.path.exists(results) and os.path.samestat(os.fstat(file), os.stat(results)):
        appended.append(file)
        if len(appended) == 2:
            os.ftruncate(file, os.fstat(file).st_size - 40)
            os.kill(os.getpid(), signal.SIGKILL)
    sync(file)
os.fsync = dying
from medssl_eval.cli import app
from medssl_models.console import run
sys.exit(run(app, [*words, "--results", results]))
"""


@pytest.mark.parametrize("experiment", ["linear", "knn"])
def test_a_killed_run_goes_on_where_it_was(scans, tmp_path, tiny_models, experiment):
    """A real kill -9 while it appends the second model's records, the last of which is torn."""
    words = [experiment, "-d", f"folder:{scans}", "--split", "patient", "--quiet"]
    words += [word for name in ("r18", "r50", "d121") for word in ("-m", f"random_{name}")]
    results, threads = tmp_path / "killed.jsonl", str(torch.get_num_threads())
    child = subprocess.run(
        [sys.executable, "-c", CHILD, CONFTEST, threads, results, *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL
    assert len(read_records(results)) == 11
    assert len(read_records(results).notes) == 1
    assert run_app(app, [*words, "--results", str(results)]) == 0
    whole = tmp_path / "whole.jsonl"
    assert run_app(app, [*words, "--results", str(whole)]) == 0
    found, expected = read_records(results), read_records(whole)
    assert len(found) == len(expected) == 18
    assert len(found.notes) == 1  # the torn line was closed, and spoilt none after it
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
