"""One axis: the table against a walk, and what is derived from it against the table."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from convmat.taps import EXTENSIONS, MODES, ZERO, Axis, joint_reads, joint_table
from tests import oracle
from tests.strategies import axes


@st.composite
def legal_axes(draw, modes=oracle.COPYING):
    mode = draw(st.sampled_from(modes))
    n, k, s, d, (lo, hi) = draw(axes(mode, 14, 6))
    return Axis(n, k, s, d, lo, hi, mode)


every_axis = legal_axes(oracle.MODES)
"""Also those that sum several samples at a position, and have no table."""


def walked(axis, m, k):
    i = oracle.source(axis.stride * m + axis.dilation * k - axis.lo, axis.size, axis.mode)
    return ZERO if i is None else i


def sums(axis, outputs=None):
    """What each of some outputs reads through each tap, {sample: weight}, from the reads."""
    count = axis.output if outputs is None else len(outputs)
    found = [[{} for _ in range(axis.taps)] for _ in range(count)]
    for m, k, n, weight in zip(*(numbers.tolist() for numbers in axis.reads(outputs)), strict=True):
        assert weight
        found[m][k][n] = found[m][k].get(n, 0) + weight
    return found


def test_the_padding_modes_are_those_of_the_oracle():
    assert set(MODES) == set(oracle.MODES)
    assert set(EXTENSIONS) == set(oracle.COPYING)


@given(every_axis)
def test_reads_are_the_walk_of_every_tap_of_every_output_with_its_weights(axis):
    lines = [[axis.stride * m + axis.dilation * k - axis.lo for k in range(axis.taps)] for m in range(axis.output)]
    assert sums(axis) == [[oracle.sources(i, axis.size, axis.mode) for i in line] for line in lines]
    output, tap, _, _ = axis.reads()
    assert (np.diff(output * axis.taps + tap) >= 0).all()


@given(every_axis, st.data())
def test_reads_of_some_outputs_are_those_rows_of_all(axis, data):
    some = np.array(data.draw(st.lists(st.integers(0, axis.output - 1), max_size=5)), dtype=np.int64)
    assert sums(axis, some) == [sums(axis)[m] for m in some]


def test_an_axis_that_sums_samples_says_that_it_has_no_table():
    with pytest.raises(ValueError, match=r"mode='antireflect' sums several samples at a position: ask for reads"):
        Axis(5, 3, lo=1, mode="antireflect").table()


def test_antireflect_is_the_odd_reflection_of_numpy_pad():
    for n in range(1, 6):
        x = np.arange(n) ** 2 + 3
        for lo, hi in ((0, n - 1), (n - 1, 0), (n, n), (3 * n, 2 * n + 1)):
            samples, weights = Axis(n, 1, lo=lo, hi=hi, mode="antireflect").sources(np.arange(-lo, n + hi))
            found = np.where(samples == ZERO, 0, weights * x[samples]).sum(axis=1)
            np.testing.assert_array_equal(found, np.pad(x, (lo, hi), mode="reflect", reflect_type="odd"))


@given(every_axis)
def test_the_extended_axis_reads_positions_of_the_extended_input(axis):
    extended = axis.extended
    if not axis.combines:
        assert sums(extended) == sums(axis)
        return
    positions = sums(extended)
    samples, weights = axis.sources(np.arange(-axis.lo, axis.size + axis.hi))
    assert (extended.output, extended.size) == (axis.output, len(samples))
    for row, of_row in zip(positions, sums(axis), strict=True):
        for read, expected in zip(row, of_row, strict=True):
            ((position, weight),) = read.items()
            assert weight == 1
            terms = zip(samples[position].tolist(), weights[position].tolist(), strict=True)
            found = {}
            for n, times in terms:
                if n != ZERO:
                    found[n] = found.get(n, 0) + times
            assert found == expected


@given(st.lists(every_axis, min_size=1, max_size=2))
def test_the_joint_reads_pair_every_read_of_every_axis(parts):
    output, tap, sample, weight = joint_reads(parts)
    sizes = ([axis.output for axis in parts], [axis.taps for axis in parts], [axis.size for axis in parts])
    shape = [int(np.prod(size)) for size in sizes]
    found, expected = np.zeros(shape), np.zeros(shape)
    np.add.at(found, (output, tap, sample), weight)
    lines = [zip(*(numbers.tolist() for numbers in axis.reads()), strict=True) for axis in parts]
    for reads in itertools.product(*map(list, lines)):
        at = [np.ravel_multi_index([read[of] for read in reads], size) for of, size in enumerate(sizes)]
        expected[tuple(at)] += np.prod([read[3] for read in reads])
    np.testing.assert_array_equal(found, expected)


@given(legal_axes())
def test_output_size_counts_the_windows_that_fit(axis):
    expected = oracle.output_size(axis.size, axis.taps, axis.stride, axis.dilation, axis.lo, axis.hi)
    assert axis.output == expected
    assert axis.padded == axis.lo + axis.size + axis.hi


@given(legal_axes())
def test_table_is_the_walk_of_every_tap_of_every_output(axis):
    assume(axis.mode in oracle.COPYING)  # the others have no table
    expected = [[walked(axis, m, k) for k in range(axis.taps)] for m in range(axis.output)]
    np.testing.assert_array_equal(axis.table(), expected)


@given(legal_axes(), st.data())
def test_table_of_some_outputs_is_those_rows_of_the_table(axis, data):
    assume(axis.mode in oracle.COPYING)  # the others have no table
    some = np.array(data.draw(st.lists(st.integers(0, axis.output - 1), max_size=5)), dtype=np.int64)
    np.testing.assert_array_equal(axis.table(some), axis.table()[some])


@pytest.mark.parametrize("mode", oracle.COPYING)
def test_extension_reaches_many_times_around(mode):
    for n in range(2, 6):
        axis = Axis(n, 1, lo=4 * n, hi=4 * n, mode=mode)
        expected = [oracle.source(i, n, mode) for i in range(-4 * n, 5 * n)]
        np.testing.assert_array_equal(axis.extension(0, 9 * n), [ZERO if i is None else i for i in expected])


@pytest.mark.parametrize(
    ("mode", "numpy_mode"),
    [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap"), ("symmetric", "symmetric")],
)
def test_extension_is_that_of_numpy_pad(mode, numpy_mode):
    for n in range(1, 6):
        for lo, hi in ((0, n - 1), (n - 1, 0), (n, n), (3 * n, 2 * n + 1)):
            axis = Axis(n, 1, lo=lo, hi=hi, mode=mode)
            expected = np.pad(np.arange(n), (lo, hi), mode=numpy_mode)
            np.testing.assert_array_equal(axis.extension(0, n + lo + hi), expected)


@given(legal_axes())
def test_interior_is_exactly_where_no_tap_leaves_the_input(axis):
    first, last = axis.interior
    assert 0 <= first <= last <= axis.output
    reach = [[axis.stride * m + axis.dilation * k - axis.lo for k in range(axis.taps)] for m in range(axis.output)]
    inside = [m for m, row in enumerate(reach) if min(row) >= 0 and max(row) < axis.size]
    assert list(range(first, last)) == inside


@given(legal_axes(), st.data())
def test_copied_is_the_part_of_the_extended_input_that_is_the_input(axis, data):
    start = data.draw(st.integers(0, axis.padded))
    stop = data.draw(st.integers(start, axis.padded))
    first, last = axis.copied(start, stop)
    assert start <= first <= last <= stop
    assert list(range(first, last)) == [i for i in range(start, stop) if 0 <= i - axis.lo < axis.size]


@given(legal_axes(), st.data())
def test_strided_reads_the_extension_at_every_s_th_position(axis, data):
    assume(axis.mode in oracle.COPYING)  # the others have no table
    offset = data.draw(st.integers(0, axis.padded - 1))
    count = (axis.padded - 1 - offset) // axis.stride + 1
    expected = axis.extension(0, axis.padded)[offset :: axis.stride]
    np.testing.assert_array_equal(axis.strided(offset, 0, count), expected)
    first, last, sample = axis.strided_copied(offset, count)
    inside = [j for j in range(count) if 0 <= axis.stride * j + offset - axis.lo < axis.size]
    assert list(range(first, last)) == inside
    if inside:
        assert sample == axis.stride * first + offset - axis.lo


@given(st.lists(legal_axes(), min_size=1, max_size=2))
def test_the_joint_table_pairs_every_output_and_tap_of_every_axis(parts):
    joint = joint_table(parts)
    outputs, taps = [axis.output for axis in parts], [axis.taps for axis in parts]
    assert joint.shape == (np.prod(outputs), np.prod(taps))
    for m, k in itertools.product(np.ndindex(*outputs), np.ndindex(*taps)):
        reads = [int(axis.table()[i, j]) for axis, i, j in zip(parts, m, k, strict=True)]
        expected = -1 if -1 in reads else np.ravel_multi_index(reads, [axis.size for axis in parts])
        assert joint[np.ravel_multi_index(m, outputs), np.ravel_multi_index(k, taps)] == expected


@given(legal_axes())
def test_the_phases_of_the_transpose_send_back_what_the_table_reads(axis):
    """Each phase is a correlation of stride one: what comes out of the axis through the taps of the phase, turned."""
    assume(axis.mode in oracle.COPYING)  # the others have no table
    expected = np.zeros((axis.size, axis.output, axis.taps))
    for m, k in itertools.product(range(axis.output), range(axis.taps)):
        if (n := axis.table()[m, k]) >= 0:
            expected[n, m, k] += 1
    sent = np.zeros((axis.size if axis.sends_nothing_back else axis.padded, axis.output, axis.taps))
    for phase in range(axis.stride):
        if (found := axis.sending(phase)) is None:
            continue
        turned, taps, places = found
        of = np.arange(axis.taps)[taps]
        assert len(of) == turned.taps
        for row, position in zip(turned.table(), range(*places.indices(len(sent))), strict=True):
            for k, m in zip(of, row, strict=True):
                if m >= 0:
                    sent[position, m, k] += 1
    if not axis.sends_nothing_back:
        folded = np.zeros_like(expected)
        np.add.at(folded, axis.extension(0, axis.padded), sent)
        sent = folded
    np.testing.assert_array_equal(sent, expected)
