"""A third package's data set, installed as a wheel, beside one that is broken."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

MODULE = """
from medssl_data import DatasetCard, Manifest, Plugin, Row

def read(root, options):
    rows = [Row("a", "a.png", 0), Row("b", "b.png", 1)]
    return Manifest.from_rows("knees", root, ("sound", "worn"), rows)

knees = Plugin(
    DatasetCard(
        name="knees", title="Knees", summary="Two knees.", modality="radiograph",
        classes=("sound", "worn"), licence="ours", citation="us", address="ask us",
    ),
    read,
)
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages: a pure wheel is installed by unpacking it."""
    wheel = tmp_path / "knee_data-1.0-py3-none-any.whl"
    entries = "[medssl.datasets]\nknees = knee_data:knees\nelbows = knee_data:nothing\n"
    entries += "rude = rude_data:set\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("knee_data.py", MODULE)
        archive.writestr("rude_data.py", "import sys\nprint('noise')\nsys.exit(7)\n")
        archive.writestr(
            "knee_data-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: knee-data\nVersion: 1.0\n",
        )
        archive.writestr("knee_data-1.0.dist-info/entry_points.txt", entries)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    return tmp_path / "site"


def medssl_data(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    script = "from medssl_data.cli import main; main()"
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_installed_plug_in_is_a_data_set_and_a_broken_one_harms_nobody(site, tmp_path) -> None:
    shown = json.loads(medssl_data(site, "list", "--json").stdout)
    (card,) = [card for card in shown["datasets"] if card["name"] == "knees"]
    assert card["origin"] == "knee-data"
    assert "AttributeError" in shown["broken"]["elbows"]
    assert "SystemExit: 7" in shown["broken"]["rude"]
    (tmp_path / "knees").mkdir()
    facts = json.loads(medssl_data(site, "show", "knees", "--root", str(tmp_path), "--json").stdout)
    assert facts["counts"] == "sound 1, worn 1"
    failed = medssl_data(site, "check", "-d", "elbows")
    assert failed.returncode == 3
    assert "broken plug-in" in failed.stderr
