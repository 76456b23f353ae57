"""The experiments of four packages in one matrix, on phantoms, and one report of their records."""

import json

import pytest
from medssl_data import cli as data_cli
from medssl_data.console import run as run_data
from medssl_eval import cli as eval_cli
from medssl_models.console import run
from medssl_models.experiments.record_store import read_records

PLAN = """
models = ["random_r18"]
datasets = ["chexpert", "phantom:chest-xray,count=24,size=80"]
store = "features"
[extraction]
device = "cpu"
workers = 0
[executor]
processes = 1
[experiments.linear]
Cs = [0.01, 1.0]
[experiments.finetune]
steps = 2
batch_size = 4
side = 32
validate_every = 2
[experiments.saliency-stats]
pictures = 2
window = 32
stride = 32
resize = 64
crop = 64
[experiments.views]
images = 6
covariance_images = 12
gallery = 6
partners = 2
bootstrap = 100
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a plan and with a phantom that has frontal and lateral views."""
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text(PLAN)
    assert run_data(data_cli.app, ["phantom", "chexpert", "--quiet"]) == 0
    return tmp_path


def matrix(capsys, *more):
    capsys.readouterr()
    code = run(eval_cli.app, ["matrix", "plan.toml", "--json", *more])
    captured = capsys.readouterr()
    print(captured.err)  # noqa: T201 # pytest shows it where the test fails
    return code, json.loads(captured.out)


def test_experiments_of_four_packages_in_one_matrix(place, capsys):
    code, planned = matrix(capsys, "--dry-run")
    assert code == 0
    states = {(c["dataset"], c["experiment"]): c["state"] for c in planned["cells"]}
    impossible = [cell for cell, state in states.items() if state == "impossible"]
    assert impossible == [("phantom:chest-xray,count=24,size=80", "views")]
    assert planned["seconds"] > 0
    code, said = matrix(capsys)
    assert code == 3
    assert "1 of 8 cells are impossible, views of random_r18 on phantom" in said["error"]
    code, done = matrix(capsys, "--skip-impossible")
    assert code == 0
    assert [c["state"] for c in done["cells"]] == [*["done"] * 7, "impossible"]
    assert all(c["records"] for c in done["cells"][:7])
    written = (place / "results.jsonl").read_bytes()
    assert {record.experiment for record in read_records(place / "results.jsonl")} >= {
        "linear", "finetune", "saliency-stats", "views",
    }  # fmt: skip
    code, again = matrix(capsys, "--skip-impossible")
    assert [c["state"] for c in again["cells"]] == [*["done before"] * 7, "impossible"]
    assert (place / "results.jsonl").read_bytes() == written
    code, planned = matrix(capsys, "--dry-run", "--force")
    assert {c["estimate"]["basis"] for c in planned["cells"]} == {"such cells before", "impossible"}
    assert run(eval_cli.app, ["report", "results.jsonl", "-o", "report.html"]) == 0
    page = (place / "report.html").read_text("utf-8")
    assert "attentive_diffusion" in page
