"""Entries per cell of a grid, against the matrix, and against sums that are known at any size."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convmat
from convmat.geometry import conv_geometry
from convmat.occupancy import entries_in_cells
from tests.strategies import layers, tries


@tries(100)
@given(layers(), st.data())
def test_cells_count_the_entries_of_the_matrix(layer, data):
    A = convmat.conv_matrix(np.ones(layer.weight.shape), layer.size, **layer.options)
    pattern = np.zeros(A.shape, dtype=np.int64)
    pattern[np.repeat(np.arange(A.shape[0]), np.diff(A.indptr)), A.indices] = 1
    rows, columns = (
        sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=6))}) for n in A.shape
    )  # fmt: skip
    expected = np.add.reduceat(np.add.reduceat(pattern, rows[:-1], axis=0), columns[:-1], axis=1)
    assert np.array_equal(entries_in_cells(layer.operator().geometry, rows, columns), expected)


@pytest.mark.parametrize(
    ("shape", "size", "options"),
    [
        ((3, 3), (10**6, 10**6), {"padding": 1}),
        (
            (64, 32, 3, 3),
            (10**5, 10**4),
            {"stride": 2, "groups": 2, "dilation": 3, "padding": 5, "padding_mode": "reflect"},
        ),
        ((1000, 1000, 31, 31, 31), (10**5, 10**5, 10**4), {"stride": (1, 2, 3)}),
    ],
)
def test_the_cells_of_huge_matrices_add_up(shape, size, options):
    """The last one has more than 2^63 entries."""
    geometry = conv_geometry(shape, size, **options)
    edges = [[i * n // 50 for i in range(51)] for n in geometry.shape]
    cells = entries_in_cells(geometry, *edges)
    assert cells.sum() == geometry.nnz
    assert cells.min() >= 0


def test_a_cell_of_a_huge_matrix_is_that_of_its_slab():
    """A slab of rows in the middle of a matrix of 10^12 columns, counted column by column."""
    options = {"stride": 2, "padding": 2, "padding_mode": "circular"}
    geometry = conv_geometry((3, 3), (10**6, 10**6), **options)
    start = geometry.shape[0] // 2 - 5
    slab = convmat.conv_matrix(np.ones((3, 3)), (10**6, 10**6), **options, rows=slice(start, start + 12))
    columns = np.unique(slab.indices)
    edges = [0, *columns[::3].tolist(), geometry.shape[1]]
    cells = entries_in_cells(geometry, range(start, start + 13), edges)
    for row in range(12):
        found = slab.indices[slab.indptr[row] : slab.indptr[row + 1]]
        assert np.array_equal(np.histogram(found, bins=[*edges[:-1], math.inf])[0], cells[row])
