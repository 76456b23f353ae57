"""The arrows of docs/architecture.md, read from the imports of the source."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from medssl_models.experiments.experiment import GROUP
from medssl_models.experiments.registry import find_experiment

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
GROUND = {"medssl_models", "medssl_data"}
ROOMS_WITHOUT_OWNER = {"utils", "util", "helpers", "helper", "common", "misc", "base"}


def module_of(package: Path) -> str:
    return package.name.replace("-", "_")


def sources(package: Path) -> list[Path]:
    return sorted((package / "src").rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_when_loaded(body: list[ast.stmt]) -> Iterator[str]:
    """Imports that run when the module is imported: not those inside functions or TYPE_CHECKING."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from imported_when_loaded([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from imported_when_loaded(node.body)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def manifest(package: Path) -> dict:
    return tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_packages_import_only_downwards(package):
    own = module_of(package)
    allowed = {own} if own in GROUND else {own, *GROUND}
    siblings = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in sources(package)
        for name in imported(parse(path))
        if name.partition(".")[0].startswith("medssl_") and name.partition(".")[0] not in allowed
    }
    assert siblings == set()


def test_the_data_package_never_imports_torch():
    package = ROOT / "packages" / "medssl-data"
    roots = {name.partition(".")[0] for path in sources(package) for name in imported(parse(path))}
    assert roots.isdisjoint({"torch", "torchvision"})


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_the_command_line_loads_nothing_heavy(package):
    heavy = {"torch", "torchvision", "sklearn", "scipy", "matplotlib", "captum", "h5py", "timm"}
    for name in ("cli.py", "console.py", "__init__.py"):
        path = package / "src" / module_of(package) / name
        if path.exists():
            roots = {name.partition(".")[0] for name in imported_when_loaded(parse(path).body)}
            assert roots.isdisjoint(heavy), f"{path.name} imports {roots & heavy} at module level"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_module_says_what_it_is_for(package):
    for path in sources(package):
        assert path.stem not in ROOMS_WITHOUT_OWNER, f"{path}: a room without an owner"
        assert ast.get_docstring(parse(path)), f"{path} has no module docstring"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_versions_and_siblings_move_in_lockstep(package):
    version = manifest(ROOT / "packages" / "medssl-models")["version"]
    project = manifest(package)
    assert project["version"] == version
    extras = [line for lines in project.get("optional-dependencies", {}).values() for line in lines]
    for requirement in [*project["dependencies"], *extras]:
        if requirement.startswith("medssl-") and not requirement.startswith(project["name"]):
            assert requirement.endswith(f"=={version}")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_each_package_ships_types_a_licence_and_a_readme(package):
    assert (package / "src" / module_of(package) / "py.typed").exists()
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert len((package / "README.md").read_text(encoding="utf-8")) > 500


def module_names(package: Path) -> dict[str, Path]:
    """Map the dotted name of each module of a package to its file."""
    source = package / "src"
    return {
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sources(package)
    }


def words(path: Path) -> set[str]:
    """Every text that a module holds as a literal, documentation left aside."""
    tree = parse(path)
    described = (ast.Module, ast.ClassDef, ast.FunctionDef)
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, described) and ast.get_docstring(node) is not None
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in documentation
    }


# By entry point: other tests declare toys, with names of any kind.
EXPERIMENTS = {entry.name: find_experiment(entry.name) for entry in entry_points(group=GROUP)}
OWNER = {
    name: experiment.settings.__module__.partition(".")[0]
    for name, experiment in EXPERIMENTS.items()
}


def test_every_experiment_of_the_packages_is_declared():
    assert set(EXPERIMENTS) >= {
        *("few-shot", "linear", "knn", "finetune"),
        *("saliency-map", "saliency-stats", "saliency-sanity"),
        *("reconstruction", "distance", "invariance", "views"),
    }


# Words of other things: the views of a patient, a column of a table, a way to interpolate.
ORDINARY = {
    ("medssl-data", "views"),
    ("medssl-invariance", "distance"),
    ("medssl-saliency", "linear"),
}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_no_module_outside_its_package_names_an_experiment(package):
    """What is asked of an experiment stands in its declaration, never behind its name."""
    foreign = {name for name, owner in OWNER.items() if owner != module_of(package)}
    named = {
        f"{path.relative_to(ROOT)}: {word}"
        for path in sources(package)
        for word in words(path) & foreign
        if (package.name, word) not in ORDINARY
    }
    assert named == set()


def test_what_reaches_experiments_names_none_of_them():
    """Matrix, ranking, comparison and report know our own experiments by the registry only."""
    folder = ROOT / "packages" / "medssl-eval" / "src" / "medssl_eval"
    named = {
        f"{path.relative_to(folder)}: {word}"
        for room in ("matrix", "rank", "compare", "report")
        for path in sorted((folder / room).rglob("*.py"))
        for word in words(path) & set(EXPERIMENTS)
    }
    assert named == set()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_imports_form_no_circle(package):
    names = module_names(package)
    needs = {}
    for name, path in names.items():
        found = set(imported_when_loaded(parse(path).body)) & names.keys()
        # A module of a package needs the package too; what its `__init__` loads is listed with it.
        needs[name] = {one for one in found if one != name and not name.startswith(f"{one}.")}
    while needs:
        free = [name for name, wanted in needs.items() if not wanted & needs.keys()]
        assert free, f"a circle among {sorted(needs)}"
        for name in free:
            del needs[name]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_folder_holds_what_can_be_seen_at_once(package):
    for folder in {path.parent for path in sources(package)}:
        modules = [path for path in folder.glob("*.py") if path.stem != "__init__"]
        assert len(modules) <= 14, f"{folder}: {len(modules)} modules"


@pytest.mark.parametrize("word", ["study", "honest", "own"])
def test_settings_speak_of_published_and_corrected(word):
    """One vocabulary, in the names and values of every setting."""
    for experiment in EXPERIMENTS.values():
        for protocol in ("published", "corrected"):
            values = experiment.settings_for(protocol).model_dump()
            assert word not in values.values(), experiment.name
            assert not any(word in name.split("_") for name in values), experiment.name


def test_experiments_load_without_torch():
    script = (
        "import sys; from medssl_models.experiments.registry import installed_experiments; "
        "assert len(installed_experiments()) >= 11; import medssl_models.experiments.command; "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


# Folders of a package, each of which needs only those before it.
ROOMS = {
    "medssl-models": ["checkpoints", "networks", "conversion", "hub", "features", "experiments"],
    "medssl-data": ["images", "synthetic", "tables", "readers"],
    "medssl-saliency": ["engine", "maps", "figures", "experiments"],
    "medssl-dip": ["perceptual", "inversion", "experiments", "commands"],
}


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_rooms_need_only_those_before_them(name):
    package = ROOT / "packages" / name
    rooms, own = ROOMS[name], module_of(package)
    for place, room in enumerate(rooms):
        for path in sorted((package / "src" / own / room).rglob("*.py")):
            later = {f"{own}.{other}" for other in rooms[place + 1 :]}
            found = {".".join(one.split(".")[:2]) for one in imported(parse(path))}
            assert not found & later, f"{path.relative_to(ROOT)} needs {sorted(found & later)}"
