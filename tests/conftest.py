"""Hypothesis profiles: the tests are the same on every run; `--hypothesis-profile=explore` looks further, and
`--hypothesis-profile=brief` less far, on the Pythons and versions beside the first.

One thread for each library: several test processes share the cores, and pools of threads would fight for them.
"""

import importlib.util
import os

for _library in ("OPENBLAS", "OMP", "MKL"):  # read when numpy is imported, which is later
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

os.environ.setdefault("SCIPY_USE_PROPACK", "1")  # svds(solver="propack") of older scipy asks for it

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile(
    "default", deadline=None, derandomize=True, database=None, max_examples=100, suppress_health_check=QUIET
)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True, suppress_health_check=QUIET)
settings.register_profile("brief", settings.get_profile("default"), max_examples=25)
settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the examples in docstrings, those of MPI are skipped here, and without PyTorch those of its modules."""
    skipped = {"pylops_mpi.py": "runs on two ranks, in tests/scale"}
    if importlib.util.find_spec("torch") is None:
        skipped |= {"torch.py": "needs PyTorch", "torch_models.py": "needs PyTorch"}
    for item in items:
        if isinstance(item, pytest.DoctestItem) and item.path.name in skipped:
            item.add_marker(pytest.mark.skip(reason=skipped[item.path.name]))
