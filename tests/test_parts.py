"""Parts of an axis: their tables are rows of the whole table, renumbered, and their transposes lack no read."""

import itertools
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from convmat import parts
from convmat.parts import count, few, folds_nothing_into, giving, joined, places, reaching, sent, taken, within
from convmat.taps import Axis
from tests import oracle
from tests.strategies import axes, tries
from tests.test_taps import every_axis, legal_axes, sums

FAR = 10**12
"""Samples of an axis of which no array fits in memory."""


@st.composite
def longer_axes(draw, modes=oracle.MODES):
    """Axes with an inside, mostly: windows and borders are shorter."""
    mode = draw(st.sampled_from(modes))
    size, taps, stride, dilation, (lo, hi) = draw(axes(mode, 60, 4))
    return Axis(size, taps, stride, dilation, lo, hi, mode)


any_axis = st.one_of(every_axis, longer_axes())
copying_axis = st.one_of(legal_axes(), longer_axes(oracle.COPYING))


@st.composite
def runs_below(draw, size, most=2, least=1):
    """Some ranges of numbers below `size`, none of which touches the next."""
    ends = draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(1, size)), min_size=least, max_size=most))
    found = joined((min(a, b - 1), max(a + 1, b)) for a, b in ends)
    return found if found or not least else ((0, size),)


def numbers(runs):
    return np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(*run) for run in runs)])


def renumbered(read, names):
    """What outputs read, with names for the samples."""
    return [[{int(names[n]): weight for n, weight in tap.items()} for tap in row] for row in read]


def is_canonical(runs):
    """Whether ranges are in order, not empty, and none touches the next."""
    return all(a < b for a, b in runs) and all(b < c for (_, b), (c, _) in itertools.pairwise(runs))


def is_part_of(part, axis):
    """Whether a part says truly what its samples and outputs are."""
    return (
        all(map(is_canonical, (part.inputs, part.outputs, part.kept)))
        and within(part.inputs, ((0, axis.size),))
        and within(part.outputs, ((0, axis.output),))
        and (count(part.inputs), count(part.outputs)) == (part.axis.size, part.axis.output)
        and (part.axis.taps, part.axis.stride, part.axis.dilation) == (axis.taps, axis.stride, axis.dilation)
    )


# --- ranges ---------------------------------------------------------------------------------------------------------

some_ranges = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), max_size=6)


@given(some_ranges)
def test_joined_ranges_have_the_same_numbers_and_none_touches_the_next(ranges):
    found = joined(ranges)
    assert is_canonical(found)
    assert set(numbers(found)) == {n for a, b in ranges for n in range(a, b)}
    assert count(found) == len(numbers(found))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=6), st.integers(1, 4))
def test_few_ranges_are_the_same_numbers_and_those_of_the_smallest_gaps(steps, most):
    starts = np.cumsum([0, *map(sum, steps)]).tolist()
    runs = tuple((start, start + length) for start, (length, _) in zip(starts, steps, strict=False))
    found = few(runs, most)
    gaps = sorted(b[0] - a[1] for a, b in itertools.pairwise(runs))
    assert is_canonical(found)
    assert len(found) == min(most, len(runs))
    assert set(numbers(runs)) <= set(numbers(found))
    assert count(found) - count(runs) == sum(gaps[: max(0, len(runs) - most)])


@given(some_ranges, some_ranges)
def test_ranges_are_within_others_if_all_their_numbers_are(ranges, others):
    runs, covering = joined(ranges), joined(others)
    assert within(runs, covering) == (set(numbers(runs)) <= set(numbers(covering)))


@given(st.data())
def test_places_are_where_the_numbers_of_the_covering_ranges_are_put(data):
    covering = data.draw(runs_below(24, 4))
    chosen = data.draw(runs_below(count(covering), 4))
    there = data.draw(runs_below(60, 4).filter(lambda runs: count(runs) >= count(covering)))
    runs = joined(run for piece in chosen for run in taken(covering, (piece,)))
    put = dict(zip(numbers(covering).tolist(), numbers(there).tolist(), strict=False))
    found = places(runs, there, covering)
    assert is_canonical(found)
    assert numbers(found).tolist() == [put[n] for n in numbers(runs).tolist()]


@given(st.data())
def test_taken_are_the_numbers_that_stand_at_those_places(data):
    runs = data.draw(runs_below(30, 4))
    chosen = data.draw(runs_below(count(runs), 4, least=0))
    found = taken(runs, chosen)
    assert is_canonical(found)
    np.testing.assert_array_equal(numbers(found), numbers(runs)[numbers(chosen)])


# --- outputs --------------------------------------------------------------------------------------------------------


@tries(400)
@given(any_axis, st.data())
def test_the_table_of_a_part_is_that_of_the_whole_for_the_outputs_asked_for(axis, data):
    outputs = data.draw(runs_below(axis.output, 3))
    part = giving(axis, outputs)
    assert is_part_of(part, axis)
    kept = numbers(part.kept)
    np.testing.assert_array_equal(numbers(part.outputs)[kept], numbers(outputs))
    assert renumbered(sums(part.axis, kept), numbers(part.inputs)) == sums(axis, numbers(outputs))


@tries(400)
@given(any_axis, st.data())
def test_two_ranges_of_outputs_far_from_each_other_are_one_part_without_what_is_between(short, data):
    axis = replace(short, size=short.size + 200)
    first = data.draw(st.integers(1, axis.output // 4 + 1))
    second = data.draw(st.integers(3 * axis.output // 4 + 1, axis.output - 1))
    part = giving(axis, ((0, first), (second, axis.output)))
    found = renumbered(sums(part.axis, numbers(part.kept)), numbers(part.inputs))
    assert found == [*sums(axis)[:first], *sums(axis)[second:]]
    both = axis.window(first) + axis.window(axis.output - second) + 2 * axis.stride
    assert part.axis.padded <= both + 4 * (abs(axis.lo) + abs(axis.hi))


@tries(300)
@given(longer_axes(), st.data())
def test_a_part_has_no_more_samples_than_its_window_and_the_border_twice(short, data):
    axis = replace(short, size=10**6)
    length = data.draw(st.integers(1, 9))
    starts = [0, 1, 5, axis.output // 2, axis.output - length - 1, axis.output - length]
    start = data.draw(st.sampled_from(starts))
    part = giving(axis, ((start, start + length),))
    border = max(0, axis.lo) + max(0, axis.hi)
    assert part.axis.size <= axis.window(length) + 2 * border
    first, last = axis.interior
    if first <= start and start + length <= last:
        assert part.axis.size == axis.window(length)
        assert part.axis.reads_no_padding


@given(any_axis, st.data())
def test_a_part_of_a_part_is_a_part(axis, data):
    outer = giving(axis, data.draw(runs_below(axis.output, 2)))
    inner = giving(outer.axis, data.draw(runs_below(outer.axis.output, 2)))
    wanted = set(numbers(outer.kept))
    kept = np.array([m for m in numbers(inner.kept) if numbers(inner.outputs)[m] in wanted], dtype=np.int64)
    names = numbers(taken(outer.inputs, inner.inputs))
    outputs = numbers(taken(outer.outputs, inner.outputs))[kept]
    assert renumbered(sums(inner.axis, kept), names) == sums(axis, outputs)


def test_the_first_outputs_of_a_long_circular_axis_read_two_short_ranges():
    axis = Axis(FAR, 5, 2, 1, 3, 1, "circular")
    part = giving(axis, ((0, 4),))
    assert part.inputs == ((0, 8), (FAR - 3, FAR))
    assert part.axis.size == 11
    part = giving(replace(axis, hi=2), ((axis.output - 1, axis.output + 1),))
    assert part.inputs == ((0, 2), (FAR - 5, FAR))


@pytest.mark.parametrize("mode", oracle.MODES)
@pytest.mark.parametrize("padding", [(3, 2), (0, 5), (7, 0), (-2, 4), (3, -9), (-1, -1)])
def test_parts_of_an_axis_without_end_are_made_without_looking_along_it(mode, padding):
    axis = Axis(FAR, 4, 3, 2, *padding, mode)
    last = axis.output
    ends = ((0, 3),), ((last - 3, last),), ((last // 2, last // 2 + 3),)
    tracemalloc.start()
    found = [giving(axis, runs) for runs in ends]
    found += [reaching(axis, runs) for runs in (((0, 9),), ((FAR - 9, FAR),), ((FAR // 2, FAR // 2 + 9),))]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**17
    assert all(part.axis.size < 100 and part.axis.output < 100 for part in found)
    for part, runs in zip(found, ends, strict=False):
        found = renumbered(sums(part.axis, numbers(part.kept)), numbers(part.inputs))
        assert found == sums(axis, numbers(runs))


@pytest.mark.parametrize("padding", [(3, 2), (7, 0), (0, 7), (7, 7), (20, 20)])
def test_no_part_is_a_whole_axis_however_wide_its_border_and_wherever_its_ends(padding):
    for mode in oracle.MODES:
        axis = Axis(FAR, 4, 3, 2, *padding, mode)
        for size, make in ((axis.output, giving), (FAR, reaching)):
            for runs in (((0, 3),), ((size - 3, size),), ((0, 3), (size - 3, size)), ((1, 4), (size - 5, size - 2))):
                part = make(axis, runs)
                assert part.axis.size < 300, (mode, make, runs)
                assert part.axis.output < 100, (mode, make, runs)


# --- samples --------------------------------------------------------------------------------------------------------


def reads(axis, sample):
    """Every (output, tap) that reads a sample, its weight, and the position at which it does."""
    outputs, taps, samples, weights = axis.reads()
    outputs, taps, weights = (values[samples == sample] for values in (outputs, taps, weights))
    return outputs, taps, weights, axis.stride * outputs + axis.dilation * taps


def rank(values):
    """Numbers in the order of others, equal where those are."""
    return np.unique(values, return_inverse=True)[1].ravel()


def transposes_of(axis, samples):
    """The axis, and with zeros in the border where that makes no difference to these samples."""
    return [axis, replace(axis, mode="zeros")] if folds_nothing_into(axis, samples) else [axis]


@tries(400)
@given(any_axis, st.data())
@example(Axis(10, 2, 2, 1, 0, 0, "circular"), None)
def test_whatever_reads_a_sample_in_the_whole_reads_it_in_the_part_once_in_the_same_order(axis, data):
    samples = ((0, 4),) if data is None else data.draw(runs_below(axis.size, 3))
    for of in transposes_of(axis, samples):
        part = reaching(of, samples)
        assert is_part_of(part, of)
        kept = numbers(part.kept)
        np.testing.assert_array_equal(numbers(part.inputs)[kept], numbers(samples))
        for here, there in zip(kept, numbers(samples), strict=True):
            outputs, taps, weights, positions = reads(part.axis, here)
            wanted, wanted_taps, wanted_weights, wanted_positions = reads(axis, there)
            np.testing.assert_array_equal(numbers(part.outputs)[outputs], wanted)
            np.testing.assert_array_equal(taps, wanted_taps)
            np.testing.assert_array_equal(weights, wanted_weights)
            np.testing.assert_array_equal(rank(positions), rank(wanted_positions))


def test_a_cut_that_would_leave_no_sample_is_none():
    axis = Axis(2, 1, 2, 1, 2, 1, "symmetric")
    part = reaching(axis, ((1, 2),))
    assert (part.inputs, part.outputs, part.kept) == (((0, 2),), ((0, 3),), ((1, 2),))


@given(any_axis, st.data())
def test_what_folds_nothing_into_samples_has_no_position_of_the_border_that_reads_them(axis, data):
    samples = data.draw(runs_below(axis.size, 2))
    border = [p for p in range(-axis.lo, axis.size + axis.hi) if not 0 <= p < axis.size]
    read = {n for p in border for n in oracle.sources(p, axis.size, axis.mode)}
    assert folds_nothing_into(axis, samples) == (not read & set(numbers(samples).tolist()))


@tries(300)
@given(longer_axes(), st.data())
def test_the_outputs_that_reach_a_few_samples_are_few(short, data):
    axis = replace(short, size=10**6)
    length = data.draw(st.integers(1, 9))
    start = data.draw(st.sampled_from([0, 1, 5, 10**6 // 2, 10**6 - length - 1, 10**6 - length]))
    part = reaching(axis, ((start, start + length),))
    border = max(0, axis.lo) + max(0, axis.hi)
    most = (length + axis.span + border) // axis.stride + 2  # of those that may read it at one end
    assert part.axis.output <= 2 * most
    assert part.axis.size <= 2 * (axis.window(2 * most) + border) + length
    if axis.span + border < start < 10**6 - axis.span - border - 20:
        assert part.axis.output <= (length + axis.span - 2) // axis.stride + 1


@tries(400)
@given(copying_axis, st.data())
def test_the_results_of_a_phase_of_a_part_read_what_those_of_the_whole_read(axis, data):
    """Wherever a result is sent to a sample that is kept; the others have a place in the whole, if they are there."""
    assume(axis.mode in oracle.COPYING)  # the others are extended first, and have no border then
    samples = data.draw(runs_below(axis.size, 2))
    for of in transposes_of(axis, samples):
        part = reaching(of, samples)
        outputs, kept = numbers(part.outputs), set(numbers(part.kept).tolist())
        for phase in range(axis.stride):
            here, there = part.axis.sending(phase), axis.sending(phase)
            if here is None or there is None:
                continue
            results = numbers(sent(part.axis, axis, part.outputs, phase))
            turned, taps, place = here
            assert len(results) == turned.output
            assert (np.diff(results) > 0).all()
            assert turned.taps == there[0].taps
            assert taps == there[1]
            targets = np.arange(part.axis.size)
            if not part.axis.sends_nothing_back:
                targets = part.axis.extension(0, part.axis.padded)
            for row, target in enumerate(targets[place]):
                if target not in kept:
                    continue
                wanted = sums(there[0], results[row : row + 1])
                assert renumbered(sums(turned, np.array([row])), outputs) == wanted


def test_the_module_has_a_test_of_every_public_function():
    public = {name for name, value in vars(parts).items() if getattr(value, "__module__", "") == parts.__name__}
    assert {name for name in public if not name.startswith("_")} == {
        "AxisPart", "giving", "reaching", "sent", "folds_nothing_into", "joined", "few", "within", "count", "places",
        "taken",
    }  # fmt: skip
