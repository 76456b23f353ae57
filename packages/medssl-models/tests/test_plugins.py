"""Plug-ins: a real distribution, installed by a real installer, in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import EntryPoint
from importlib.util import find_spec

import pytest
from medssl_models import available_models, control_of, create_model, plugins
from medssl_models.catalog import broken_plugins, list_models, model_card
from medssl_models.errors import PluginError, SettingsError
from medssl_models.networks.build import build_network
from medssl_models.networks.tapped import TappedNetwork
from medssl_models.plugins import ModelPlugin, load_plugins
from medssl_models.testing import tiny_card
from torch import nn

MODULE = '''
"""An encoder of another package."""

import torch
from medssl_models.card import ModelCard, WeightFile
from medssl_models.plugins import ModelPlugin
from medssl_models.testing import tiny_card
from torch import nn


def card(name, **changes):
    return tiny_card(name).replace(
        control=False, seed=None, architecture="acme-encoder", width=64, feature_dim=7, **changes
    )


def build(card):
    from medssl_models.networks.tapped import TappedNetwork

    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(
            nn.Conv2d(3, 7, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
    return TappedNetwork(body, {"stem": "1"}, feature_dim=7)


FILE = WeightFile(filename="a.pth", urls=("https://example.org/a.pth",), container="torch")
PLUGINS = [
    ModelPlugin(card("acme"), build),
    ModelPlugin(card("acme-trained", weights=(FILE,)), build),
]
THIEF = ModelPlugin(card("byol"), build)
'''
ENTRY_POINTS = """
[medssl.models]
acme = acme_models:PLUGINS
absent = acme_models:NOT_THERE
thief = acme_models:THIEF
unimportable = acme_models.no_such_module:PLUGIN
rude = acme_models.rude:PLUGIN
"""
METADATA = "Metadata-Version: 2.1\nName: acme-models\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_wheel(folder):
    """A wheel as any build backend makes it: it is only a zip file with these members."""
    path = folder / "acme_models-1.0-py3-none-any.whl"
    members = {
        "acme_models/__init__.py": MODULE,
        "acme_models/rude.py": "import sys\nprint('noise')\nsys.exit(7)\n",
        "acme_models-1.0.dist-info/METADATA": METADATA,
        "acme_models-1.0.dist-info/WHEEL": WHEEL,
        "acme_models-1.0.dist-info/entry_points.txt": ENTRY_POINTS,
    }
    record = "".join(f"{name},,\n" for name in [*members, "acme_models-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
        archive.writestr("acme_models-1.0.dist-info/RECORD", record)
    return path


def installer():
    if find_spec("pip"):
        return [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    if shutil.which("uv"):
        return ["uv", "pip"]
    return pytest.skip("neither pip nor uv is here")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which the plug-in package is installed."""
    folder = tmp_path_factory.mktemp("site")
    command = [*installer(), "install", "--no-index", "--no-deps", "--target", str(folder / "lib")]
    subprocess.run([*command, str(build_wheel(folder))], check=True, capture_output=True)
    return folder / "lib"


SCRIPT = """
import contextlib, io, json, sys
from pathlib import Path

import torch
from medssl_models import create_model
from medssl_models.catalog import model_card
from medssl_models.cli import app, run
from medssl_models.hub.library import import_model
from medssl_models.conversion.model_folder import model_folder_of
from medssl_models.conversion.verification import verify

shown = {}
for arguments in (["list"], ["list", "--json"]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run(app, arguments) == 0
    shown[" ".join(arguments)] = out.getvalue()

ready = create_model("acme")
assert ready.layers == ("stem", "pooled"), ready.layers
assert ready(torch.zeros(2, 3, 16, 16)).shape == (2, 7)
file = Path(sys.argv[1]) / "a.pth"
state = {name: tensor + 1 for name, tensor in ready.trunk.state_dict().items()}
torch.save(state, file)
card = model_card("acme-trained")
import_model(card, file)
trained = create_model("acme-trained")
assert torch.equal(trained.trunk.state_dict()["0.bias"], state["0.bias"])
assert trained.fingerprint != ready.fingerprint
assert verify(model_folder_of(card)).passed
sys.stdout.write(json.dumps(shown))
"""


@pytest.fixture(scope="module")
def done(installed, tmp_path_factory):
    """A process in which the plug-in is installed: it lists, creates, imports and verifies."""
    folder = tmp_path_factory.mktemp("work")
    environment = {"PYTHONPATH": str(installed), "MEDSSL_HOME": str(folder / "home")}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_installed_model_is_created_and_its_weights_imported(done):
    assert done.returncode == 0, done.stderr


def test_an_installed_package_adds_its_models_and_harms_none(done):
    shown = json.loads(done.stdout)
    rows = {row["name"]: row for row in json.loads(shown["list --json"])}
    assert rows["acme"]["here"]
    assert not rows["acme-trained"]["here"]
    assert {name for name, row in rows.items() if row.get("broken")} == {
        "absent", "thief", "unimportable", "rude",
    }  # fmt: skip
    assert "belongs to another model" in rows["thief"]["broken"]
    assert rows["byol"]["architecture"] == "resnet50"
    assert "broken: ModuleNotFoundError" in shown["list"]


@pytest.fixture
def entry(monkeypatch):
    """Pretend that a plug-in is installed; gives a function that sets what its entry point is."""

    def install(value):
        point = EntryPoint("acme", "acme:PLUGIN", plugins.GROUP)
        monkeypatch.setattr(EntryPoint, "load", lambda _: value)
        monkeypatch.setattr(plugins, "entry_points", lambda **_: [point])
        load_plugins.cache_clear()

    yield install
    load_plugins.cache_clear()


def own_card(**changes):
    return tiny_card("acme").replace(control=False, seed=None, **changes)


@pytest.mark.parametrize("value", [None, 3, [own_card()], "text"])
def test_an_entry_point_of_another_kind_is_listed_as_broken(entry, value):
    entry(value)

    assert [plugin.name for plugin in broken_plugins()] == ["acme"]
    assert "acme" not in {card.name for card in list_models()}


def test_a_card_alone_adds_a_model_of_our_architectures(entry):
    entry(ModelPlugin(tiny_card("acme")))

    assert model_card("acme").architecture == "resnet18"
    assert build_network(model_card("acme")).feature_dim == 16


def fails(card):
    message = "no licence"
    raise RuntimeError(message)


@pytest.mark.parametrize(
    ("build", "words"),
    [(fails, "plug-in acme could not .*no licence"), (lambda card: object(), "gave object")],
)
def test_a_builder_that_fails_is_named(entry, build, words):
    card = own_card(architecture="acme-encoder")
    entry(ModelPlugin(card, build))

    with pytest.raises(PluginError, match=words):
        build_network(card)


def encoder(card):
    """An encoder that brings its weights and takes only the card that it knows."""
    assert card.name == "acme"
    body = nn.Sequential(nn.Conv2d(3, 7, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.constant_(body[0].weight, 0.5)
    return TappedNetwork(body, {"stem": "0"}, feature_dim=7)


def test_a_plug_ins_architecture_has_an_untrained_control(entry):
    entry(ModelPlugin(own_card(architecture="acme-encoder", feature_dim=7), encoder))
    name = control_of("acme")

    assert name == "random:acme-encoder"
    assert {"acme", name} <= set(available_models())
    control = create_model(name)
    assert (control.name, control.card.control) == (name, True)
    assert control.layers == create_model("acme").layers
    assert control.fingerprint == create_model(name).fingerprint
    assert float(control.trunk.state_dict()["0.weight"].std()) > 0.1
    assert float(create_model("acme").trunk.state_dict()["0.weight"].std()) == 0


def without_weights(card):
    body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return TappedNetwork(body, {}, feature_dim=3)


def test_what_has_no_weights_or_no_nameable_architecture_has_no_control(entry):
    said = []
    entry(
        [
            ModelPlugin(own_card(architecture="mean-colour", feature_dim=3), without_weights),
            ModelPlugin(own_card(architecture="an encoder").replace(name="spaced"), encoder),
        ]
    )

    assert control_of("spaced", say=said.append) is None
    assert said == [
        "spaced has no untrained control: 'an encoder' cannot be part of a model's name"
    ]
    with pytest.raises(SettingsError, match="has no weights to draw"):
        create_model(control_of("acme"))
