"""Grids as characters, lines that fit, tables, numbers, and the line of progress."""

import contextlib
import io
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmat.cli import progress, text
from convmat.cli.progress import Progress
from tests import cli

SHAPES = st.tuples(st.integers(1, 13), st.integers(1, 13))


@pytest.mark.parametrize("name", text.STYLES)
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_dots_can_be_read_back(name, shape, seed):
    style = text.STYLES[name]
    dots = np.random.default_rng(seed).random(shape) < 0.4
    drawn = cli.dots(text.framed(dots, style))
    assert np.array_equal(drawn[: shape[0], : shape[1]], dots)
    assert drawn.sum() == dots.sum()
    assert drawn.shape[0] - shape[0] < style.down
    assert drawn.shape[1] - shape[1] < style.across


@pytest.mark.parametrize("name", text.STYLES)
@given(
    rows=st.integers(1, 10**13), columns=st.integers(1, 10**13), width=st.integers(40, 200), height=st.integers(4, 99)
)
def test_a_grid_covers_the_matrix_and_fits(name, rows, columns, width, height):
    style = text.STYLES[name]
    grid = text.Grid.fitting((rows, columns), style, width, height)
    for edges, size, most in (
        (grid.rows, rows, style.down * (height - 2)),
        (grid.columns, columns, style.across * (width - 2)),
    ):
        assert (edges[0], edges[-1]) == (0, size)
        steps = np.diff(edges)
        assert steps.min() >= 1
        assert steps.max() - steps.min() <= 1
        assert len(steps) <= most
    fits = rows <= style.down * (height - 2) and columns <= style.across * (width - 2)
    assert grid.exact == fits


def test_proportions_are_kept():
    """Braille dots are square, an ascii character is twice as high as wide."""
    for name, expected in (("braille", 1), ("blocks", 1), ("ascii", 2)):
        grid = text.Grid.fitting((30_000, 40_000), text.STYLES[name], 80, 50)
        assert (grid.rows[1] / grid.columns[1]) == pytest.approx(expected, rel=0.05)


@given(st.lists(st.text("abc[]+", min_size=1, max_size=30), min_size=1, max_size=20), st.integers(50, 120))
def test_entries_lose_no_word_and_fit(words, width):
    lines = text.entry("name", " ".join(words), width).splitlines()
    assert lines[0].startswith("name         ")
    assert max(map(len, lines)) <= width
    assert " ".join(line[13:] for line in lines).split() == words


def test_no_break_spaces_hold_where_that_is_possible():
    value = "y = W[o,\u00a0k]"
    assert text.entry("", "a " * 27 + value, 70).splitlines()[1].strip() == "W[o, k]"
    long = "\u00a0".join(["word"] * 20)
    lines = text.entry("", long, 50).splitlines()
    assert all(word == "word" for line in lines for word in line.split())


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0"), (999, "999"), (1000, "1 k"), (1234567, "1.23 M"), (999_600, "1 M"), (94e15, "94 P"), (5e19, "5e+04 P")],
)
def test_amounts(number, words):
    assert text.amount(number) == words


def test_amounts_with_a_unit():
    assert (text.amount(12, "B"), text.amount(72176, "B")) == ("12 B", "72.2 kB")


@given(st.floats(1e-20, 1e20), st.floats(1, 2), st.integers(2, 9))
def test_rounded_bounds_stay_bounds(lower, ratio, digits):
    below, above = map(float, text.outward(lower, lower * ratio, digits))
    assert below <= lower
    assert above >= lower * ratio
    assert below == pytest.approx(lower, rel=10.0 ** (1 - digits))
    assert above == pytest.approx(lower * ratio, rel=10.0 ** (1 - digits))


def test_a_table_cuts_its_first_columns_to_fit():
    header, row = ["name", "what", "count"], ["n" * 50, "w" * 30, "1"]
    wide = text.table(header, [row, ["a", "b", "22"]], 100).splitlines()
    assert wide[2] == f"{row[0]}  {row[1]}      1"
    assert wide[3].split() == ["a", "b", "22"]
    assert len({len(line) for line in (wide[1], wide[2], wide[3])}) == 1
    narrow = text.table(header, [row], 60).splitlines()
    assert max(map(len, narrow)) == 60
    assert narrow[2].startswith("nnn")
    assert ".." in narrow[2]
    assert narrow[2].endswith("  1")
    tight = text.table(header, [row], 40).splitlines()
    assert max(map(len, tight)) == 40
    assert tight[2].split()[0] == "nnnnnn.."


def test_a_table_of_nothing_is_its_header():
    assert text.table(["name", "what"], [], 80).splitlines()[0] == "name  what"


def test_bars_grow():
    values = np.linspace(0, 1, 9)
    assert text.bars(values, ascii_only=False) == " ▁▂▃▄▅▆▇█"
    assert text.bars(values, ascii_only=True).isascii()
    assert len(set(text.bars(values, ascii_only=True))) == 9


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", 0.01)
    monkeypatch.setattr(progress, "_EVERY", 0.01)


def wait_for(stream, words):
    limit = time.monotonic() + 20
    while words not in stream.getvalue() and time.monotonic() < limit:
        time.sleep(0.005)
    assert words in stream.getvalue()


@pytest.mark.usefixtures("impatient")
def test_progress_is_drawn_on_a_terminal_and_wiped():
    terminal = Terminal()
    with Progress("sums", terminal) as report:
        wait_for(terminal, "sums ... 0 s")
        report(1, 4)
        wait_for(terminal, "sums [######..................] 1/4, 0 s")
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert "\n" not in terminal.getvalue()


@pytest.mark.usefixtures("impatient")
def test_progress_is_silent_where_there_is_no_terminal():
    stream = io.StringIO()
    with Progress("sums", stream) as report:
        report(1, 2)
        time.sleep(0.1)
    assert stream.getvalue() == ""


def test_progress_of_what_is_quick_is_not_drawn():
    terminal = Terminal()
    with Progress("sums", terminal) as report:
        report(1, 2)
    assert terminal.getvalue() == ""


@pytest.mark.usefixtures("impatient")
def test_progress_is_wiped_after_an_error():
    terminal = Terminal()
    report = Progress("sums", terminal)
    with contextlib.suppress(KeyError), report:
        wait_for(terminal, "sums")
        raise KeyError
    assert terminal.getvalue().endswith("\r\x1b[K")
