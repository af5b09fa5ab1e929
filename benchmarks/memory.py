"""Peak memory of one product of the cases, over that of input and output: ``python benchmarks/memory.py``.

It prints a Markdown table. The result counts, and what a library plans when it is first asked for a product; what it
plans when the operator is made counts as far as it keeps it. Each figure is from a process of its own, by the peak of
its resident memory, which Linux lets a process reset.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
from pathlib import Path

from cases import CASES
from libraries import LIBRARIES, use_threads

NAMES = ("convmat", "csr", "torch", "fftconvolve", "pylops", "opencv")


def resident(field: str) -> int:
    """Bytes of resident memory of this process: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {field}")


def peak(key: str, name: str) -> float | None:
    """The peak of the first A x, over the bytes of x and y; None if the library cannot."""
    warm = LIBRARIES[name](CASES["1"])  # imports, thread pools and what else is made once
    x, _ = CASES["1"].images()
    warm[0](x)
    case = CASES[key]
    x, y = case.images()
    use_threads(1)
    ctypes.CDLL(None).malloc_trim(0)  # give freed memory back, or the product reuses it unseen
    before = resident("VmRSS")
    pair = LIBRARIES[name](case)
    if pair is None:
        return None
    Path("/proc/self/clear_refs").write_text("5")
    pair[0](x)
    return (resident("VmHWM") - before) / (x.nbytes + y.nbytes)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        found = peak(*options.one)
        print("" if found is None else f"{found:.1f}")
        return
    print("### Peak memory of A x, over that of input and output\n")
    print("| case | input and output | " + " | ".join(NAMES) + " |")
    print("| --- | ---: | " + " | ".join("---:" for _ in NAMES) + " |")
    for key, case in CASES.items():
        x, y = case.images()
        command = [sys.executable, __file__, "--one", key]
        cells = [
            subprocess.run([*command, name], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
            for name in NAMES
        ]
        print(f"| {key}: {case.name} | {(x.nbytes + y.nbytes) / 1e6:.1f} MB | {' | '.join(cells)} |", flush=True)
    print()


if __name__ == "__main__":
    main()
