"""Whole runs into folders: results, resuming after a kill at any moment, divergence, sweeps."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from medssl_dip.errors import OutOfMemoryError, RunError
from medssl_dip.experiments.reconstruct import records_of
from medssl_dip.images import ImageItem
from medssl_dip.inversion.reconstruction import invert
from medssl_dip.inversion.run_folder import load_picture, read_json
from medssl_dip.inversion.run_summary import summarise
from medssl_dip.settings import ReconstructionOptions
from medssl_models import RunContext
from medssl_models.checkpoints.run_state import write_run_state


@pytest.fixture
def scan(image):
    return ImageItem("scan", image, suffix=".jpeg")


def run(backbone, items, settings, out, **context):
    return list(invert(backbone, items, settings, RunContext(output=out, **context)))


def records(found):
    """Summarise runs, as the experiment does, from their folders."""
    return [
        record for summary in summarise(one.path for one in found) for record in records_of(summary)
    ]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_run_leaves_its_folder(backbone, scan, settings, tmp_path):
    (found,) = run(backbone, [scan], settings, tmp_path)

    assert (found.stopped, found.steps) == ("steps", 24)
    assert files(found.path) == [
        "curve.png", "original.png", "reconstruction.png", "result.json", "run.json",
        "step-000008.png", "step-000016.png", "trace.csv",
    ]  # fmt: skip
    rows = (found.path / "trace.csv").read_text().splitlines()
    assert len(rows) == 25
    assert [row.count(",,") for row in rows[1:6]] == [0, 1, 1, 1, 0]
    assert found.fidelity.values.keys() == {"ssim", "psnr", "feature_distance"}
    assert load_picture(found.file).shape == (3, 32, 32)


def test_what_is_finished_is_not_done_again(backbone, scan, settings, tmp_path):
    (first,) = run(backbone, [scan], settings, tmp_path)
    before = (first.path / "trace.csv").stat().st_mtime_ns

    run(backbone, [scan], settings, tmp_path)
    assert (first.path / "trace.csv").stat().st_mtime_ns == before

    run(backbone, [scan], settings, tmp_path, force=True)
    assert (first.path / "trace.csv").stat().st_mtime_ns > before


def test_restarts_and_layers_and_settings_have_folders_of_their_own(
    backbone, scan, settings, tmp_path
):
    few = settings.replace(steps=2, restarts=2)
    for one in (few, few.replace(layer="layer1"), few.replace(normalised_input=False)):
        assert len(run(backbone, [scan], one, tmp_path)) == 2

    assert len(list(tmp_path.glob("*/result.json"))) == 6


def test_the_study_keeps_the_format_of_the_source(backbone, scan, settings, tmp_path):
    lossy = settings.replace(lossless=False, rounded=False, steps=2)

    (found,) = run(backbone, [scan], lossy, tmp_path)

    assert found.file.name == "reconstruction.jpg"


class Stop(BaseException):
    """A kill, as far as Python can play one: nothing may catch it."""


class Killer:
    """Progress that kills after some steps."""

    def __init__(self, after):
        self.left = after

    def __call__(self, description, total):
        return self

    def __enter__(self):
        return self.advance

    def __exit__(self, *_):
        return None

    def advance(self, n=1):
        self.left -= n
        if self.left < 0:
            raise Stop


@pytest.mark.parametrize("after", [3, 8, 13, 21])
def test_a_killed_batch_ends_as_if_it_had_not_been_killed(
    backbone, scan, image, settings, tmp_path, after
):
    pictures = [scan, ImageItem("other", image.rotate(90))]
    whole = run(backbone, pictures, settings, tmp_path / "whole")

    with pytest.raises(Stop):
        run(
            backbone,
            pictures,
            settings,
            tmp_path / "cut",
            progress=Killer(after),
        )
    again = run(backbone, pictures, settings, tmp_path / "cut")

    for one, other in zip(whole, again, strict=True):
        assert same(one.path, other.path)


def same(one, other):
    """Tell whether two runs have the same trace and the same picture, to the last bit."""
    names = ("trace.csv", "reconstruction.png")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_a_trace_that_was_lost_costs_only_time(backbone, scan, settings, tmp_path):
    """The rule that stops a run reads the whole trace, so a state without it is of no use."""
    (whole,) = run(backbone, [scan], settings, tmp_path / "whole")
    with pytest.raises(Stop):
        run(
            backbone,
            [scan],
            settings,
            tmp_path / "cut",
            progress=Killer(20),
        )
    (cut,) = (tmp_path / "cut").iterdir()
    trace = cut / "trace.csv"
    trace.write_text("".join(trace.read_text().splitlines(keepends=True)[:10]) + "9,0.3")

    (again,) = run(backbone, [scan], settings, tmp_path / "cut")

    assert same(whole.path, again.path)


def test_without_resume_a_run_begins_anew(backbone, scan, settings, tmp_path):
    with pytest.raises(Stop):
        run(backbone, [scan], settings, tmp_path, progress=Killer(9))
    seen = []
    options = ReconstructionOptions(resume=False)

    run(backbone, [scan], settings, tmp_path, options=options, progress=counter(seen))

    assert sum(seen) == 24
    assert seen[0] == 0


def counter(seen):
    killer = Killer(10**9)
    killer.advance = lambda n=1: seen.append(n)
    return killer


CHILD = """
import os, signal, sys
from pathlib import Path
import torch
from PIL import Image
from medssl_dip.images import ImageItem
from medssl_dip.settings import GeneratorSettings, settings_for
from medssl_dip.inversion.reconstruction import invert
from medssl_models import RunContext
from medssl_models.testing import tiny_backbone
open_file, dies = Path.open, sys.argv[2] == "dies"
class Dying:
    def __init__(self, file):
        self.file = file
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self.file.close()
    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
def cut_short(path, mode="r", *more, **options):
    file = open_file(path, mode, *more, **options)
    cuts = dies and mode == "wb" and "state-000040" in path.name and "seed1" in path.parent.name
    return Dying(file) if cuts else file
Path.open = cut_short
torch.set_num_threads(1)
shape = GeneratorSettings(channels=(8, 8), kernels=(5, 3), input_channels=4)
settings = settings_for(
    generator=shape, size=32, restarts=2, steps=60, patience=None,
    measure_every=4, snapshot_every=8,
)
picture = ImageItem("scan", Image.open("scan.png").convert("RGB"))
context = RunContext(output=Path(sys.argv[1]))
list(invert(tiny_backbone(width=4), [picture], settings, context))
"""


def test_a_process_killed_while_it_writes_a_state_loses_nothing(image, tmp_path):
    """A real kill -9 between the states of two runs of one batch, with half of the second one."""
    image.save(tmp_path / "scan.png")

    def run(out, fate="lives"):
        words = [sys.executable, "-c", CHILD, out, fate]
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(words, cwd=tmp_path, env=alone, check=False).returncode

    assert run("cut", "dies") == -signal.SIGKILL
    first, second = sorted((tmp_path / "cut").iterdir())
    states = ["state-000024.safetensors", "state-000032.safetensors", "state-000040.safetensors"]
    assert sorted(path.name for path in first.glob("state-*")) == states
    assert sorted(path.name for path in second.glob("state-*")) == states[:2]
    assert len(list(second.glob(".state-000040*"))) == 1

    assert run("cut") == 0
    assert run("whole") == 0
    for folder in (first, second):
        assert same(folder, tmp_path / "whole" / folder.name)
        assert files(folder) == files(tmp_path / "whole" / folder.name)


# ------------------------------------------------------------------------------ what goes wrong


def test_a_diverging_run_stops_and_keeps_its_last_good_picture(backbone, scan, settings, tmp_path):
    """A loss that doubles counts as divergence here, and the first step of this rate doubles it."""
    wild = settings.replace(divergence=1.0001, learning_rate=10.0, measure_every=1)

    (found,) = run(backbone, [scan], wild, tmp_path)

    assert found.stopped == "diverged"
    assert found.steps < 24
    assert load_picture(found.file).isfinite().all()
    losses = [
        float(row.split(",")[1]) for row in (found.path / "trace.csv").read_text().split()[1:]
    ]
    assert losses[-1] > 1.0001 * losses[0]
    assert records([found]) == []


def test_out_of_memory_keeps_what_is_finished(backbone, scan, settings, tmp_path, monkeypatch):
    def exhausted(self):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr("medssl_dip.inversion.optimisation.Inversion.update", exhausted)

    with pytest.raises(OutOfMemoryError, match="smaller batch size"):
        run(backbone, [scan], settings, tmp_path)


def test_a_state_of_another_run_is_named(backbone, scan, settings, tmp_path):
    with pytest.raises(Stop):
        run(backbone, [scan], settings, tmp_path, progress=Killer(9))
    (folder,) = tmp_path.glob("scan*")
    state = folder / "state-000008.safetensors"
    write_run_state(state, {"prior/x": torch.ones(1)}, {"step": 8}, kind="reconstruction")

    with pytest.raises(RunError, match=r"state of step 8 is not of its run.*remove the states"):
        run(backbone, [scan], settings, tmp_path)


def test_a_damaged_result_is_named(backbone, scan, settings, tmp_path):
    few = settings.replace(steps=2)
    (found,) = run(backbone, [scan], few, tmp_path)
    (found.path / "result.json").write_text('{"steps": 3}')

    with pytest.raises(RunError, match="no finished run's; remove it to begin anew"):
        run(backbone, [scan], few, tmp_path)


# ------------------------------------------------------------------------------------- records


def test_restarts_become_one_record_a_metric(backbone, scan, settings, tmp_path):
    few = settings.replace(steps=4, restarts=3, seed=10)

    made = {one.metric: one for one in records(run(backbone, [scan], few, tmp_path))}

    assert made.keys() == {"loss", "ssim", "psnr", "feature_distance"}
    one = made["ssim"]
    assert (one.n, one.details["seeds"], one.provenance.seed) == (3, [10, 11, 12], 10)
    assert one.value == pytest.approx(sum(one.details["values"]) / 3)
    assert one.details["standard_deviation"] > 0
    assert (one.provenance.layer, one.provenance.dataset) == ("layer4", "file:scan")
    assert one.details["control"] is True
    assert made["psnr"].unit == "dB"


def test_the_same_pixels_under_another_id_are_recorded_under_it(backbone, scan, settings, tmp_path):
    """Version 0.1 kept no ids, and a file may be an image of a data set too."""
    few = settings.replace(steps=2)
    (first,) = run(backbone, [scan], few, tmp_path)
    trace = (first.path / "trace.csv").stat().st_mtime_ns
    item = dataclasses.replace(scan, id="a/scan.jpeg", dataset="mine")

    (again,) = run(backbone, [item], few, tmp_path)

    assert (again.path, (again.path / "trace.csv").stat().st_mtime_ns) == (first.path, trace)
    one = records([again])[0]
    assert (one.settings["picture"], one.provenance.dataset) == ("a/scan.jpeg", "mine")


def test_the_same_work_has_the_same_keys_elsewhere(backbone, scan, settings, tmp_path):
    few = settings.replace(steps=2)
    first = records(run(backbone, [scan], few, tmp_path))
    shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    moved = tmp_path.with_name("moved")
    again = records(run(backbone, [scan], few, moved))

    assert [one.key for one in first] == [one.key for one in again]
    assert read_json(next(moved.glob("scan*/run.json")))["picture"] == "scan"
