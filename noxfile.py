"""The jobs of CI, each in a fresh environment: `nox -l` lists them, `nox` runs those whose Python is here."""

import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "venv"

if pyenv := shutil.which("pyenv"):  # it shows a Python only where PYENV_VERSION names it
    versions = subprocess.run([pyenv, "versions", "--bare"], capture_output=True, text=True, check=True).stdout.split()
    os.environ["PYENV_VERSION"] = ":".join(version for version in versions if re.fullmatch(r"3(\.\d+)+", version))

PROJECT = nox.project.load_toml("pyproject.toml")["project"]


def suite(session: nox.Session, *requirements: str, without: tuple[str, ...] = ()) -> None:
    """All tests, with fewer random cases than by the README's command, in an environment with these requirements.

    Packages that it should be without are uninstalled before the tests run.
    """
    session.install(*requirements)
    if without:
        session.run("python", "-m", "pip", "uninstall", "-y", *without)
    session.run("python", "-m", "pytest", "-n", "auto", "--hypothesis-profile=brief", *session.posargs)


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """The tests, on the oldest versions that pyproject.toml declares, numba's too."""
    declared = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["fast"]]
    suite(session, ".[test]", *(requirement.replace(">=", "==") for requirement in declared))


@nox.session(python=["3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The tests, on the newest versions; without PyTorch, of which one environment is gigabytes enough.

    On one Python with the extra `fast`, and on the other without numba: the package must work both ways.
    """
    suite(session, ".[test-without-torch]", without=("numba", "llvmlite") if session.python == "3.13" else ())


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, with warnings as errors; its gallery runs the examples."""
    session.install(".[docs,onnx,dask]", "onnxruntime", "rapidocr-onnxruntime; python_version < '3.13'")
    session.run("python", "-m", "sphinx", "-W", "--keep-going", "-n", "-b", "html", "docs", "docs/_build/html")


@nox.session
def lint(session: nox.Session) -> None:
    """The commands of .pre-commit-config.yaml, on all files."""
    session.install(".[lint,plot]")  # the types of matplotlib are known to mypy
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def build(session: nox.Session) -> None:
    """The sdist, the wheel made from it, and what the wheel does in an environment without the extras."""
    dist, empty = (Path(session.create_tmp(), name).resolve() for name in ("dist", "empty"))
    shutil.rmtree(dist, ignore_errors=True)
    session.install("build")
    session.run("python", "-m", "build", "--outdir", str(dist))
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    check_contents(session, sdist, wheel)
    session.run("python", "-m", "venv", "--clear", str(empty))
    python = str(empty / ("Scripts" if os.name == "nt" else "bin") / "python")
    session.run(python, "-m", "pip", "install", str(wheel), external=True)
    session.run(python, ".ci/wheel.py", external=True)


def check_contents(session: nox.Session, sdist: Path, wheel: Path) -> None:
    """The package is whole in both; the sdist has what tests and documents it, and nothing that a run left behind."""
    package = {str(path) for path in Path("convmat").rglob("*") if path.suffix in (".py", ".typed")}
    with zipfile.ZipFile(wheel) as archive:
        wheels = {name for name in archive.namelist() if ".dist-info/" not in name}
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "LICENSE", "CHANGELOG.md", "noxfile.py", "tests/conftest.py", "docs/conf.py", ".ci/run"}
    left = {name for name in sources if re.search(r"__pycache__|_cache/|_build/|\.egg-info|\.pyc$|^\.nox/", name)}
    if wheels != package:
        session.error(f"the wheel and the package differ by {sorted(wheels ^ package)}")
    if missing := (package | wanted) - sources:
        session.error(f"the sdist lacks {sorted(missing)}")
    if left:
        session.error(f"the sdist holds {sorted(left)}")
