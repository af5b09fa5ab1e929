"""A x and A^T y of the cases against the peers, as ratios taken in one run.

``python benchmarks/products.py`` prints two Markdown tables. One core: one process pinned to it, in which all libraries
take turns, call by call. Two cores: one process for each library, which take turns, since the thread pools of different
libraries in one process spoil each other's times. Every result is compared with that of convmat before it is timed.
A ratio is the time of the peer over that of convmat: above 1, convmat is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from cases import CASES, Case
from libraries import LIBRARIES, use_threads

DIRECTIONS = ("A x", "A^T y")


def checked(case: Case, names: list[str]) -> dict[str, tuple]:
    """The pairs of the libraries that can do the case, each compared with convmat in both directions."""
    x, y = case.images()
    reference = LIBRARIES["convmat"](case)
    pairs = {}
    for name in names:
        pair = LIBRARIES[name](case)
        if pair is None:
            continue
        for function, image, expected in zip(pair, (x, y), (reference[0](x), reference[1](y)), strict=True):
            got = function(image)
            error = np.abs(got - expected).max() / np.abs(expected).max()
            if not error < (1e-10 if case.dtype == np.float64 else 1e-4):
                raise SystemExit(f"{name} disagrees on {case.name}: {error:.1e}")
        pairs[name] = pair
    return pairs


def take_turns(functions: dict[str, object], image: np.ndarray, limit: float) -> dict[str, float]:
    """Median seconds of each function, called in turn until the time limit for all is over.

    The order of a round is drawn: nobody finds the caches always as the same neighbour left them.
    """
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in functions}
    begin = time.perf_counter()
    rounds = 0
    while rounds < 5 or (time.perf_counter() - begin < limit and rounds < 200):
        for name in rng.permutation(list(functions)).tolist():
            function = functions[name]
            if rounds >= 3 and sum(times[name]) > limit / 4 and name != "convmat":
                continue  # a slow peer has had its turns
            start = time.perf_counter()
            function(image)
            times[name].append(time.perf_counter() - start)
        rounds += 1
    return {name: float(np.median(t)) for name, t in times.items()}


def one_core(keys: list[str], names: list[str], limit: float) -> dict:
    """All libraries in this process, which is pinned to one core."""
    results = {}
    for key in keys:
        case = CASES[key]
        use_threads(1)
        pairs = checked(case, names)
        use_threads(1)
        for direction, image in enumerate(case.images()):
            functions = {name: pair[direction] for name, pair in pairs.items()}
            results[key, direction] = take_turns(functions, image, limit)
    return results


class Worker:
    """A process of its own with one library, which times what it is told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **question: object) -> object:
        """Send a question, wait for the answer."""
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def work(name: str) -> None:
    """The other end of a `Worker`."""
    pairs: dict[str, tuple] = {}
    for line in sys.stdin:
        question = json.loads(line)
        case = CASES[question["case"]]
        if "calls" not in question:
            pairs = checked(case, [name])
            answer: object = name in pairs
        else:
            function, image = pairs[name][question["direction"]], case.images()[question["direction"]]
            times = []
            for _ in range(question["calls"]):
                start = time.perf_counter()
                function(image)
                times.append(time.perf_counter() - start)
            answer = times
        print(json.dumps(answer), flush=True)


def two_cores(keys: list[str], names: list[str], limit: float) -> dict:
    """One process for each library, which take turns in runs of a few calls."""
    results = {}
    for key in keys:
        workers = [Worker(name) for name in names]
        able = [w for w in workers if w.ask(case=key)]
        for direction in range(2):
            times: dict[str, list[float]] = {w.name: [] for w in able}
            begin = time.perf_counter()
            rounds = 0
            while rounds < 3 or (time.perf_counter() - begin < limit and rounds < 30):
                for w in able:
                    slow = bool(times[w.name]) and np.median(times[w.name]) > 0.1
                    if slow and rounds >= 3:
                        continue
                    # the first calls of a run wake the threads and the caches up
                    run = w.ask(case=key, direction=direction, calls=1 if slow else 8)
                    times[w.name] += run if slow else run[2:]
                rounds += 1
            results[key, direction] = {name: float(np.median(t)) for name, t in times.items()}
        for w in workers:
            w.stop()
    return results


def table(title: str, results: dict, names: list[str]) -> str:
    """A Markdown table: the time of convmat, and the peers' as multiples of it."""
    peers = [name for name in names if name != "convmat" and any(name in r for r in results.values())]
    lines = [
        f"### {title}",
        "",
        "| case | | convmat | " + " | ".join(peers) + " |",
        "| --- | --- | ---: | " + " | ".join("---:" for _ in peers) + " |",
    ]
    for (key, direction), times in results.items():
        ours = times["convmat"]
        ratios = " | ".join(f"{times[p] / ours:.2f}" if p in times else "" for p in peers)
        lines.append(f"| {key}: {CASES[key].name} | {DIRECTIONS[direction]} | {1e3 * ours:.2f} ms | {ratios} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--libraries", nargs="*", default=list(LIBRARIES), choices=list(LIBRARIES))
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case and direction")
    parser.add_argument("--cores", type=int, choices=(1, 2), help="only this many")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = ["convmat", *(n for n in options.libraries if n != "convmat")]
    if options.worker:
        work(options.worker)
        return
    if options.json:  # the pinned process
        results = one_core(options.cases, names, options.seconds)
        options.json.write_text(json.dumps([[key, d, times] for (key, d), times in results.items()]))
        return
    if options.cores in (None, 1):
        kept = Path(os.environ.get("TMPDIR", "/tmp")) / f"convmat-one-core-{os.getpid()}.json"
        single = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL", "NUMBA", "CONVMAT")}
        subprocess.run(
            ["taskset", "-c", "0", sys.executable, __file__, "--json", str(kept), "--seconds", str(options.seconds),
             "--cases", *options.cases, "--libraries", *names],
            check=True,
            env={**os.environ, **single},
        )  # fmt: skip
        results = {(key, d): times for key, d, times in json.loads(kept.read_text())}
        kept.unlink()
        print(table("One core", results, names), flush=True)
    if options.cores in (None, 2):
        print(table("Two cores", two_cores(options.cases, names, options.seconds), names), flush=True)


if __name__ == "__main__":
    main()
