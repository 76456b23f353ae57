"""Fine-tuning end to end: killed for real, used by others, both protocols, bad input refused."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from medssl_data import load_dataset
from medssl_eval.cli import app
from medssl_eval.errors import DivergedError, InfeasibleError
from medssl_eval.experiments.finetune import finetune
from medssl_eval.experiments.predictions import predictions_folder, read_predictions
from medssl_eval.experiments.settings import FinetuneOptions, FinetuneSettings, preset
from medssl_eval.training.checkpoint import read_checkpoint
from medssl_models import ExtractionSettings, RunContext, create_model, read_records
from medssl_models.console import run as run_app
from medssl_models.conversion.verification import verify
from medssl_models.testing import tiny_backbone
from safetensors.torch import load_file

PLAIN = RunContext()
QUICK = {"steps": 12, "batch_size": 8, "validate_every": 4}


CHILD = """
import os, runpy, signal, sys
sync, synced = os.fsync, []
def dying(file):
    synced.append(file)
    if len(synced) == 4:
        os.ftruncate(file, 1000)
        os.kill(os.getpid(), signal.SIGKILL)
    sync(file)
os.fsync = dying
runpy.run_path(sys.argv[1])["train"](*sys.argv[2:])
"""


def train(folder, pictures, threads):
    """Fine-tune with a checkpoint after every second step; runs in a process of its own too.

    Sums are the same to the last bit only where as many threads share them.
    """
    torch.set_num_threads(int(threads))
    chosen = FinetuneSettings(steps=24, batch_size=8, validate_every=8, patience=9, side=32)
    data = load_dataset(f"folder:{pictures}", split="patient")
    context = RunContext(
        extraction=ExtractionSettings(workers=0),  # to start readers takes longer
        output=Path(folder),
        options=FinetuneOptions(checkpoint_every=2),
    )
    return finetune(tiny_backbone(width=8), data, settings=chosen, context=context)


def split(scans, **options):
    return load_dataset(f"folder:{scans}", split="patient", **options)


def settings(protocol="corrected", **changes):
    return preset(FinetuneSettings, protocol, **(QUICK | changes))


def kept(folder):
    """Let a run be kept in a folder."""
    return {"context": RunContext(output=folder)}


def weights(folder):
    (path,) = folder.glob("*/training.safetensors")
    return load_file(path)


def test_a_killed_process_goes_on_to_the_same_weights(scans, tmp_path):
    """The real thing: SIGKILL while it writes its fourth checkpoint, then the same again."""
    threads = torch.get_num_threads()
    whole = train(tmp_path / "whole", scans, threads)
    words = [sys.executable, "-c", CHILD, __file__, str(tmp_path / "cut"), str(scans), str(threads)]
    child = subprocess.run(words, stderr=subprocess.DEVNULL, check=False)
    assert child.returncode == -signal.SIGKILL
    (half,) = (tmp_path / "cut").glob("*/.training.safetensors.*")
    os.utime(half, (0, 0))  # a draft of this second may be somebody's who has not locked it yet
    again = train(tmp_path / "cut", scans, threads)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [record.value for record in whole] == [record.value for record in again]
    assert whole[0].details["curve"] == again[0].details["curve"]
    assert not half.exists()


def test_the_model_is_one_of_the_library(scans, tmp_path):
    data = split(scans)
    before = tiny_backbone(width=8)
    records = finetune(before, data, settings=settings(side=48), **kept(tmp_path / "runs"))
    folder = Path(records[0].details["model"])
    assert verify(folder).passed
    after = create_model(str(folder))
    assert after.card.seed is None
    assert not after.card.control
    assert (after.preprocessing.crop, after.preprocessing.resize) == (48, 54)
    assert data.name in after.card.pretraining
    saved = weights(tmp_path / "runs")
    for name, tensor in after.trunk.state_dict().items():
        assert torch.equal(tensor, saved[f"model.backbone.trunk.{name}"]), name
    assert not torch.equal(next(after.parameters()), next(before.parameters()))
    again = finetune(after, data, settings=settings(), **kept(tmp_path / "more"))
    assert again[0].provenance.weights == after.fingerprint


def test_curves_are_a_table_and_a_picture(scans, tmp_path):
    finetune(tiny_backbone(), split(scans), settings=settings(), **kept(tmp_path))
    (path,) = tmp_path.glob("*/curves.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["step"] for row in rows] == ["4", "8", "10", "12"]
    assert [bool(row["validation_loss"]) for row in rows] == [True, True, False, True]
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_records_hold_what_the_predictions_say(scans, tmp_path, capsys, tiny_models):
    words = ["finetune", "-m", "random_r18", "-d", f"folder:{scans}", "--split", "patient"]
    words += ["--steps", "6", "--train-batch-size", "8", "--validate-every", "3", "--json"]
    assert run_app(app, words) == 0
    document = json.loads(capsys.readouterr().out)
    results = Path("results.jsonl")
    records = {record.metric: record for record in read_records(results)}
    assert len(document["records"]) == len(records) >= 6
    found = read_predictions(records["accuracy"], results)
    right = found.probabilities.argmax(axis=1) == found.labels
    assert records["accuracy"].value == pytest.approx(100 * right.mean())
    assert predictions_folder(results).is_dir()
    assert run_app(app, words) == 0
    assert "done before" in capsys.readouterr().err
    assert len(read_records(results)) == len(records)


def test_the_protocols_part_where_they_should(scans, tmp_path):
    data = split(scans)
    found = {}
    for protocol in ("published", "corrected"):
        chosen = settings(protocol, steps=8, side=32)
        records = finetune(tiny_backbone(), data, settings=chosen, **kept(tmp_path))
        found[protocol] = {record.metric: record for record in records}
    published = found["published"]
    assert published["auroc"].value == pytest.approx(published["balanced_accuracy"].value / 100)
    assert published["auroc"].details["tested_step"] == 8
    corrected = found["corrected"]["auroc"].details
    assert corrected["tested_step"] == corrected["best_step"]


def test_soft_targets_train_and_the_study_truncates_them(scans):
    data = split(scans)
    soft = np.where(data.labels == 1, 0.7, 0.0)
    manifest = replace(data.manifest, targets=tuple(soft.tolist()))
    data = type(data)(manifest, data.card, data.cache)
    records = finetune(tiny_backbone(), data, settings=settings(), context=PLAIN)
    assert records[0].details["curve"]
    with pytest.raises(InfeasibleError, match="only class"):
        finetune(tiny_backbone(), data, settings=settings(targets="truncated"), context=PLAIN)


def test_without_early_stopping_validation_images_train_too(scans, tmp_path):
    chosen = settings(early_stopping=False)
    records = finetune(tiny_backbone(), split(scans), settings=chosen, **kept(tmp_path))
    assert records[0].details["steps"] == 12
    assert records[0].details["validation_curve"] == []


def test_the_search_takes_the_best_and_passes_over_what_diverges(scans, tmp_path):
    chosen = settings(search=True, steps=4, validate_every=2)
    records = finetune(tiny_backbone(), split(scans), settings=chosen, **kept(tmp_path))
    assert any("search chose" in note for note in records[0].notes)
    assert records[0].details["learning_rate"] in {0.1, 1e-4}
    assert len(list(tmp_path.glob("*/training.safetensors"))) == 6
    assert len(list(tmp_path.glob("*/model"))) == 1


def test_the_studys_search_runs_all_steps_and_takes_the_last_weights(scans, tmp_path):
    chosen = settings("published", search=True, steps=8, validate_every=2, patience=1, side=32)
    (record, *_) = finetune(tiny_backbone(), split(scans), settings=chosen, **kept(tmp_path))
    assert any("search chose" in note for note in record.notes)
    runs = [read_checkpoint(path)[1] for path in tmp_path.glob("*/training.safetensors")]
    looks = [
        [p["step"] for p in run["points"] if p["validation_score"] is not None] for run in runs
    ]
    assert looks.count([8]) >= 5  # a rate may diverge; the final run looks every two steps
    assert len(looks) == looks.count([8]) + 1


def test_a_metric_without_value_on_the_validation_part_is_refused(scans, tmp_path):
    for number in range(8):
        path = scans / "third" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((scans / "normal" / f"{number:02}.png").read_bytes())
    data = split(scans)
    third = data.classes.index("third")
    splits = tuple(
        "train" if (part, label) == ("val", third) else part
        for part, label in zip(data.splits, data.labels, strict=True)
    )
    data = type(data)(replace(data.manifest, splits=splits), data.card, data.cache)
    for metric in ("balanced_accuracy", "auroc"):
        chosen = settings("published", select=metric)
        with pytest.raises(
            InfeasibleError, match=rf"has no {metric} to choose by: no row of class"
        ):
            finetune(tiny_backbone(), data, settings=chosen, **kept(tmp_path / "runs"))
    chosen = settings("published", select="brier", steps=4, side=64)
    records = finetune(tiny_backbone(), data, settings=chosen, **kept(tmp_path / "runs"))
    assert records[0].details["best_score"] <= 0  # higher is better, of errors too


def test_a_rate_that_diverges_leaves_no_model(scans, tmp_path):
    with pytest.raises(DivergedError, match="smaller learning rate"):
        finetune(
            tiny_backbone(),
            split(scans),
            settings=settings(learning_rate=1e30),
            **kept(tmp_path / "runs"),
        )
    left = {path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert left <= {".lock"}


def test_fractions_are_runs_of_their_own(scans):
    chosen = settings(fractions=(0.5, 1.0))
    records = finetune(tiny_backbone(), split(scans), settings=chosen, context=PLAIN)
    sizes = {record.settings["fraction"]: record.details["train"] for record in records}
    assert sizes[0.5] < sizes[1.0]


def test_another_interval_trains_nothing_anew(scans, tmp_path):
    found = [
        finetune(tiny_backbone(), split(scans), settings=settings(interval=name), **kept(tmp_path))[
            0
        ]
        for name in ("log_odds", "percentile")
    ]
    assert len(list(tmp_path.glob("*/training.safetensors"))) == 1
    assert found[0].value == found[1].value
    assert found[0].ci_low != found[1].ci_low
    assert found[0].details["labelled_images"] == 35
    assert found[0].details["interval"] == "over 9 test images, given one training run"
    assert found[0].key != found[1].key


@pytest.mark.parametrize("broken", ["train", "val", "test"])
def test_unreadable_images_stop_it_or_are_passed_over(scans, broken):
    data = split(scans)
    row = data.splits.index(broken)
    (data.manifest.root / data.manifest.paths[row]).write_bytes(b"no picture")
    with pytest.raises(Exception, match=data.ids[row].rpartition("/")[2]) as caught:
        finetune(tiny_backbone(), data, settings=settings(), context=PLAIN)
    assert caught.value.exit_code == 3
    context = RunContext(extraction=ExtractionSettings(skip_unreadable=True))
    records = finetune(tiny_backbone(), data, settings=settings(), context=context)
    assert records[0].details["unreadable"] == (broken == "test")


def test_the_command_says_what_is_wrong(scans, capsys, tiny_models):
    base = ["finetune", "-m", "random_r18", "-d", f"folder:{scans}"]
    assert run_app(app, [*base, "--split", "none"]) == 3
    assert "no training images" in capsys.readouterr().err
    assert run_app(app, [*base, "--learning-rate", "-1"]) == 2
    assert "--learning-rate is '-1'" in capsys.readouterr().err
    assert run_app(app, [*base, "--select", "acuracy"]) == 2
    assert "accuracy" in capsys.readouterr().err
