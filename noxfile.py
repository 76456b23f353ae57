"""Every check of the workspace as one nox session; `nox -l` lists them.

A package is tested from its built wheel, in an environment that holds only what the wheel
declares. Siblings come from `dist/` through a file of `name @ file://...` constraints: a
constraint installs nothing by itself, so an undeclared dependency fails, and it wins over every
index, so nobody else's `medssl-*` can slip in.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_external_run = True
nox.options.sessions = ["lint", "typecheck", "tests", "together"]

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
SIBLINGS = DIST / "siblings.txt"
CONSTRAINTS = ROOT / "constraints.txt"
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
EACH_PACKAGE = nox.parametrize(
    "package", [nox.param(name, id=name.replace("-", "_")) for name in PACKAGES]
)
# The running Python is always tried: a machine with only a newer one must not pass untested.
PYTHONS = sorted({"3.11", "3.12", "3.13", f"{sys.version_info.major}.{sys.version_info.minor}"})


def dependency_group(name: str) -> list[str]:
    """Read one dependency group of the root."""
    return nox.project.dependency_groups(nox.project.load_toml(ROOT / "pyproject.toml"), name)


def wheel(package: str, extras: str = "") -> str:
    """Name a built wheel as a requirement, with extras such as "[all]"."""
    (path,) = DIST.glob(f"{package.replace('-', '_')}-*.whl")
    return f"{package}{extras} @ {path.as_uri()}"


def declared(package: str) -> list[str]:
    """Read what a package and the siblings that it needs declare, without the siblings."""
    project = nox.project.load_toml(ROOT / "packages" / package / "pyproject.toml")["project"]
    needs = project["dependencies"]
    siblings = [need.split("==")[0] for need in needs if need.split("==")[0] in PACKAGES]
    own = [need for need in needs if need.split("==")[0] not in PACKAGES]
    return own + [need for sibling in siblings for need in declared(sibling)]


def install(
    session: nox.Session,
    packages: Sequence[str],
    *groups: str,
    extras: str = "",
    lowest: bool = False,
) -> None:
    """Install built packages with what they declare, and dependency groups; nothing else."""
    # Where bytecode is forbidden, importing torch takes ten seconds in every process.
    session.env["PYTHONDONTWRITEBYTECODE"] = None
    pins = [] if lowest or not CONSTRAINTS.exists() else ["-c", str(CONSTRAINTS)]
    tools = [requirement for group in groups for requirement in dependency_group(group)]
    wheels = [wheel(package, extras) for package in packages]
    # Only what is asked for by name is taken at its lowest: what wheels need has to be named.
    floors = [need for package in packages for need in declared(package)] if lowest else []
    strategy = ["--resolution=lowest-direct"] if lowest else []
    session.install(*strategy, *wheels, *floors, *tools, *pins, "-c", str(SIBLINGS))


def pytest(session: nox.Session, *places: str) -> None:
    """Run tests with a home of their own, no screen and downloads forbidden."""
    session.env["MEDSSL_HOME"] = str(Path(session.create_tmp()) / "medssl")
    session.env["MEDSSL_OFFLINE"] = "1"
    session.env["MPLBACKEND"] = "agg"
    session.run("python", "-m", "pytest", *places, *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build every package into dist/, and the constraints that bind siblings to these wheels."""
    session.install("hatchling>=1.27")
    DIST.mkdir(exist_ok=True)
    for old in [*DIST.glob("medssl_*.whl"), *DIST.glob("medssl_*.tar.gz")]:
        old.unlink()
    for package in PACKAGES:
        with session.chdir(ROOT / "packages" / package):
            session.run("python", "-m", "hatchling", "build", "--directory", str(DIST), silent=True)
    SIBLINGS.write_text("".join(f"{wheel(package)}\n" for package in PACKAGES), encoding="utf-8")


@nox.session(python=PYTHONS, requires=["build"])
@EACH_PACKAGE
def tests(session: nox.Session, package: str) -> None:
    """Test one package alone, from its wheel: nox -s 'tests-3.11(medssl_models)'."""
    install(session, [package], "test")
    pytest(session, f"packages/{package}/tests")


@nox.session(python=PYTHONS, requires=["build"])
def together(session: nox.Session) -> None:
    """Test all packages and extras in one environment: tests/ and every package's own."""
    install(session, PACKAGES, "test", "parity", extras="[all]")
    pytest(session, "tests", *(f"packages/{package}/tests" for package in PACKAGES))


@nox.session(requires=["build"])
def browser(session: nox.Session) -> None:
    """Test the report in headless Chromium, which Debian's package brings where that is allowed."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        if not shutil.which("apt-get") or os.geteuid() != 0:
            session.skip("needs chromium and chromium-driver, which only root can install here")
        packages = ("chromium", "chromium-driver")
        session.run("apt-get", "update", "-qq", external=True, silent=True)
        session.run("apt-get", "install", "-y", "-qq", *packages, external=True, silent=True)
    install(session, ["medssl-eval"], "test", "parity")
    pytest(session, "packages/medssl-eval/tests/test_report_browser.py")


@nox.session(requires=["build"])
@EACH_PACKAGE
def minimums(session: nox.Session, package: str) -> None:
    """Test one package on the lowest versions that it declares."""
    if session.venv_backend != "uv":
        session.skip("only uv can resolve to the lowest versions: pip install 'nox[uv]'")
    install(session, [package], "test", lowest=True)
    # Old versions meet newer ones of what they need themselves, and warn.
    pytest(session, "-W", "default", f"packages/{package}/tests")


# What each framework's test needs beside ours; none of it can share an environment for long.
FRAMEWORKS = {"simclr": ["tensorflow>=2.15"], "byol": ["jax", "dm-haiku", "dill"]}


@nox.session(requires=["build"])
@nox.parametrize("framework", [nox.param(name, id=name) for name in FRAMEWORKS])
def oracle(session: nox.Session, framework: str) -> None:
    """Hold converters against the source framework: nox -s 'oracle(byol)'."""
    install(session, ["medssl-models"], "test")
    session.install(*FRAMEWORKS[framework])
    pytest(session, f"packages/medssl-models/tests/test_oracle_{framework}.py")


@nox.session(name="oracle-sklearn", python="3.9")
def oracle_sklearn(session: nox.Session) -> None:
    """Hold the stored fits of the study's classifier against its scikit-learn of spring 2022."""
    session.install("scikit-learn==1.0.2", "scipy==1.8.1", "numpy==1.22.4")
    session.run("python", "packages/medssl-eval/tests/scikit_learn_2022.py", *session.posargs)


@nox.session(requires=["build"])
def fuzz(session: nox.Session) -> None:
    """Hold the readers of foreign files against 20,000 mutations of each kind, for half an hour."""
    install(session, ["medssl-models"], "test")
    session.env["HYPOTHESIS_PROFILE"] = "fuzz"
    pytest(session, "packages/medssl-models/tests/test_reader_fuzzing.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*dependency_group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(requires=["build"])
def typecheck(session: nox.Session) -> None:
    """Check types strictly, with the packages installed as a user has them."""
    install(session, PACKAGES, "typing", extras="[all]")
    session.run("mypy", *(f"packages/{package}/src" for package in PACKAGES))


@nox.session(requires=["build"])
def cover(session: nox.Session) -> None:
    """Measure the coverage of all tests together."""
    install(session, PACKAGES, "test", "parity", "cover", extras="[all]")
    places = ["tests", *(f"packages/{package}/tests" for package in PACKAGES)]
    session.env["MEDSSL_HOME"] = str(Path(session.create_tmp()) / "medssl")
    session.run("coverage", "run", "-m", "pytest", *places, *session.posargs)
    session.run("coverage", "report", "--show-missing", "--skip-covered")


@nox.session(requires=["build"])
def demo(session: nox.Session) -> None:
    """Do the main job on synthetic pictures: how well do backbones separate the classes?"""
    install(session, ["medssl-eval"])
    session.env["MEDSSL_HOME"] = str(Path(session.create_tmp()) / "medssl")
    session.run("medssl-eval", "demo", *session.posargs)


@nox.session(requires=["build"])
def docs(session: nox.Session) -> None:
    """Build the site; a warning is an error."""
    install(session, PACKAGES, "docs", extras="[all]")
    session.env["MEDSSL_HOME"] = str(Path(session.create_tmp()) / "medssl")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session(requires=["build"])
def bench(session: nox.Session) -> None:
    """Run the benchmarks, each against its baseline: nox -s bench -- few_shot."""
    install(session, PACKAGES, "parity", extras="[all]")
    session.env["MEDSSL_HOME"] = str(Path(session.create_tmp()) / "medssl")
    for script in sorted(ROOT.glob("packages/*/benchmarks/bench_*.py")):
        if not session.posargs or any(word in script.stem for word in session.posargs):
            session.run("python", str(script))


@nox.session
def lock(session: nox.Session) -> None:
    """Write the versions that continuous integration uses to constraints.txt, without addresses."""
    session.install("uv")
    manifests = [f"packages/{package}/pyproject.toml" for package in PACKAGES]
    siblings = [f"--no-emit-package={package}" for package in PACKAGES]
    session.run(
        *("uv", "pip", "compile", *manifests, "--group", "pyproject.toml:dev", "--all-extras"),
        *("--universal", "--python-version", "3.11", "--no-emit-index-url", "--no-header"),
        *("--no-annotate", *siblings, "--quiet", "--upgrade", "-o", "constraints.txt"),
    )
