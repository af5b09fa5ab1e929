"""The core needs numpy and scipy, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import convmat

ROOT = Path(convmat.__file__).resolve().parent.parent

LIST = """
import json, pathlib, sys, sysconfig
before = set(sys.modules)
import convmat
site = {pathlib.Path(sysconfig.get_paths()[name]) for name in ("purelib", "platlib")}
files = {pathlib.Path(m.__file__) for n, m in sys.modules.items() if n not in before and getattr(m, "__file__", None)}
loaded = {file.relative_to(folder).parts[0] for file in files for folder in site if folder in file.parents}
print(json.dumps([sorted(loaded - {"convmat"}), sorted(name.partition(".")[0] for name in sys.modules)]))
"""

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in %r:
            raise ImportError(name + " is not installed")

sys.meta_path.insert(0, Blocker())
import numpy as np
import convmat
A = convmat.Conv2d(np.ones((3, 3)), (6, 6), padding=1, padding_mode="reflect")
convmat.check_adjoint(A)
A.factors(), A.tosparse(), A.weight_operator(np.ones((6, 6))).tosparse(), str(A.geometry)
print("works")
"""


def run(code):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_only_numpy_and_scipy_from_site_packages():
    loaded, everything = json.loads(run(LIST))
    theirs, _ = json.loads(run(LIST.replace("import convmat", "import scipy.sparse.linalg")))  # numpy has options too
    assert {"numpy", "scipy"} <= set(loaded) <= {"numpy", "scipy", *theirs}
    assert "convmat" in everything
    assert not {"matplotlib", "torch", "onnx", "PIL", "jax"} & set(everything)


def test_core_works_where_nothing_else_is_installed():
    assert run(BLOCKED % ["matplotlib", "torch", "onnx", "PIL", "jax", "pylops", "pandas"]).strip() == "works"


def test_every_public_name_is_importable_and_documented():
    assert len(set(convmat.__all__)) == len(convmat.__all__)
    for name in convmat.__all__:
        assert getattr(convmat, name).__doc__
    names = {f"{kind}{ndim}d" for kind in ("Conv", "ConvTranspose") for ndim in (1, 2, 3)}
    names |= {
        "conv_matrix",
        "conv_transpose_matrix",
        "check_adjoint",
        "Pad",
        "Crop",
        "Correlate",
        "Downsample",
        "Upsample",
    }
    assert names <= set(convmat.__all__)


def test_star_import_gives_the_public_names():
    namespace = {}
    exec("from convmat import *", namespace)
    assert set(convmat.__all__) <= set(namespace)


def test_import_prints_nothing():
    assert run("import convmat") == ""


def test_version_is_a_release_number():
    major, minor, *_ = convmat.__version__.split(".")
    assert major.isdigit()
    assert minor.isdigit()


def test_pictures_need_no_import_of_their_own():
    assert run("import convmat; print(convmat.plot.psnr([0.0], [0.1]))").strip()


def test_import_takes_no_fourier_transforms_along():
    _, everything = json.loads(run(LIST.replace('.partition(".")[0]', "")))
    assert "scipy.sparse.linalg" in everything
    assert "scipy.fft" not in everything
