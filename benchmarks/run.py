"""Run all benchmarks and write their tables to ``benchmarks/RESULTS.md`` and ``LEADERBOARD.md``.

    pip install '.[bench]' && python benchmarks/run.py

An idle machine with two cores and some 55 minutes. Single-threaded parts run in processes pinned to one core.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import scipy

HERE = Path(__file__).parent
SINGLE = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL", "NUMBA", "CONVMAT")}


def output(script: str, *arguments: str, pinned: bool = False) -> str:
    """What a script of this folder prints."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    command = [sys.executable, str(HERE / script), *arguments]
    if pinned:
        command = ["taskset", "-c", "0", *command]
        environment |= SINGLE
    print(f"{script} {' '.join(arguments)}", file=sys.stderr, flush=True)
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def processor() -> str:
    """The name of the processor, where the system tells."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Run everything."""
    parts = [
        "# Results",
        "",
        f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}, "
        f"scipy {scipy.__version__}. Written by `python benchmarks/run.py`. Medians. In the tables of products and of "
        "lsqr, a number without a unit is the time of a peer over that of convmat: above 1, convmat is faster; empty "
        "where the peer cannot, or would take minutes.",
        "",
        output("build.py", pinned=True),
        output("products.py", "--seconds", "0.6"),
        output("memory.py", pinned=True),
        "### Two threads over one, idle and beside two busy processes\n",
        output("load.py"),
        "### Sums and products of operators\n",
        output("algebra.py", pinned=True),
        output("solvers.py", pinned=True),
        output("spectrum.py"),
        output("norms.py", "--only", "gaps"),
        output("norms.py", "--only", "resnet"),
        output("solve.py", pinned=True),
        "### Kernels that are not separable, at real borders\n",
        output("motion.py", pinned=True),
        "### Many dampings, and one that the data choose\n",
        output("damping.py", pinned=True),
        "### An image that does not fit, from zarr to zarr\n",
        output("gigapixel.py", "--sizes", "8192", "32768"),
        output("gigapixel.py", "--solve", "--sizes", "8192", "--chunk", "4096"),
        output("gigapixel.py", "--graph"),
        "### The planner\n",
        "```text",
        output("plan.py", pinned=True).splitlines()[-1],
        "```",
        "",
    ]
    (HERE / "RESULTS.md").write_text("\n".join(parts))
    (HERE / "LEADERBOARD.md").write_text(output("norms.py", "--only", "leaderboard"))


if __name__ == "__main__":
    main()
