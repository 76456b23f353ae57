"""A package that is really installed for a test: two tiny models and experiments of its own."""

import importlib
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image

CODE = '''
"""Tiny models, how bright the pictures are, and how dark as version 0.1 asked for it."""
import os, time
from medssl_models.plugins import ModelPlugin
from medssl_models.probes import ProbePlugin
from medssl_models.experiments.experiment import Experiment
from medssl_models.experiments.metric import Metric
from medssl_models.experiments.record import Provenance, Record
from medssl_models.experiments.settings import Preset, setting
from medssl_models.testing import tiny_card
from pydantic import BaseModel, ConfigDict

NAMES = ["tiny-a", "tiny-b"]
MODELS = [ModelPlugin(tiny_card(name).replace(seed=i)) for i, name in enumerate(NAMES)]

class Settings(Preset):
    seconds: float = setting("How long it sleeps. The study slept.", corrected=0.0, published=1.0,
                             entries=("I-99",))
    fails_on: str = setting("The model that it fails on.", corrected="")
    dies_once: str = setting("The file that it leaves when it has died.", corrected="")

def grey(data):
    return sum(sum(data[i][0].convert("L").getdata()) for i in range(len(data)))

def run(backbone, data, settings, context):
    time.sleep(settings.seconds)
    if backbone.name == settings.fails_on:
        raise ValueError("a picture\\nis upside down")
    if settings.dies_once and not os.path.exists(settings.dies_once):
        open(settings.dies_once, "w").close()
        os.kill(os.getpid(), 9)
    origin = context.provenance(backbone, data, settings, preprocessing="none")
    value = float(grey(data))
    return [Record(experiment="brightness", metric="sum", value=value, provenance=origin)]

BRIGHTNESS = Experiment(
    name="brightness", title="brightness", summary="Add up the grey values.", settings=Settings,
    metrics=(Metric("sum", "sum of grey values", "neither"),), run=run,
)

class OldSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    protocol: str = "corrected"
    whitest: int = 255

def preset(protocol, changes):
    whitest = 254 if protocol == "published" else 255
    return OldSettings(**{"protocol": protocol, "whitest": whitest, **changes})

def run_old(backbone, data, settings, work):
    origin = Provenance(model=backbone.name, weights=backbone.fingerprint, dataset=data.name,
                        manifest=data.manifest.fingerprint, protocol=settings.protocol)
    share = 100 * (1 - grey(data) / settings.whitest / sum(data[i][0].width * data[i][0].height
                                                           for i in range(len(data))))
    return [Record(experiment="darkness", metric="share", unit="%", value=share, provenance=origin)]

PROBE = ProbePlugin(preset, run_old, reasons={"whitest": "I-98: the study had no white"})
'''
ENTRIES = """
[medssl.models]
tiny = medssl_test_plugin:MODELS
[medssl.experiments]
brightness = medssl_test_plugin:BRIGHTNESS
"""
PROBES = """
[medssl.probes]
darkness = medssl_test_plugin:PROBE
"""


def install(folder: Path, *, probes: bool = False) -> Path:
    """Install the package into a folder, as an installer does; with the probe of version 0.1."""
    info = folder / "medssl_test_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "medssl_test_plugin.py").write_text(CODE)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: medssl-test-plugin\nVersion: 1.0\n"
    )
    (info / "entry_points.txt").write_text(ENTRIES + PROBES * probes)
    importlib.invalidate_caches()
    return folder


def scans(folder: Path, seed: int) -> Path:
    """Two classes of 12 pictures."""
    rng = np.random.default_rng(seed)
    for name, top in (("normal", 4), ("opacity", 20)):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 90, (40, 36)).astype(np.uint8)
            pixels[top : top + 9, 6:30] += np.uint8(rng.integers(20, 120))
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder


def write_plan(folder: Path, brightness: str = "", more: str = "") -> Path:
    """Plan 2 models x 2 data sets x 3 experiments."""
    for number, name in enumerate(("one", "two")):
        if not (folder / name).exists():
            scans(folder / name, number)
    path = folder / "plan.toml"
    path.write_text(
        textwrap.dedent(f"""
        models = ["tiny-a", "tiny-b"]
        datasets = ["folder:one", {{ name = "folder:two" }}]
        store = "features"
        {more}
        [extraction]
        device = "cpu"
        batch_size = 8
        workers = 0
        [experiments.few-shot]
        shots = [1, 2]
        queries = 3
        episodes = 20
        [experiments.knn]
        folds = 3
        neighbours = 3
        [experiments.brightness]
        {brightness}
        """)
    )
    return path


def numbers(path: Path) -> list[dict[str, object]]:
    """Everything that a results file says, but when it was said."""
    from medssl_models import read_records

    found = [record.model_dump(exclude={"created"}) for record in read_records(path)]
    return sorted(found, key=lambda r: str((r["experiment"], r["metric"], r["settings"], r)))
