"""The arrows of docs/architecture.md, read from the imports of the source."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

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
