"""The jobs of noxfile.py are those of the workflow, and its linters those of the hooks."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOXFILE = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
yaml = pytest.importorskip("yaml")


def read(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def sessions():
    """The names that nox gives to the functions under its decorator: with the Python where there are several."""
    for function in NOXFILE.body:
        for decorator in getattr(function, "decorator_list", []):
            given = {word.arg: ast.literal_eval(word.value) for word in getattr(decorator, "keywords", [])}
            pythons = given.get("python")
            yield from [f"{function.name}-{p}" for p in pythons] if isinstance(pythons, list) else [function.name]


def commands(name):
    """The commands that a session runs, as one would type them."""
    (function,) = (part for part in NOXFILE.body if getattr(part, "name", "") == name)
    for call in ast.walk(function):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "session.run":
            yield " ".join(ast.literal_eval(argument) for argument in call.args)


def test_the_workflow_calls_every_job_once_and_nothing_else():
    (job,) = read(".github/workflows/ci.yml")["jobs"].values()
    assert sorted(entry["job"] for entry in job["strategy"]["matrix"]["include"]) == sorted(sessions())
    assert [step["run"] for step in job["steps"] if "run" in step] == [
        "python -m pip install nox",
        "python -m nox --session ${{ matrix.job }}",
    ]


def test_the_hooks_are_the_linters_of_the_job():
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    plain = {re.sub(r" (--force-exclude|--check|\.)(?= |$)", "", command) for command in commands("lint")}
    assert {hook["entry"].replace(" --force-exclude", "") for hook in repository["hooks"]} == plain


def test_every_python_that_is_declared_has_its_job():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = set(re.findall(r"Programming Language :: Python :: (3\.\d+)", project))
    (job,) = read(".github/workflows/ci.yml")["jobs"].values()
    assert declared == {entry["python"] for entry in job["strategy"]["matrix"]["include"]}
