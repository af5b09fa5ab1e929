"""Operators on the slabs of several ranks: tests/scale/program.py, the docstring and the page, by mpiexec."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import convmat
from convmat import to_pylops_mpi

ROOT = Path(convmat.__file__).parents[1]
PROGRAM = Path(__file__).with_name("program.py")
MPIEXEC = Path(sys.executable).with_name("mpiexec")
"""That of the library which pip installs into this environment; mpi4py finds the same."""

WITH_MPI = pytest.mark.skipif(
    not (MPIEXEC.is_file() and importlib.util.find_spec("pylops_mpi") and importlib.util.find_spec("mpi4py")),
    reason="needs pylops-mpi and mpi4py, and mpiexec in this environment: pip install pylops-mpi mpi4py mpich",
)
TASKS = {2: ["layers", "expressions", "solvers", "algebra", "shapes", "docstring"], 3: ["layers", "shapes"]}
"""What runs on so many ranks."""


ENVIRONMENT = {"PYTHONPATH": str(ROOT), "CONVMAT_NUM_THREADS": "1", "TORCH_PYLOPS": "0"}  # it would import PyTorch


def run(*command, **more):
    environment = os.environ | ENVIRONMENT | more
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300, cwd=ROOT)


def on_ranks(ranks, *script):
    """What a script prints on several ranks; an error on one of them ends all, by mpi4py."""
    done = run(MPIEXEC, "-n", str(ranks), sys.executable, "-m", "mpi4py", *map(str, script))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@WITH_MPI
@pytest.mark.parametrize("ranks", TASKS)
def test_products_on_slabs_are_those_of_the_whole_and_cgls_solves(ranks):
    printed = on_ranks(ranks, PROGRAM, *TASKS[ranks])
    assert re.findall(rf"^(\w+) on {ranks} ranks: ", printed, re.MULTILINE) == TASKS[ranks]


TEXT = (ROOT / "docs" / "howto" / "mpi.md").read_text(encoding="utf-8")
SCRIPTS = dict(re.findall(r"^```\{code-block\} python\n:caption: (.*?)\n\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE))
NEEDS_PETSC = {"petsc.py"}


def test_the_page_has_scripts():
    assert set(SCRIPTS) > NEEDS_PETSC


def without_numbers(text):
    return re.sub(r"\d[\d.e+-]*", "#", text)


@WITH_MPI
@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_of_the_page_run(name, tmp_path):
    if name in NEEDS_PETSC and importlib.util.find_spec("petsc4py") is None:
        pytest.skip("needs petsc4py")
    script = tmp_path / name
    script.write_text(SCRIPTS[name], encoding="utf-8")
    promised = re.search(rf"^\$ mpiexec -n \d+ python .*{name}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    assert without_numbers(on_ranks(2, script)) == without_numbers(promised[1])


def test_what_cannot_be_cut_is_refused_before_anything_is_imported():
    A = convmat.Conv2d(np.ones((3, 3)), (6, 6))
    for other, words in (
        (A.tosparse(), "A is of type csr_array: it must be an operator of convmat"),
        (A.weight_operator(np.ones((6, 6))), "A has no slabs: it has a"),
        (convmat.preconditioner(A, 0.1), "a preconditioner of kind .* has no blocks"),
        (convmat.Separable((3, 4), [np.ones((2, 3)), np.ones((2, 4))]), "reads the whole input"),
    ):
        with pytest.raises(TypeError, match=words):
            to_pylops_mpi(other)


@pytest.mark.parametrize(("axis", "error"), [(2, ValueError), (-1, ValueError), (0.0, TypeError), (True, TypeError)])
def test_axis_must_be_one_of_the_input_and_of_the_output(axis, error):
    with pytest.raises(error, match=re.escape(f"axis={axis} must be an ")):
        to_pylops_mpi(convmat.Pad((4, 3), 1), axis=axis)


REFUSED = """
import convmat
try:
    convmat.to_pylops_mpi(convmat.Pad(3, 1))
except ImportError as error:
    print(error)
"""


def test_without_pylops_mpi_the_error_names_the_extra(tmp_path):
    (tmp_path / "pylops_mpi.py").write_text('raise ModuleNotFoundError("No such module", name="pylops_mpi")\n')
    done = run(sys.executable, "-c", REFUSED, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("to_pylops_mpi needs pylops_mpi: install the extra `mpi`, pip install 'convmat[mpi]'")


@WITH_MPI
def test_without_a_library_of_mpi_the_error_names_one():
    done = run(sys.executable, "-c", REFUSED, MPI4PY_LIBMPI="no_such_library.so")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("to_pylops_mpi needs a library of MPI beside the extra `mpi`: ")
    assert "pip install mpich" in done.stdout
