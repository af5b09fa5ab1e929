"""Bidiagonal matrices with the singular values of given ones, by Householder's reflections, in all lanes at once.

One pass over the matrix reads it for a reflection from the left, another applies that and the next one from the right:
what is in the cache is read three times for each column, several rows together, so that the sums stay in registers.
"""

from __future__ import annotations

import numba

from convmat.products.strips import at
from convmat.spectrum.lanes import (
    TINY,
    added,
    added_conjugate,
    everywhere,
    load,
    root,
    square,
    store,
    where_less,
    zero,
)

compiled = numba.njit(nogil=True, error_model="numpy")


@compiled
def reflection(x, count, step, v):
    """Write v and return |x| and g, such that (I - g v v^H) x has |x| as the modulus of its first entry, and zeros.

    x has `count` entries, `step` apart. Both are 0 if x is.
    """
    none, one, tiny = everywhere(0.0), everywhere(1.0), everywhere(TINY)
    total = none
    for i in range(count):
        entry = load(x, i * step)
        store(v, i, entry)
        total = total + square(entry)
    first = load(x, 0)
    squared = square(first)
    modulus, norm = where_less(squared, tiny, none, root(squared)), root(total)
    turn = first * where_less(squared, tiny, none, one / root(squared)) + where_less(squared, tiny, one, none)
    store(v, 0, turn * (modulus + norm))
    return norm, where_less(total, tiny, none, one / (norm * (norm + modulus)))


@compiled
def _from_left(a, rows, cols, line, v, g, w):
    """W = -g v^H A."""
    for j in range(cols):
        store(w, j, zero(w))
    i = 0
    while i + 4 <= rows:
        a0, a1, a2, a3 = at(a, i * line), at(a, (i + 1) * line), at(a, (i + 2) * line), at(a, (i + 3) * line)
        v0, v1, v2, v3 = load(v, i), load(v, i + 1), load(v, i + 2), load(v, i + 3)
        for j in range(cols):
            total = added_conjugate(added_conjugate(load(w, j), v0, load(a0, j)), v1, load(a1, j))
            store(w, j, added_conjugate(added_conjugate(total, v2, load(a2, j)), v3, load(a3, j)))
        i += 4
    while i < rows:
        v0, a0 = load(v, i), at(a, i * line)
        for j in range(cols):
            store(w, j, added_conjugate(load(w, j), v0, load(a0, j)))
        i += 1
    minus = everywhere(0.0) - g
    for j in range(cols):
        store(w, j, load(w, j) * minus)


@compiled
def _both(a, rows, cols, line, v, w, u, h):
    """A + v w, and that times I - h conj(u) u^T: rows in fours, then one by one."""
    minus, common = everywhere(0.0) - h, zero(w)
    for j in range(cols):
        common = added_conjugate(common, load(u, j), load(w, j))
    i = 0
    while i + 4 <= rows:
        a0, a1, a2, a3 = at(a, i * line), at(a, (i + 1) * line), at(a, (i + 2) * line), at(a, (i + 3) * line)
        v0, v1, v2, v3 = load(v, i), load(v, i + 1), load(v, i + 2), load(v, i + 3)
        z0, z1, z2, z3 = zero(w), zero(w), zero(w), zero(w)
        for j in range(cols):
            right = load(u, j)
            z0, z1 = added_conjugate(z0, right, load(a0, j)), added_conjugate(z1, right, load(a1, j))
            z2, z3 = added_conjugate(z2, right, load(a2, j)), added_conjugate(z3, right, load(a3, j))
        z0, z1 = added(z0, v0, common) * minus, added(z1, v1, common) * minus
        z2, z3 = added(z2, v2, common) * minus, added(z3, v3, common) * minus
        for j in range(cols):
            left, right = load(w, j), load(u, j)
            store(a0, j, added(added(load(a0, j), v0, left), z0, right))
            store(a1, j, added(added(load(a1, j), v1, left), z1, right))
            store(a2, j, added(added(load(a2, j), v2, left), z2, right))
            store(a3, j, added(added(load(a3, j), v3, left), z3, right))
        i += 4
    while i < rows:
        a0, v0, z0 = at(a, i * line), load(v, i), zero(w)
        for j in range(cols):
            z0 = added_conjugate(z0, load(u, j), load(a0, j))
        z0 = added(z0, v0, common) * minus
        for j in range(cols):
            store(a0, j, added(added(load(a0, j), v0, load(w, j)), z0, load(u, j)))
        i += 1


@compiled
def bidiagonalize(a, rows, cols, line, work, q, e):
    """Write the squares of the moduli of the diagonal and of the superdiagonal, (cols,) and (cols - 1,).

    The matrix has rows >= cols, which are `line` numbers apart. It is overwritten; `work` is rows + 2 cols numbers.
    """
    v, w = work, at(work, rows)
    u = at(w, cols)
    for k in range(cols):
        column = at(a, k * line + k)
        norm, g = reflection(column, rows - k, line, v)
        store(q, k, norm * norm)
        if k + 1 == cols:
            break
        top, left = at(column, 1), cols - k - 1
        _from_left(top, rows - k, left, line, v, g, w)
        for j in range(left):
            store(top, j, added(load(top, j), load(v, 0), load(w, j)))
        norm, h = reflection(top, left, 1, u)
        store(e, k, norm * norm)
        _both(at(top, line), rows - k - 1, left, line, at(v, 1), w, u, h)
