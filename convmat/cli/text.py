"""Matrices as characters, lines that fit the terminal, tables, and numbers for readers."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.interop import onnx_checks as checks

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""The names of the first 52 taps, as in `convmat.plot`."""

ZERO, SEVERAL, BEYOND = ".", "+", "#"
"""In a picture of taps: no entry, the sum of several taps, a tap that has no name."""

_BARS = " ▁▂▃▄▅▆▇█"
_ASCII_BARS = " .:-=+*#%"
_FRAME = ("┌", "─", "┐", "│", "└", "┘")
_ASCII_FRAME = ("+", "-", "+", "|", "+", "+")


@dataclass(frozen=True)
class Style:
    """How a grid of dots becomes characters: `across` x `down` dots in each."""

    across: int
    down: int
    draw: Callable[[NDArray[np.bool_]], list[str]]
    frame: tuple[str, ...]
    tall: int
    """Height of a dot in widths of a dot."""


@dataclass(frozen=True)
class Grid:
    """Where the rows and columns of a matrix are cut into the cells of a picture."""

    rows: list[int]
    columns: list[int]

    @classmethod
    def fitting(cls, shape: tuple[int, int], style: Style, width: int, height: int) -> Grid:
        """One cell per entry if the picture has the room, else cells of one size that keep the proportions."""
        most_columns, most_rows = style.across * (width - 2), style.down * (height - 2)
        if shape[0] <= most_rows and shape[1] <= most_columns:
            return cls(list(range(shape[0] + 1)), list(range(shape[1] + 1)))
        scale = max(shape[1] / most_columns, shape[0] / (most_rows * style.tall), 1.0)
        rows = max(1, min(most_rows, shape[0], round(shape[0] / (scale * style.tall))))
        columns = max(1, min(most_columns, shape[1], round(shape[1] / scale)))
        return cls(_edges(shape[0], rows), _edges(shape[1], columns))

    @property
    def exact(self) -> bool:
        """Whether every cell is one entry."""
        return len(self.rows) == self.rows[-1] + 1 and len(self.columns) == self.columns[-1] + 1


def taps(labels: NDArray[np.int64]) -> list[str]:
    """One character per entry: the tap, `ZERO` for -1, `SEVERAL` for -2."""
    names = np.array([*LETTERS, BEYOND, SEVERAL, ZERO])
    characters = names[np.where(labels >= 0, np.minimum(labels, len(LETTERS)), labels)]
    return ["".join(row) for row in characters]


def framed(dots: NDArray[np.bool_], style: Style) -> list[str]:
    """A grid of dots in a frame, which is the border of the matrix."""
    lines = style.draw(dots)
    top_left, line, top_right, side, low_left, low_right = style.frame
    bar = line * len(lines[0])
    return [top_left + bar + top_right, *(side + row + side for row in lines), low_left + bar + low_right]


def pattern(name: str, entries: NDArray[Any], grid: Grid, style: Style, width: int) -> list[str]:
    """A matrix as dots, with a line that says what a dot is, from the number of entries in each cell of a grid."""
    rows, columns = grid.rows[-1], grid.columns[-1]
    cell = f"{rows / entries.shape[0]:.4g} x {columns / entries.shape[1]:.4g}"
    what = "a dot is an entry" if grid.exact else f"a dot where any of {cell} entries is stored"
    return [*entry(name, f"{rows} x {columns}; {what}", width).splitlines(), *framed(entries > 0, style)]


def style_of(picture: str) -> Style:
    """The style of that name; with "auto", braille characters if they can be printed."""
    return STYLES[("ascii" if ascii_only() else "braille") if picture == "auto" else picture]


def bars(values: NDArray[Any], ascii_only: bool) -> str:
    """Values from 0 to 1 as bars, one character each."""
    marks = _ASCII_BARS if ascii_only else _BARS
    return "".join(marks[round(float(v) * (len(marks) - 1))] for v in values)


def terminal_width(asked: int | None = None) -> int:
    """The columns that a line may have: those asked for, those of the terminal, or 80."""
    return asked or max(40, shutil.get_terminal_size((80, 24)).columns)


def ascii_only() -> bool:
    """Whether standard output cannot print blocks."""
    try:
        ("⣿█▀▄┌" + _BARS).encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def printable(name: str) -> str:
    r"""A name of somebody else, with ``\x1b`` and the like for what standard output would obey or cannot encode."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return checks.printable(name).encode(encoding, "backslashreplace").decode(encoding)


def _edges(size: int, count: int) -> list[int]:
    return [i * size // count for i in range(count + 1)]


def entry(name: str, value: str, width: int) -> str:
    """A name and what it is, in lines of the given width; no-break spaces hold as long as that is possible."""
    if max(map(len, value.split(" "))) > width - 13:
        value = value.replace("\u00a0", " ")
    lines = textwrap.fill(
        value, width, initial_indent=f"{name:<12} ", subsequent_indent=" " * 13, break_on_hyphens=False
    )
    return lines.replace("\u00a0", " ")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """A table with its first two columns to the left, which are cut where the lines would be too long."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    gaps = 2 * (len(widths) - 1)
    for column in (0, 1):
        widths[column] -= max(0, min(widths[column] - 8, sum(widths) + gaps - width))
    texts = []
    for row in (header, *rows):
        cells = [_cut(cell, size).ljust(size) for cell, size in zip(row[:2], widths[:2], strict=True)]
        cells += [cell.rjust(size) for cell, size in zip(row[2:], widths[2:], strict=True)]
        texts.append("  ".join(cells).rstrip())
    return "\n".join([texts[0], "-" * (sum(widths) + gaps), *texts[1:]])


def outward(lower: float, upper: float, digits: int) -> tuple[str, str]:
    """Two bounds with so many digits, the lower one rounded down and the upper one up: still bounds."""
    rounded = (
        Context(prec=digits, rounding=direction).create_decimal(bound)
        for direction, bound in ((ROUND_FLOOR, lower), (ROUND_CEILING, upper))
    )
    below, above = (f"{float(bound):.{digits}g}" for bound in rounded)
    return below, above


def amount(number: float, unit: str = "") -> str:
    """A number with three digits and a prefix: 1234567 -> 1.23 M."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(number) < 999.5 or prefix == "P":
            break
        number /= 1000
    digits = f"{number:.0f}" if prefix == "" else f"{number:.3g}"
    return f"{digits} {prefix}{unit}".rstrip()


def _cut(cell: str, size: int) -> str:
    return cell if len(cell) <= size else cell[: size - 2] + ".."


def _braille(dots: NDArray[np.bool_]) -> list[str]:
    bits = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
    codes = 0x2800 + (_blocks_of(dots, 4, 2) * bits).sum(axis=(2, 3))
    return ["".join(map(chr, row)) for row in codes]


def _half_blocks(dots: NDArray[np.bool_]) -> list[str]:
    codes = (_blocks_of(dots, 2, 1) * np.array([[1], [2]])).sum(axis=(2, 3))
    return ["".join(" ▀▄█"[code] for code in row) for row in codes]


def _hashes(dots: NDArray[np.bool_]) -> list[str]:
    return ["".join(".#"[dot] for dot in row) for row in dots.astype(int)]


def _blocks_of(dots: NDArray[np.bool_], down: int, across: int) -> NDArray[np.bool_]:
    """The dots of each character: (lines, characters, down, across)."""
    rows, columns = dots.shape
    padded = np.pad(dots, ((0, -rows % down), (0, -columns % across)))
    split = padded.reshape(padded.shape[0] // down, down, padded.shape[1] // across, across)
    return split.swapaxes(1, 2)


STYLES = {
    "braille": Style(2, 4, _braille, _FRAME, 1),
    "blocks": Style(1, 2, _half_blocks, _FRAME, 1),
    "ascii": Style(1, 1, _hashes, _ASCII_FRAME, 2),
}
