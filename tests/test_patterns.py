"""The compressed axis matrix: written out again, it is what the outputs read."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmat.patterns import by_columns, by_rows, never_read
from convmat.taps import ZERO, Axis
from tests import oracle
from tests.strategies import tries
from tests.test_taps import every_axis, sums


def entries(axis):
    """(output, input sample) -> the taps that read it, and how often, from a walk."""
    found = {}
    for m in range(axis.output):
        for k in range(axis.taps):
            position = axis.stride * m + axis.dilation * k - axis.lo
            for n, times in oracle.sources(position, axis.size, axis.mode).items():
                found.setdefault((m, n), []).append((k, times))
    return found


def terms(sets, which):
    """The taps of a set and their factors; where a tap is there more than once, the sum of these."""
    found = {}
    for k, times in zip(sets.taps[which].tolist(), sets.factors[which].tolist(), strict=True):
        if k != ZERO:
            found[k] = found.get(k, 0) + times
    return list(found.items())


def written_out(band):
    """The band as a list of (row, column, taps), entry by entry, from its classes; each entry written once."""
    flat = [None] * band.entries
    for cls in band.classes():
        for i, base in enumerate(cls.bases):
            for j, (col, which) in enumerate(zip(cls.cols, cls.sets, strict=True)):
                at = cls.first + i * cls.step + j
                assert flat[at] is None
                flat[at] = (int(base + col), terms(band.sets, which))
    assert None not in flat
    rows = np.repeat(np.arange(band.counts().size), band.counts())
    assert rows.size == len(flat)
    return [(int(row), *entry) for row, entry in zip(rows, flat, strict=True)]


def parts_written_out(band):
    """The same from head, body and tail."""
    pieces = [(band.head, 0), *((band.body, i) for i in range(band.repeats)), (band.tail, 0)]
    lines = []
    for part, i in pieces:
        for a, b in zip(part.ptr[:-1], part.ptr[1:], strict=True):
            lines.append([(int(c) + i * band.advance, terms(band.sets, t))
                          for c, t in zip(part.cols[a:b], part.sets[a:b], strict=True)])  # fmt: skip
    return [(row, *entry) for row, line in enumerate(lines) for entry in line]


@tries(400)
@given(every_axis)
def test_by_rows_is_the_axis_matrix_in_order(axis):
    expected = [(m, n, taps) for (m, n), taps in sorted(entries(axis).items())]
    band = by_rows(axis, 0, axis.output)
    assert written_out(band) == expected
    assert parts_written_out(band) == expected


@tries(400)
@given(every_axis)
def test_by_columns_is_the_transposed_axis_matrix_in_order(axis):
    expected = sorted(((n, m, taps) for (m, n), taps in entries(axis).items()))
    band = by_columns(axis, 0, axis.size)
    assert written_out(band) == expected
    assert parts_written_out(band) == expected


@pytest.mark.parametrize(("read", "along"), [(by_rows, "output"), (by_columns, "size")])
@given(axis=every_axis, data=st.data())
def test_a_range_of_rows_is_cut_from_the_whole(read, along, axis, data):
    count = getattr(axis, along)
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    whole = written_out(read(axis, 0, count))
    expected = [(row - start, col, taps) for row, col, taps in whole if start <= row < stop]
    assert written_out(read(axis, start, stop)) == expected


@pytest.mark.parametrize("mode", oracle.MODES)
@pytest.mark.parametrize("read", [by_rows, by_columns])
def test_what_is_stored_does_not_grow_with_the_size(read, mode):
    stored = []
    for size in (10**3, 10**7):
        axis = Axis(size, 5, stride=2, lo=2, hi=2, mode=mode)
        band = read(axis, 0, axis.output if read is by_rows else axis.size)
        stored.append(band.head.count + band.body.count + band.tail.count)
        assert band.repeats > size // 2 - 20
    assert stored[0] == stored[1] < 30


@given(every_axis, st.integers(0, 2**20))
def test_sums_add_the_weights_of_each_set_along_one_axis(axis, seed):
    weight = np.random.default_rng(seed).integers(-9, 10, (2, axis.taps, 3)).astype(float)
    sets = by_rows(axis, 0, axis.output).sets
    found = sets.sums(weight, 1)
    assert found.shape == (2, len(sets), 3)
    for t in range(len(sets)):
        np.testing.assert_array_equal(found[:, t], sum(times * weight[:, k] for k, times in terms(sets, t)))


@given(every_axis)
def test_sets_are_ascending_and_the_first_are_the_single_taps(axis):
    for band in (by_rows(axis, 0, axis.output), by_columns(axis, 0, axis.size)):
        sets = [terms(band.sets, t) for t in range(len(band.sets))]
        assert sets[: axis.taps] == [[(k, 1)] for k in range(axis.taps)]
        assert all(row == sorted(row) for row in sets)
        if axis.mode in oracle.COPYING:  # elsewhere a factor may come about in several ways
            assert max(Counter(map(tuple, sets)).values()) == 1


@given(every_axis, st.integers(1, 8))
def test_never_read_names_the_samples_that_no_output_reads(axis, most):
    read = {n for row in sums(axis) for tap in row for n in tap}
    expected = [n for n in range(axis.size) if n not in read]
    assert never_read(axis, most) == (len(expected), expected[:most] + expected[-1:])


def test_never_read_of_a_huge_axis_takes_no_memory_for_it():
    axis = Axis(10**12, 2, stride=5)
    assert never_read(axis, 3) == (3 * 10**12 // 5, [2, 3, 4, 10**12 - 1])
