"""``convmat bench``: only what agrees is timed, and what is printed is what was measured."""

import json
import subprocess
import time

import numpy as np
import pytest

from convmat.cli import bench, main
from tests import cli

SMALL = (
    bench.Case("20^2, 3x3, s 2", (1, 1, 3, 3), 20, stride=2),
    bench.Case("2 ch, 12^2", (3, 2, 5, 5), 12, dtype=np.float32),
)


def not_installed(case):
    raise ImportError


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(bench, "CASES", SMALL)
    monkeypatch.setattr(bench, "_SECONDS", 0.0)
    for name in bench._VARIABLES:  # in this process, not in one of its own
        monkeypatch.setenv(name, "1")
    # Slow to import; that a result is right is checked by the command itself, whatever is installed.
    monkeypatch.setattr(bench, "LIBRARIES", bench.LIBRARIES | {"torch": not_installed, "pylops": not_installed})


def test_json_has_every_product_of_every_case():
    document = json.loads(cli.run("bench", "--json"))
    assert set(document["missing"]) == {"torch", "pylops"}
    assert document["threads"] == 1
    assert [(case["case"], case["product"]) for case in document["cases"]] == [
        (case.name, product) for case in SMALL for product in ("A x", "A^T y")
    ]
    for case in document["cases"]:
        assert case["left_out"] == {}
        assert all(seconds > 0 for seconds in case["seconds"].values())
    assert set(document["cases"][0]["seconds"]) == {"convmat", "matrix", "fft", "ndimage"}
    assert set(document["cases"][-1]["seconds"]) == {"convmat", "matrix"}


def test_table_marks_the_fastest_and_states_the_threads():
    printed = cli.run("bench")
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if line.startswith(tuple(case.name for case in SMALL))]
    assert len(rows) == 4
    assert all(row.count("*") >= 1 for row in rows)
    assert lines[0] == "median milliseconds with --threads 1, * the fastest; all results agree"
    assert "not installed: torch, pylops" in lines


def test_a_library_that_disagrees_is_left_out(monkeypatch):
    def wrong(case):
        forward, transpose = bench._matrix(case)
        return forward, lambda v: 1.001 * transpose(v)

    monkeypatch.setattr(bench, "LIBRARIES", bench.LIBRARIES | {"ndimage": wrong})
    document = json.loads(cli.run("bench", "--json"))
    assert "ndimage" not in document["cases"][0]["seconds"]
    assert document["cases"][0]["left_out"] == {"ndimage": "its result differs by 1e-03"}
    assert f"ndimage left out of {SMALL[0].name}: its result differs by 1e-03" in cli.run("bench")


def test_libraries_take_turns():
    calls = []
    functions = {name: lambda image, name=name: calls.append(name) for name in "abc"}
    seconds = bench.take_turns(functions, np.zeros(1), 0.0)
    assert set(seconds) == {"a", "b", "c"}
    assert calls == list("abc") * 3


def test_other_threads_are_measured_in_a_process_of_its_own(monkeypatch):
    """BLAS reads the variables when it is loaded."""
    asked = {}

    def child(words, *, env, **options):
        asked.update(words=words, env=env)
        return subprocess.CompletedProcess(words, 0, stdout=json.dumps({"missing": [], "cases": []}))

    monkeypatch.setattr(subprocess, "run", child)
    document = json.loads(cli.run("bench", "--threads", "2", "--json"))
    assert document == {"missing": [], "cases": [], "threads": 2}
    assert asked["words"][1:] == ["-m", "convmat", "bench", "--json", "--threads", "2"]
    assert {asked["env"][name] for name in bench._VARIABLES} == {"2"}


def test_the_status_of_that_process_is_passed_on(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda words, **options: subprocess.CompletedProcess(words, 130, stdout=""))
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--threads", "2"])
    assert stopped.value.code == 130


def test_a_slow_library_does_not_take_the_time_of_the_others():
    def slow(image):
        time.sleep(0.02)

    calls = []
    bench.take_turns({"slow": slow, "quick": calls.append}, np.zeros(1), 0.1)
    assert len(calls) == 200


def test_threads_must_be_positive():
    status, message = cli.fail("bench", "--threads", "0")
    assert (status, "--threads 0 must be at least 1" in message) == (2, True)
