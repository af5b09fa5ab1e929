"""What an installed wheel must do by itself, in an environment with what it requires and nothing else."""

import doctest
import functools
import importlib
import importlib.metadata
import pkgutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

import convmat

ROOT = Path(__file__).parents[1]
SITE = Path(sysconfig.get_paths()["purelib"])
REQUIRED = {"convmat", "numpy", "scipy", "threadpoolctl"}
TOOLS = {"pip", "setuptools"}


def command(*arguments: str) -> str:
    """What `convmat ...` prints."""
    done = subprocess.run([Path(sys.executable).with_name("convmat"), *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def refusal(function, *arguments: object) -> str:
    """The ImportError of a function whose extra is not installed."""
    try:
        function(*arguments)
    except ImportError as error:
        return str(error)
    raise AssertionError(f"{function} works without its extra")


# It is the wheel that is tested, and it brings what it requires.
installed = {distribution.name for distribution in importlib.metadata.distributions()}
assert Path(convmat.__file__).is_relative_to(SITE), convmat.__file__
assert importlib.metadata.version("convmat") == convmat.__version__
assert installed - TOOLS == REQUIRED, installed

# The examples of the README and of every docstring run, but for those of an extra.
COMPILED = ("products.compiled", "products.strips", "spectrum.bidiagonal", "spectrum.compiled", "spectrum.lanes",
            "spectrum.quotients")  # fmt: skip
EXTRAS = ("convmat.interop", "convmat.plot", "convmat.scale", *(f"convmat.{name}" for name in COMPILED))
examples = doctest.testfile(str(ROOT / "README.md"), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
for module in pkgutil.walk_packages(convmat.__path__, "convmat."):
    if not module.name.startswith((*EXTRAS, "convmat.__main__")):
        found = doctest.testmod(importlib.import_module(module.name), optionflags=doctest.NORMALIZE_WHITESPACE)
        examples = doctest.TestResults(examples.failed + found.failed, examples.attempted + found.attempted)
assert examples.failed == 0 < examples.attempted, examples

# The command works; what needs an extra says which.
assert "usage: convmat" in command("--help")
assert "9 x 25" in command("show", "--input", "5x5", "--kernel", "3x3", "--stride", "2", "--padding", "1")
A = convmat.Conv2d(np.ones((3, 3)), (8, 8))
direct = functools.partial(convmat.Conv2d, method="direct")
assert "pip install 'convmat[fast]'" in refusal(direct, A.weight, (8, 8))
assert "pip install 'convmat[fast]'" in A.explain()
assert "pip install 'convmat[plot]'" in refusal(convmat.plot.matrix, A)
assert "pip install 'convmat[torch]'" in refusal(convmat.to_torch, A)
assert "pip install 'convmat[torch]'" in refusal(convmat.from_torch, A, (8, 8))
assert "pip install 'convmat[torch]'" in refusal(convmat.from_torch_model, A, A)
assert "pip install 'convmat[torch]'" in refusal(convmat.affine_pieces, A, (8, 8))
assert "pip install 'convmat[onnx]'" in refusal(convmat.from_onnx, "model.onnx")
assert "pip install 'convmat[pylops]'" in refusal(convmat.to_pylops, A)
assert "pip install 'convmat[dask]'" in refusal(convmat.to_dask, A)
assert "pip install 'convmat[mpi]'" in refusal(convmat.to_pylops_mpi, A)

print(f"convmat {convmat.__version__} alone: {examples.attempted} examples of the documentation ran")
