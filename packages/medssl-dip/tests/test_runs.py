"""Folders of runs: names, torn traces, snapshots, pictures, damage."""

import math
import os

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from medssl_dip.errors import RunError
from medssl_dip.inversion.run_folder import (
    RunFolder,
    RunIdentity,
    TraceRow,
    find_runs,
    load_picture,
    read_json,
    save_picture,
    write_json,
)
from medssl_models.files import replacing
from PIL import Image

IDENTITY = RunIdentity(
    picture="scan 3/a",
    pixels="00",
    model="byol:torchvision",
    weights="11",
    preprocessing="{}",
    layer="layer4",
    seed=2,
    precision="fp32",
    settings={"steps": 3},
)


@pytest.fixture
def folder(tmp_path, pictures):
    made = RunFolder(tmp_path / "runs", IDENTITY)
    made.begin(pictures(1)[0])
    return made


def test_a_name_can_be_read_and_belongs_to_one_run():
    assert IDENTITY.name.startswith("scan_3_a--byol_torchvision--layer4--seed2--")
    others = [{"pixels": "01"}, {"weights": "12"}, {"settings": {"steps": 4}}, {"precision": "x"}]
    names = {RunIdentity(**{**vars(IDENTITY), **other}).name for other in others}
    assert len(names | {IDENTITY.name}) == 5


def test_a_hostile_name_stays_in_its_folder(tmp_path):
    hostile = RunIdentity(**{**vars(IDENTITY), "picture": "../../etc/passwd"})

    assert RunFolder(tmp_path, hostile).path.parent == tmp_path


@examples(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=True, allow_infinity=True),
            st.floats(allow_nan=True, allow_infinity=False),
        ),
        max_size=8,
    ),
    st.integers(0, 200),
)
def test_a_trace_survives_being_torn_anywhere(tmp_path_factory, numbers, cut):
    folder = RunFolder(tmp_path_factory.mktemp("runs"), IDENTITY)
    folder.path.mkdir()
    rows = [TraceRow(step, loss, psnr=psnr) for step, (loss, psnr) in enumerate(numbers)]
    folder.write_trace(rows)
    whole = [repr(row) for row in rows]
    assert [repr(row) for row in folder.trace()] == whole

    path = folder.path / "trace.csv"
    path.write_bytes(path.read_bytes()[:cut])

    torn = [repr(row) for row in folder.trace()]
    assert torn == whole[: len(torn)]


def test_a_trace_grows_and_begins_with_its_columns(folder):
    folder.write_trace([TraceRow(0, 1.5, 10.0, 0.5)])
    folder.extend_trace([TraceRow(1, 0.25)])

    text = (folder.path / "trace.csv").read_text()

    assert text == "step,loss,psnr,ssim\n0,1.5,10.0,0.5\n1,0.25,,\n"
    assert math.isnan(folder.trace()[1].psnr)


def test_the_newest_two_states_are_kept_and_all_pictures(folder, pictures):
    for step in (8, 16, 24):
        folder.snapshot(step, {"w": torch.full((2,), float(step))}, pictures(1)[0])
        folder.thin()

    assert folder.steps() == [16, 24]
    assert folder.state(24)["w"].tolist() == [24, 24]
    assert len(list(folder.path.glob("step-*.png"))) == 3
    folder.finish({"file": "reconstruction.png"})
    assert folder.steps() == []
    assert find_runs(folder.path.parent) == [folder.path]


def test_what_killed_processes_left_goes_in_the_end(folder, pictures):
    folder.snapshot(8, {"w": torch.ones(2)}, pictures(1)[0])
    folder.finish({"file": "x"})
    draft = f".state-000016.safetensors.{'ab' * 8}.draft.safetensors"
    left_over = [folder.path / name for name in (draft, "state-000008.safetensors")]
    for path in left_over:
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    with replacing(folder.path / "curve.png") as alive:
        os.utime(alive, (0, 0))
        RunFolder(folder.path.parent, IDENTITY).tidy()
        assert alive.exists()

    assert not any(path.exists() for path in left_over)


def test_a_damaged_state_is_named(folder, pictures):
    folder.snapshot(8, {"w": torch.ones(2)}, pictures(1)[0])
    path = folder.path / "state-000008.safetensors"
    path.write_bytes(path.read_bytes()[:20])

    with pytest.raises(RunError, match=r"state-000008\.safetensors is damaged"):
        folder.state(8)


def test_clearing_forgets_all_but_the_identity(folder, pictures):
    folder.write_trace([TraceRow(0, 1.0)])
    folder.snapshot(8, {"w": torch.ones(2)}, pictures(1)[0])
    folder.finish({"file": "x"})
    folder.clear()

    assert {path.name for path in folder.path.iterdir()} == {"run.json", "original.png"}


@pytest.mark.parametrize("text", ["", "{", "[1]", "3"])
def test_json_that_is_none_is_named(tmp_path, text):
    (tmp_path / "result.json").write_text(text)

    with pytest.raises(RunError, match=r"result\.json: not "):
        read_json(tmp_path / "result.json")


def test_json_is_replaced_whole(tmp_path):
    write_json(tmp_path / "a.json", {"loss": math.nan})
    write_json(tmp_path / "a.json", {"loss": 2.0})

    assert read_json(tmp_path / "a.json") == {"loss": 2.0}
    assert [path.name for path in tmp_path.glob("*a.json*")] == ["a.json"]
    assert read_json(tmp_path / "b.json") is None


def test_png_and_tiff_keep_every_level(tmp_path):
    levels = torch.arange(256).reshape(1, 16, 16).expand(3, -1, -1) / 255
    for name in ("a.png", "a.tif"):
        save_picture(tmp_path / name, levels)
        assert torch.equal(load_picture(tmp_path / name), levels)


def test_truncation_and_rounding(tmp_path):
    almost = torch.full((3, 8, 8), 99.9 / 255)
    save_picture(tmp_path / "rounded.png", almost)
    save_picture(tmp_path / "cut.png", almost, rounded=False)

    assert round(float(load_picture(tmp_path / "rounded.png").max()) * 255) == 100
    assert round(float(load_picture(tmp_path / "cut.png").max()) * 255) == 99


def test_jpeg_is_pillows_own_quality(tmp_path, pictures):
    save_picture(tmp_path / "a.jpg", pictures(1)[0])

    with Image.open(tmp_path / "a.jpg") as image:
        tables = image.quantization
        assert image.format == "JPEG"
    image = Image.new("RGB", (8, 8))
    image.save(tmp_path / "b.jpg", quality=75)
    with Image.open(tmp_path / "b.jpg") as expected:
        assert tables == expected.quantization


def test_a_result_of_version_0_1_has_the_metrics_of_today(folder):
    old = {"file": "x", "fidelity": {"lpips-average": 0.5, "feature-distance": 0.25, "ssim": 0.75}}
    folder.finish(old)

    expected = {"lpips_average": 0.5, "feature_distance": 0.25, "ssim": 0.75}
    assert folder.result == {"file": "x", "fidelity": expected}
