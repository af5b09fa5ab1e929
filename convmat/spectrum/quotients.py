"""Squares of the singular values of bidiagonal matrices, by Rutishauser's quotients and differences, in all lanes.

A sweep turns the squares q_i of a diagonal and e_i of its superdiagonal into those of another bidiagonal matrix, whose
squared singular values are smaller by the shift; the last e falls to 0, and the last q, with the shifts so far, is a
value. The differential form has no subtraction but that of the shift, so that small values stay accurate. A shift that
is larger than the least value shows in a negative d, and is taken again: if it was the last, d says by how much it was
too large.

References
----------
K. V. Fernando, B. N. Parlett, "Accurate singular values and differential qd algorithms", Numer. Math. 67, 1994.
H. Rutishauser, "Lectures on numerical mathematics", Birkhauser, 1990.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba

from convmat.products.strips import at
from convmat.spectrum.lanes import LANES, everywhere, load, real_lanes, store, where_equal, where_less

_EPS = 2.0**-54

_UPSIDE_DOWN = 1.5
"""A segment is turned round if its last q is larger than the first by this factor: small values come out last."""

compiled = numba.njit(nogil=True, error_model="numpy")


class Quotients(NamedTuple):
    """Numbers of each lane, side by side: pointers to doubles.

    Attributes
    ----------
    q, e
        Squares of diagonal and superdiagonal. Where a matrix falls apart, e is minus the sum of the shifts until then.
    next_q, next_e
        What a sweep finds.
    first, last
        The segment under work; first is -1 if it is not known where it begins, last is -1 if nothing is left.
    shift, total
        The shift of the sweep, and the sum of those before it.
    least, end
        The least d of the sweep but for the last, and the last.
    bound
        No value of the segment is larger than the least d of the sweep before.
    tries
        How many shifts were too large.
    taken
        1 where the sweep is right.
    tiny
        A square that may be taken for 0.
    """

    q: Any
    e: Any
    next_q: Any
    next_e: Any
    first: Any
    last: Any
    shift: Any
    total: Any
    least: Any
    end: Any
    bound: Any
    tries: Any
    taken: Any
    tiny: Any


NUMBERS_EACH = 10
"""Of a lane, beside q, e and the next of both."""


@compiled
def quotients(work, count):
    """Places for matrices of `count` columns in work memory of (4 count + NUMBERS_EACH) LANES doubles."""
    row, one = count * LANES, LANES
    q, e, next_q, next_e = work, at(work, row), at(work, 2 * row), at(work, 3 * row)
    rest = at(work, 4 * row)
    return Quotients(
        q, e, next_q, next_e, rest, at(rest, one), at(rest, 2 * one), at(rest, 3 * one), at(rest, 4 * one),
        at(rest, 5 * one), at(rest, 6 * one), at(rest, 7 * one), at(rest, 8 * one), at(rest, 9 * one),
    )  # fmt: skip


@compiled
def _begin(here, count, k):
    """Cut the matrix of a lane where it falls apart."""
    largest = 0.0
    for i in range(count):
        largest = max(largest, here.q[i * LANES + k])
        largest = max(largest, here.e[i * LANES + k] if i + 1 < count else 0.0)
    here.tiny[k] = _EPS * _EPS * largest
    for i in range(count - 1):
        if here.e[i * LANES + k] <= here.tiny[k]:
            here.e[i * LANES + k] = -0.0
    here.first[k], here.last[k], here.total[k], here.taken[k], here.tries[k] = -1, count - 1, 0.0, 1, 0


@compiled
def _turn(x, first, last, k):
    """Reverse the entries from the first to the last."""
    while first < last:
        i, j = first * LANES + k, last * LANES + k
        x[i], x[j] = x[j], x[i]
        first, last = first + 1, last - 1


@compiled
def _segment(here, last, k):
    """Find where the segment begins that ends there."""
    first = last
    while first > 0 and here.e[(first - 1) * LANES + k] > 0.0:
        first -= 1
    if here.q[first * LANES + k] * _UPSIDE_DOWN < here.q[last * LANES + k]:
        _turn(here.q, first, last, k)
        _turn(here.e, first, last - 1, k)
    here.bound[k] = math.inf
    return first


@compiled
def _plan(here, k):
    """Take the values that are found, and choose the shift: the least value of the last two rows, or the bound."""
    first, last = int(here.first[k]), int(here.last[k])
    while last >= 0:
        if first < 0:
            first = _segment(here, last, k)
        after = last * LANES + k
        if first == last:
            here.q[after] += here.total[k]
            found = 1
        else:
            before = after - LANES
            a, b, c = here.q[before], here.e[before], here.q[after]
            half = 0.5 * ((a - c) + b)
            larger = 0.5 * (a + c + b) + math.sqrt(half * half + c * b)
            smaller = a * (c / larger)
            if first + 1 < last:
                here.shift[k], here.tries[k] = min(smaller, here.bound[k]), 0
                break
            here.q[before], here.q[after] = larger + here.total[k], smaller + here.total[k]
            found = 2
        first, last = -1, last - found
        if last >= 0:
            here.total[k] = -here.e[last * LANES + k]
    here.first[k], here.last[k] = first, last


@compiled
def _sweep(here, low, high):
    """One sweep in all lanes, over rows that some lane wants."""
    q, e = real_lanes(here.q), real_lanes(here.e)
    next_q, next_e = real_lanes(here.next_q), real_lanes(here.next_e)
    first, last = load(real_lanes(here.first), 0), load(real_lanes(here.last), 0)
    shift = load(real_lanes(here.shift), 0)
    d, least = everywhere(0.0), everywhere(math.inf)
    for i in range(low, high):
        row, below = everywhere(float(i)), load(e, i)
        d = where_equal(row, first, load(q, i) - shift, d)
        smaller = where_less(d, least, d, least)
        least = where_less(row, first, least, where_less(row, last, smaller, least))
        s = d + below
        ratio = load(q, i + 1) / s
        store(next_q, i, s)
        store(next_e, i, below * ratio)
        d = where_less(row, first, d, where_less(row, last, d * ratio - shift, d))
    store(real_lanes(here.least), 0, least)
    store(real_lanes(here.end), 0, d)


@compiled
def _judge(here, k):
    """See whether the sweep of a lane is right, and choose a smaller shift if it is not; 0 always is."""
    least, end = here.least[k], here.end[k]
    here.taken[k] = 0
    if here.last[k] < 0:
        return
    if least >= 0.0 and end >= 0.0:
        here.taken[k] = 1
        here.total[k] += here.shift[k]
        here.bound[k] = min(least, end)
        here.q[int(here.last[k]) * LANES + k] = end
        return
    if here.tries[k] == 0 and least >= 0.0:
        here.shift[k] = max(0.0, (here.shift[k] + end) * (1.0 - 4.0 * _EPS))
    else:
        here.shift[k] = 0.25 * here.shift[k] if here.tries[k] < 2 else 0.0
    here.tries[k] += 1


@compiled
def _take(here, low, high):
    """Take over what right sweeps have found, and cut the matrices where they fall apart."""
    q, e = real_lanes(here.q), real_lanes(here.e)
    next_q, next_e = real_lanes(here.next_q), real_lanes(here.next_e)
    first, last = load(real_lanes(here.first), 0), load(real_lanes(here.last), 0)
    taken, tiny = load(real_lanes(here.taken), 0), load(real_lanes(here.tiny), 0)
    none, one = everywhere(0.0), everywhere(1.0)
    cut, begins = none - load(real_lanes(here.total), 0), first
    for i in range(low, high):
        row, found = everywhere(float(i)), load(next_e, i)
        inside = where_less(row, first, none, where_less(row, last, taken, none))
        store(q, i, where_equal(inside, one, load(next_q, i), load(q, i)))
        store(e, i, where_equal(inside, one, where_less(tiny, found, found, cut), load(e, i)))
        begins = where_equal(inside, one, where_less(tiny, found, begins, row + one), begins)
    store(real_lanes(here.first), 0, begins)


@compiled
def solve(here, count, turns):
    """Replace q by the squares of the singular values, in any order. False if that takes more sweeps than `turns`."""
    for k in range(LANES):
        _begin(here, count, k)
    for _ in range(turns):
        low, high = count, -1
        for k in range(LANES):
            if here.taken[k] == 1:
                _plan(here, k)
            if here.last[k] >= 0:
                low, high = min(low, int(here.first[k])), max(high, int(here.last[k]))
        if high < 0:
            return True
        _sweep(here, low, high)
        for k in range(LANES):
            _judge(here, k)
        _take(here, low, high)
    return False
