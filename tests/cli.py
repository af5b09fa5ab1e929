"""Running the command line in this process, and reading what it prints."""

import contextlib
import io
import re
import sys

import numpy as np

from convmat.cli import main
from convmat.cli.text import LETTERS

NOTHING, SUM = -1, -2


def run(*words, encoding="utf-8", told=""):
    """Standard output of a command that succeeds, with no other words on standard error."""
    output, errors = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline=""), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main([str(word) for word in words])
    assert (status, errors.getvalue()) == (0, told), errors.getvalue()
    output.flush()
    return output.buffer.getvalue().decode(encoding)


def fail(*words):
    """Status and the one line on standard error of a command that fails."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            status = main([str(word) for word in words])
        except SystemExit as stopped:
            status = stopped.code
    message = errors.getvalue()
    assert output.getvalue() == ""
    assert message.startswith("convmat: ")
    assert message.endswith("\n")
    assert message.count("\n") == 1
    return status, message


def by_x(numbers):
    return "x".join(map(str, numbers))


def options(layer):
    """The options of a `tests.strategies.Layer`."""
    padding = ",".join(f"{lo}:{hi}" for lo, hi in layer.padding)
    words = ["--input", by_x(layer.size), "--kernel", by_x(layer.kernel_size), "--stride", by_x(layer.stride)]
    words += ["--padding", padding, "--dilation", by_x(layer.dilation), "--padding-mode", layer.padding_mode]
    if layer.weight.ndim > layer.ndim:
        outs, per_group = layer.weight.shape[:2]
        words += ["--channels", f"{per_group * layer.groups},{outs}", "--groups", layer.groups]
    return words + ["--flip"] * layer.flip


def entries(printed):
    """Name -> text of the lines ``name  text``; indented lines go on with the text, a picture follows its name."""
    found = {}
    name = None
    for line in printed.splitlines():
        begins = re.match(r"(\S.{11}|  axis \d    ) (\S.*)", line)
        if begins and not line.startswith(("┌", "│", "└", "+-", "|")):
            name = begins.group(1).strip()
            found[name] = begins.group(2)
        elif line.startswith(" " * 13) and name is not None:
            found[name] += " " + line.strip()
    return found


def picture(printed, name):
    """The lines of the picture of that name."""
    lines = printed.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{name:<12} "))
    start += 1
    while lines[start].startswith(" " * 13) and "letter" not in lines[start]:
        start += 1
    rows = []
    for line in lines[start:]:
        if line == "":
            break
        rows.append(line)
    return rows


def dots(lines):
    """A framed picture of braille, half blocks or hashes as booleans."""
    inner = [line[1:-1] for line in lines[1:-1]]
    assert len({len(line) for line in lines}) == 1
    cells = [[_dots_of(character) for character in row] for row in inner]
    return np.block([[np.array(cell, dtype=bool) for cell in row] for row in cells])


def _dots_of(character):
    if character in ".#":
        return [[character == "#"]]
    if character in " ▀▄█":
        return [[character in "▀█"], [character in "▄█"]]
    bits = ord(character) - 0x2800
    assert 0 <= bits < 256
    numbered = [[0, 3], [1, 4], [2, 5], [6, 7]]  # dots 1, 2, 3, 7 on the left, 4, 5, 6, 8 on the right
    return [[bool(bits >> bit & 1) for bit in row] for row in numbered]


def letters(lines):
    """A picture of taps as numbers: the tap, `NOTHING`, or `SUM`."""
    rows = [line.strip().split("  ")[-1].replace(" ", "") for line in lines]
    codes = {**{letter: tap for tap, letter in enumerate(LETTERS)}, ".": NOTHING, "+": SUM}
    return np.array([[codes[character] for character in row] for row in rows])


def loaded(*names):
    return [name for name in names if name in sys.modules]
