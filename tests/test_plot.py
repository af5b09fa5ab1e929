"""What the pictures show: facts about what is drawn, checked against the explicit matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convmat import Conv1d, Conv2d, Conv3d, ConvTranspose2d, Pad
from convmat.plot import pattern
from convmat.plot.scene import BORDER, COPY, CROPPED, HOLE, SAMPLE, Scene
from convmat.taps import ZERO
from tests.strategies import layers, transposed_layers

FLAT = (1, 2)
"""Numbers of axes whose arithmetic can be drawn."""


def channels_of(A, data):
    """An output and an input channel of one group."""
    g = A.geometry
    if not g.channels:
        return None
    o, c = data.draw(st.integers(0, g.out_channels - 1)), data.draw(st.integers(0, g.in_channels // g.groups - 1))
    c += o // (g.out_channels // g.groups) * (g.in_channels // g.groups)
    return (o, c) if A.input_shape == g.input_shape and not hasattr(A, "output_padding") else (c, o)


def row_of(step, scene, columns):
    """The part of a row of the matrix that is drawn."""
    row = np.zeros(columns, dtype=scene.weights.dtype)
    read = step.samples != ZERO
    np.add.at(row, step.columns, scene.weights.reshape(-1)[step.taps[read]])
    return row


def block(A, scene):
    """The rows and columns of the channels that are drawn; the other columns are zero."""
    o, c = scene.channels
    ins, outs = (int(np.prod(size)) for size in scene.sizes)
    matrix = A.toarray()[o * outs : (o + 1) * outs]
    kept = np.zeros_like(matrix)
    kept[:, c * ins : (c + 1) * ins] = matrix[:, c * ins : (c + 1) * ins]
    return kept


def assert_rows_are_drawn(A, scene):
    matrix = block(A, scene)
    steps = [scene.step(place) for place in scene.places()]
    assert [step.row for step in steps] == list(range(steps[0].row, steps[0].row + len(matrix)))
    for step, row in zip(steps, matrix, strict=True):
        np.testing.assert_array_equal(row_of(step, scene, A.shape[1]), row)
    stored = A.tosparse()
    columns = slice(scene.channels[1] * matrix.shape[1], None)
    del columns
    ins = int(np.prod(scene.sizes[0]))
    for step in steps:
        found = stored[[step.row]].indices
        mine = found[(found >= scene.channels[1] * ins) & (found < (scene.channels[1] + 1) * ins)]
        assert sorted(set(step.columns.tolist())) == mine.tolist()


@settings(max_examples=150, deadline=None)
@given(layers(FLAT), st.data())
def test_cells_that_an_output_reads_are_the_nonzeros_of_its_row(layer, data):
    A = layer.operator()
    assert_rows_are_drawn(A, Scene.of(A, channels_of(A, data)))


@settings(max_examples=150, deadline=None)
@given(layers(FLAT), st.data())
def test_cells_that_an_output_of_the_transpose_reads_are_the_nonzeros_of_its_row(layer, data):
    A = layer.operator()
    asked = channels_of(A, data)
    assert_rows_are_drawn(A.T, Scene.of(A.T, asked and asked[::-1]))
