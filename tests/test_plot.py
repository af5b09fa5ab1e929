"""What the pictures show: facts about what is drawn, checked against the explicit matrix."""

import itertools
import sys
import tracemalloc

import matplotlib
import matplotlib.animation
import matplotlib.style
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

import convmat
from convmat import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, block_diag, hstack, identity, plot, vstack
from convmat.operators import Diagonal, ImageOperator, Pad, Separable
from convmat.plot import layout, pattern
from convmat.plot.curves import Spectrum
from convmat.plot.movie import plan
from convmat.plot.scene import BORDER, COMBINED, COPY, CROPPED, HOLE, SAMPLE, Scene
from convmat.plot.style import Theme, tap_colours, text_on
from convmat.taps import ZERO
from tests import oracle
from tests.strategies import integers, layers, tries
from tests.trees import Trees

FLAT = (1, 2)
"""Numbers of axes whose arithmetic can be drawn."""


def normal(shape):
    return np.random.default_rng(0).standard_normal(shape)


def chosen(A, data):
    """Output and input channel of a convolution, in one group."""
    g = A.geometry
    if not g.channels:
        return None
    o, i = data.draw(st.integers(0, g.out_channels - 1)), data.draw(st.integers(0, g.in_channels // g.groups - 1))
    return o, o // (g.out_channels // g.groups) * (g.in_channels // g.groups) + i


def block(A, scene):
    """The rows of the output channel that is drawn, and the slice of the columns of the input channel."""
    (o, c), (ins, outs) = scene.channels, (int(np.prod(size)) for size in scene.sizes)
    return slice(o * outs, (o + 1) * outs), slice(c * ins, (c + 1) * ins)


def assert_steps_are_rows(A, scene):
    """The weights of the taps at the samples that they read add up to the row; the stored entries are what is read.

    Where a cell of the border is a sum of samples, these have factors, and only what is read is compared.
    """
    rows, columns = block(A, scene)
    stored, dense = A.tosparse()[rows].tocsr(), A.toarray()
    steps = [scene.step(place) for place in scene.places()]
    assert [step.row for step in steps] == list(range(rows.start, rows.stop))
    for m, step in enumerate(steps):
        read = step.samples != ZERO
        if not A.geometry.combines:
            drawn = np.zeros(A.shape[1], dtype=A.dtype)
            np.add.at(drawn, step.columns, scene.weights.reshape(-1)[step.taps[read]])
            np.testing.assert_array_equal(drawn[columns], dense[step.row, columns])
        assert set(step.columns.tolist()) <= set(range(columns.start, columns.stop))
        entries = stored.indices[stored.indptr[m] : stored.indptr[m + 1]]
        assert sorted(set(step.columns.tolist())) == [n for n in entries if columns.start <= n < columns.stop]


@tries(150, deadline=None)
@given(layers(FLAT), st.data())
def test_what_an_output_reads_is_its_row_of_the_matrix(layer, data):
    A = layer.operator()
    assert_steps_are_rows(A, Scene.of(A, chosen(A, data)))


@tries(150, deadline=None)
@given(layers(FLAT), st.data())
def test_what_an_output_of_the_transpose_reads_is_its_row_of_the_matrix(layer, data):
    A = layer.operator()
    channels = chosen(A, data)
    assert_steps_are_rows(A.T, Scene.of(A.T, channels and channels[::-1]))


@tries(150, deadline=None)
@given(layers(FLAT, dtypes=("int64",)), st.data(), st.booleans())
def test_sliding_the_drawn_kernel_over_the_drawn_input_is_the_operator(layer, data, transposed):
    """By the picture alone: the cells filled with samples and zeros, the kernel as it is drawn, one window per cell."""
    A = layer.operator()
    assume(not A.geometry.combines)  # a cell that is a sum of samples shows none of them
    channels = chosen(A, data)
    if transposed:
        A, channels = A.T, channels and channels[::-1]
    scene = Scene.of(A, channels)
    rows, columns = block(A, scene)
    x = integers(layer.rng(), A.shape[1])
    kept = np.zeros_like(x)
    kept[columns] = x[columns]
    picture = np.where(scene.input.samples == ZERO, 0, kept[columns][scene.input.samples])
    kernel = scene.weights.reshape(-1)[scene.kernel]
    y = [
        sum(
            np.sum(kernel * picture[np.ix_(np.unique(window[:, 0]), np.unique(window[:, 1]))])
            for window in scene.step(place).cells.reshape(-1, kernel.size, 2)
        )
        for place in scene.places()
    ]
    np.testing.assert_array_equal(y, (A @ kept)[rows])


def test_zero_filled_input_is_the_upsampled_input_within_the_border_of_the_guide():
    B = ConvTranspose2d(normal((3, 3)), (3, 3), stride=2, padding=1, output_padding=1)
    samples, kinds = Scene.of(B).input.samples, Scene.of(B).input.kinds
    y = np.arange(1.0, 10.0)
    upsampled = convmat.Upsample((3, 3), 2, output_size=(5, 5)).apply(y.reshape(3, 3))
    expected = np.pad(upsampled, ((1, 2), (1, 2)))  # d (K - 1) - p = 1 zeros around, and output_padding more at the end
    np.testing.assert_array_equal(np.where(samples == ZERO, 0, y[samples]), expected)
    assert set(kinds[1:-2, 1:-2].reshape(-1)) == {SAMPLE, HOLE}
    assert set(kinds[0]) | set(kinds[:, 0]) | set(kinds[-2:].reshape(-1)) == {BORDER}


@pytest.mark.parametrize("mode", oracle.COPYING)
def test_padding_cells_show_the_sample_that_they_copy(mode):
    grid = Scene.of(Conv2d(np.ones((3, 3)), (4, 5), padding=((2, 1), (0, 3)), padding_mode=mode)).input
    words = {"replicate": "edge", "circular": "wrap", "zeros": "constant"}
    options = {"constant_values": ZERO} if mode == "zeros" else {}
    expected = np.pad(np.arange(20).reshape(4, 5), ((2, 1), (0, 3)), mode=words.get(mode, mode), **options)
    np.testing.assert_array_equal(grid.samples, expected)
    inside = np.pad(np.ones((4, 5), dtype=bool), ((2, 1), (0, 3)))
    assert set(grid.kinds[inside]) == {SAMPLE}
    assert set(grid.kinds[~inside]) == {BORDER if mode == "zeros" else COPY}


def test_negative_padding_leaves_cells_crossed_out():
    kinds = Scene.of(Conv1d(np.ones(2), 6, padding=((-2, 1),))).input.kinds
    assert kinds.tolist() == [[CROPPED, CROPPED, SAMPLE, SAMPLE, SAMPLE, SAMPLE, BORDER]]


def test_border_of_the_transpose_shows_the_samples_onto_which_it_is_folded():
    scene = Scene.of(Conv1d(np.ones(3), 5, padding=2, padding_mode="reflect").T)
    assert scene.output.samples.tolist() == [[2, 1, 0, 1, 2, 3, 4, 3, 2]]
    assert scene.step(2).targets.tolist() == [[0, 4], [0, 0], [0, 8]]


def binned(matrix, height, width):
    """The number of stored entries in each bin, one by one."""
    coo = matrix.tocoo()
    bins = np.zeros((height, width), dtype=np.int64)
    ends = [
        [size * (b + 1) // count for b in range(count)] for size, count in zip(matrix.shape, bins.shape, strict=True)
    ]
    for row, col in zip(coo.row, coo.col, strict=True):
        bins[np.searchsorted(ends[0], row, side="right"), np.searchsorted(ends[1], col, side="right")] += 1
    return bins


@tries(150, deadline=None)
@given(layers(), st.data(), st.booleans())
def test_counts_per_bin_are_those_of_the_explicit_matrix(layer, data, transposed):
    A = layer.operator().T if transposed else layer.operator()
    height, width = (data.draw(st.integers(1, size)) for size in A.shape)
    np.testing.assert_array_equal(pattern.counts(A, height, width), binned(A.tosparse(), height, width))


def test_counts_of_a_matrix_that_would_not_fit_in_memory():
    A = Conv2d(np.ones((512, 512, 3, 3), dtype=np.float32), (1024, 1024), padding=1)
    found = pattern.counts(A, 300, 200)
    assert found.sum() == A.nnz > 2**40
    assert found.min() > 0  # every bin holds whole channels


@tries(60, deadline=None)
@given(layers(), st.booleans())
def test_overlap_is_the_number_of_entries_in_each_column(layer, transposed):
    A = layer.operator()
    columns = np.diff(A.tosparse("csc").indptr)
    np.testing.assert_array_equal(pattern.overlaps(A.T if transposed else A).reshape(-1), columns)


@tries(100, deadline=None)
@given(layers(), st.booleans())
def test_entries_and_their_taps_rebuild_the_matrix(layer, transposed):
    A = layer.operator()
    geometry, found = A.geometry, pattern.reads(A.T if transposed else A)
    rows, cols = (found.cols, found.rows) if transposed else (found.rows, found.cols)
    weight = layer.weight.reshape(geometry.out_channels, geometry.in_channels // geometry.groups, -1)
    o, c = rows // np.prod(geometry.output_size), cols // np.prod(geometry.input_size)
    matrix = np.zeros(A.shape, dtype=A.dtype)
    np.add.at(matrix, (rows, cols), weight[o, c % weight.shape[1], found.taps] * found.factors)
    np.testing.assert_array_equal(matrix, A.toarray())
    picture = found.picture()
    stored = (A.T if transposed else A).tosparse()
    stored.data = np.ones(stored.nnz)
    np.testing.assert_array_equal(picture != ZERO, stored.toarray() != 0)
    assert {place for place, taps in found.entries().items() if len(taps) > 1 or taps[0][1] != 1} == {
        (int(row), int(col)) for row, col in np.argwhere(picture == pattern.SEVERAL)
    }


def test_cells_and_entries_that_are_sums_of_samples_and_taps_say_so():
    A = Conv1d([1.0, 2.0], 3, padding=1, padding_mode="antireflect")  # 2 x[0] - x[1], x[0], x[1], x[2], 2 x[2] - x[1]
    assert Scene.of(A).input.samples.tolist() == [[COMBINED, 0, 1, 2, COMBINED]]
    assert Scene.of(A).input.kinds.tolist() == [[COPY, SAMPLE, SAMPLE, SAMPLE, COPY]]
    assert sorted(set(Scene.of(A).step(0).columns.tolist())) == [0, 1]
    assert Scene.of(A.T).step(1).targets.tolist() == [[0, 2], [0, 0], [0, 4]]
    assert "1 sample, 1 sum of samples" in plot.arithmetic(A, 0).texts[-1].get_text()
    labels = [text.get_text() for text in plot.matrix(A, labels="taps").axes.texts]
    assert labels == ["2a+b", "-a", "a", "b", "a", "b", "-b", "a+2b"]


@pytest.mark.parametrize("transposed", [False, True])
def test_taps_of_a_weight_operator_are_those_of_the_weights_in_its_columns(transposed):
    A = Conv2d(normal((2, 2, 2, 2)), (4, 4))
    A = A.T if transposed else A
    J = A.weight_operator(normal(A.input_shape))
    stored = J.tosparse()
    tap_of_column = np.tile(np.arange(4), 4)
    expected = np.where(stored.toarray() != 0, tap_of_column, ZERO)
    np.testing.assert_array_equal(pattern.reads(J).picture(), expected)
    np.testing.assert_array_equal(pattern.counts(J, 5, 3), binned(stored, 5, 3))


DX, DY = Conv2d([[1.0, -1.0]], (4, 5)), Conv2d([[1.0], [-1.0]], (4, 5))
"""Differences along the rows and down the columns: to images of 4 x 4 and of 3 x 5."""


class Reversed(ImageOperator):
    """A class of a user, which has no matrix of its own."""

    def __init__(self, size):
        super().__init__(np.dtype(np.float64), (size,), (size,))

    def _forward(self, x):
        return x[:, ::-1]

    _backward = _forward


def tree(seed):
    """A random expression whose entries are not taps, and its dense matrix."""
    A, dense = Trees(seed).tree(3, (4, 3))
    return A + 0 * A, dense


@pytest.mark.parametrize("seed", range(25))
def test_small_matrices_are_drawn_by_the_values_of_their_entries(seed):
    A, dense = tree(seed)
    image = plot.matrix(A, Figure().add_subplot(), labels="none")
    assert image.axes.get_title() == f"Sum: {dense.shape[0]} x {dense.shape[1]}, {A.tosparse().nnz} entries"
    expected = abs(dense) if A.dtype.kind == "c" else dense
    np.testing.assert_allclose(image.get_array().filled(0), expected, rtol=1e-5, atol=1e-5 * (1 + abs(dense).max()))


def test_values_are_coloured_around_zero_and_written_in_the_cells():
    both = plot.matrix(Diagonal([1.0, -3.0, -0.0], 3))
    assert both.get_clim() == (-3, 3)
    assert [text.get_text() for text in both.axes.texts] == ["1", "-3", "0"]
    assert [plot.matrix(Diagonal(values, 2)).get_clim() for values in ([1.0, 3.0], [-1.0, -3.0], [0.0, 0.0])] == [
        (0, 3),
        (-3, 0),
        (0, 1),
    ]
    modulus = plot.matrix(Diagonal([3 + 4j], 1), labels="weights")
    assert modulus.get_array().tolist() == [[5.0]]
    assert [text.get_text() for text in modulus.axes.texts] == ["3+4j"]


def test_an_operator_of_another_class_is_drawn_by_its_dense_matrix():
    np.testing.assert_array_equal(plot.matrix(Reversed(5)).get_array().filled(0), np.eye(5)[::-1])
    np.testing.assert_array_equal(plot.overlap(Reversed(5) @ Conv1d([1.0, 1.0], 6)).get_array(), [[1, 2, 2, 2, 2, 1]])


def ruled(A):
    """Width of a line -> the rows before which such lines are, and the columns."""
    ax = plot.matrix(A, legend=False).axes
    found = {}
    for lines in ax.collections:
        for (x0, y0), (x1, _) in lines.get_segments():
            rows, columns = found.setdefault(round(float(lines.get_linewidth()[0]), 1), ([], []))
            (columns if x0 == x1 else rows).append(float(x0 if x0 == x1 else y0) + 0.5)
    return found


def test_the_thickest_lines_are_between_blocks_of_stacks_each_with_the_rows_of_its_images():
    lines = ruled(vstack([DX, DY]))
    assert lines[2.4] == ([16], [])
    assert lines[0.7] == ([4, 8, 12, 21, 26], [5, 10, 15])
    assert ruled(block_diag([DX, DY]).T)[2.4] == ([20], [16])
    assert ruled(2 * vstack([hstack([DX, -DX]), 3 * hstack([DX, DX])]))[2.4] == ([16], [20])


def test_thick_lines_are_between_the_channels_of_three_axes_or_more():
    assert ruled(identity((2, 3, 4)))[1.6] == ([12], [12])
    assert ruled(Conv1d(np.ones((2, 3, 2)), 4) + Conv1d(np.ones((2, 3, 2)), 4))[0.7] == ([3], [4, 8])


COUNTED = {
    "multiple": 2 * DX,
    "stack": vstack([DX, 2 * DY, vstack([DX, Diagonal(2.0, (4, 5))])]),
    "stack beside": hstack([DX.T, DY.T]),
    "blocks": block_diag([DX, DY.T, Pad((4, 5), 2, padding_mode="reflect")]),
    "blocks of stacks": block_diag([vstack([DX, DX]), hstack([DY, DY])]),
    "diagonal": identity((4, 5)),
    "pad": Pad((4, 5), 2, padding_mode="circular"),
    "crop": Pad((4, 5), ((1, -1), (2, 3))).T,
    "downsample": convmat.Downsample((7, 5), (2, 3), channels=2),
    "upsample": convmat.Downsample((7, 5), (2, 3), channels=2).T,
}


@pytest.mark.parametrize("name", COUNTED)
@tries(20, deadline=None)
@given(data=st.data())
def test_entries_are_counted_from_parts_as_in_the_explicit_matrix(name, data):
    A = COUNTED[name]
    height, width = (data.draw(st.integers(1, size)) for size in A.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageOperator, "_small", lambda self: False)  # no part is counted in its matrix
        found = A._cells(pattern.edges(A.shape[0], height).tolist(), pattern.edges(A.shape[1], width).tolist())
    np.testing.assert_array_equal(found, binned(A.tosparse(), height, width))
    np.testing.assert_array_equal(pattern.counts(A, height, width), found)


@pytest.mark.parametrize("seed", range(25))
def test_counts_of_random_expressions_are_those_of_the_explicit_matrix(seed):
    A, _ = tree(seed)
    height, width = (1 + seed % size for size in A.shape)
    np.testing.assert_array_equal(pattern.counts(A, height, width), binned(A.tosparse(), height, width))


def test_a_stack_that_would_not_fit_in_memory_is_drawn_as_counts():
    size = (10**6, 10**6)
    A = vstack([Conv2d([[1.0, -1.0]], size), 3 * Conv2d([[1.0], [-1.0]], size), identity(size)])
    image = plot.matrix(A, Figure().add_subplot(), resolution=100)
    assert image.get_array().sum() == sum(part.nnz for part in (A.parts()[0], A.parts()[1].of, A.parts()[2]))


def test_a_large_matrix_that_cannot_be_counted_is_built():
    A = DX.T @ DX
    image = plot.matrix(A, resolution=10)
    np.testing.assert_array_equal(image.get_array().filled(0), binned(A.tosparse(), 10, 10))


def test_stacks_of_stacks_of_the_same_parts_are_not_walked_part_by_part():
    """2^40 blocks: counting them, or ruling between them, would not end."""
    A = Conv1d([1.0], 1)
    for _ in range(20):
        A = vstack([hstack([A, A]), 2 * hstack([A, A])])
    assert A._cells([0, A.shape[0]], [0, A.shape[1]]) is None
    assert pattern.blocks(A) == [(A, (0, 0))]


@pytest.mark.parametrize("seed", range(25))
def test_overlap_of_other_operators_is_the_number_of_entries_in_each_column(seed):
    A, _ = tree(seed)
    drawn = plot.overlap(A, Figure().add_subplot()).get_array()
    counts = np.diff(A.tosparse("csc").indptr).reshape(A.input_shape)
    np.testing.assert_array_equal(drawn, np.hstack(list(counts)) if counts.ndim == 3 else np.atleast_2d(counts))


@pytest.mark.parametrize("seed", range(8))
def test_spectrum_of_other_operators_is_that_of_their_dense_matrix(seed):
    A, dense = tree(seed)
    truth = np.linalg.svd(dense, compute_uv=False)
    ax, found = plot.spectrum(A, Figure().add_subplot()), Spectrum.of(A)
    assert ax.get_title() == f"Sum: {dense.shape[0]} x {dense.shape[1]}"
    np.testing.assert_allclose(ax.lines[0].get_ydata(), truth[: truth.size - found.zeros], atol=1e-5 * truth[0])
    assert found.bounds[0] <= truth[0] * (1 + 1e-5)
    assert truth[0] <= found.bounds[1] * (1 + 1e-5)


@pytest.mark.parametrize("transpose", ["side-by-side", "only", "none"])
def test_frame_i_is_row_i(transpose):
    A = Conv2d(normal((3, 2, 3, 3)), (5, 5), stride=2, padding=1)
    operator, scene, steps = plan(A, transpose, (2, 1))
    shown = A.T if transpose == "only" else A
    assert operator is shown
    assert scene.channels == ((1, 2) if transpose == "only" else (2, 1))
    count = 25 if transpose == "only" else 9
    assert [step.row for step in steps] == list(range(scene.channels[0] * count, (scene.channels[0] + 1) * count))


@pytest.mark.parametrize(("suffix", "kind"), [(".gif", "GIF"), (".png", "PNG"), (".apng", "PNG"), (".GIF", "GIF")])
def test_animation_has_a_frame_per_output_and_tells_its_progress(suffix, kind, tmp_path):
    told = []
    A = Conv2d(np.ones((3, 3)), (4, 5))
    path = plot.animate(A, tmp_path / "new" / f"a{suffix}", fps=4, dpi=50, progress=lambda *done: told.append(done))
    assert told == [(i, 6) for i in range(1, 7)]
    with Image.open(path) as image:
        assert (image.format, image.n_frames) == (kind, 6)
        frames = []
        for number in range(6):
            image.seek(number)
            assert image.info["duration"] == 250
            frames.append(image.convert("RGB").tobytes())
    assert len(set(frames)) == 6


def test_animation_frames_the_row_and_the_column_of_the_transpose(tmp_path, monkeypatch):
    framed = []
    drawn = plot.movie._frame
    monkeypatch.setattr(plot.movie, "_frame", lambda *args: framed.append(drawn(*args)) or framed[-1])
    plot.animate(Conv1d([1.0, 2.0], 4), tmp_path / "a.gif", dpi=40)
    assert [patch.get_bbox().bounds for patch in framed] == [
        bounds for i in range(3) for bounds in ((-0.5, i - 0.5, 4, 1), (i - 0.5, -0.5, 1, 4))
    ]


@pytest.mark.skipif(not matplotlib.animation.FFMpegWriter.isAvailable(), reason="needs ffmpeg")
def test_film_is_written(tmp_path):
    path = plot.animate(Conv1d([1.0, 2.0], 4), tmp_path / "a.mp4", dpi=50)
    assert path.read_bytes()[4:8] == b"ftyp"


def test_film_without_ffmpeg_is_refused_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(matplotlib.animation.FFMpegWriter, "isAvailable", classmethod(lambda cls: False))
    with pytest.raises(RuntimeError, match=r"an MP4 needs the program ffmpeg.*write a \.gif"):
        plot.animate(Conv1d([1.0, 2.0], 4), tmp_path / "new" / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_arithmetic_colours_the_cells_of_the_step_and_no_others():
    A = Conv2d(normal((3, 3)), (5, 5), stride=2, padding=1)
    figure = plot.arithmetic(A, (0, 2), title="corner")
    step = Scene.of(A).step((0, 2))
    source, kernel, output = figure.axes
    drawn = {(round(p.get_y() + 0.5), round(p.get_x() + 0.5)): p.get_facecolor()[:3] for p in source.patches}
    colours = tap_colours(9)
    assert drawn == {cell: colours(taps[0])[:3] for cell, taps in step.by_cell().items()}
    assert [(p.get_y() + 0.5, p.get_x() + 0.5) for p in output.patches] == [(0, 2)]
    assert len(kernel.patches) == 9
    assert figure.texts[0].get_text() == "corner"
    assert figure.texts[1].get_text() == "row 2, output [0, 2]: reads 4 samples and 5 zeros"


def test_arithmetic_draws_on_the_figure_or_subfigure_that_is_given():
    A = Conv1d([1.0, 2.0], 4)
    figure = Figure(figsize=(8, 6))
    left, right = figure.subfigures(1, 2)
    assert plot.arithmetic(A, 0, figure=left) is left
    assert plot.arithmetic(A.T, 0, figure=right) is right
    assert len(figure.axes) == 6
    figure.canvas.draw()


@tries(60, deadline=None)
@given(layers(FLAT), st.floats(0.5, 14), st.floats(0.5, 10))
def test_grids_have_cells_of_one_size_and_do_not_overlap(layer, width, height):
    A = layer.operator()
    scene = Scene.of(A, (0, 0) if A.geometry.channels else None)
    found = layout.fit(scene, width, height)
    for (_, _, w, h), grid in zip(found.boxes, (scene.input, scene.kernel, scene.output), strict=True):
        np.testing.assert_allclose((h, w), found.cell * np.array(grid.shape))
    for (x1, y1, w1, _), (x2, y2, _, h2) in zip(found.boxes[:-1], found.boxes[1:], strict=True):
        assert x1 + w1 < x2 or y2 + h2 < y1
    if found.cell > 0.01:
        assert found.width <= width * (1 + 1e-9)
        assert found.height <= height * (1 + 1e-9)


def test_matrix_draws_entries_or_counts_by_its_size():
    A = Conv2d(normal((2, 1, 3, 3)), (20, 20), padding=1)
    small, large = plot.matrix(A, resolution=800), plot.matrix(A, resolution=799)
    np.testing.assert_array_equal(small.get_array().filled(ZERO), pattern.reads(A).picture())
    np.testing.assert_array_equal(large.get_array().filled(0), binned(A.tosparse(), *large.get_array().shape))
    assert large.get_extent() == [-0.5, 399.5, 799.5, -0.5]
    assert small.axes.get_title() == large.axes.get_title() == f"Conv2d: 800 x 400, {A.nnz} entries"


def test_matrix_writes_the_tap_or_the_weight_in_its_cells():
    A = Conv1d([1.0, 2.0, 3.0], 4, padding=1, padding_mode="reflect")
    words = {"taps": ["b", "ac", "a", "b", "c", "a", "b", "c", "ac", "b"], "none": []}
    words["weights"] = [f"{value:.2g}" for value in A.tosparse().data]
    for labels, expected in words.items():
        assert [text.get_text() for text in plot.matrix(A, labels=labels, legend=False).axes.texts] == expected


def test_matrix_rules_channels_and_image_rows():
    ax = plot.matrix(Conv2d(np.ones((2, 3, 1, 1)), (3, 4)), legend=False).axes
    lines = {(round(float(x0), 1), round(float(y0), 1)) for c in ax.collections for (x0, y0), _ in c.get_segments()}
    down = {x for x, y in lines if y == -0.5}
    across = {y for x, y in lines if x == -0.5}
    assert {4 * n - 0.5 for n in range(1, 9)} <= down
    assert {4 * n - 0.5 for n in range(1, 6)} <= across
    thick = [c for c in ax.collections if c.get_linewidth()[0] == 1.6]
    assert sorted(len(c.get_segments()) for c in thick) == [1, 2]


def test_pictures_are_drawn_on_the_axes_that_are_given():
    A = Conv2d(normal((3, 3)), (6, 6))
    for draw in (plot.matrix, plot.overlap):
        ax = Figure().add_subplot()
        assert draw(A, ax, title="name").axes is ax
        assert ax.get_title() == "name"
    ax = Figure().add_subplot()
    assert plot.spectrum(A, ax, title="name") is ax
    assert ax.get_title() == "name"


def test_overlap_draws_planes_side_by_side_and_writes_counts():
    image = plot.overlap(Conv3d(np.ones((4, 2, 2, 2, 2)), (2, 3, 4)))
    counts = image.get_array()
    assert counts.shape == (3, 8)
    assert sum(counts.ravel()) == 4 * 8 * 1 * 2 * 3
    assert [int(text.get_text()) for text in image.axes.texts] == counts.ravel().tolist()
    assert len(plot.overlap(ConvTranspose1d(np.ones(3), 30, stride=2)).axes.texts) == 0


def test_spectrum_draws_the_singular_values_and_counts_zeros():
    A = Conv1d([1.0, -1.0], 12, padding=((0, 1),), padding_mode="circular")
    ax = plot.spectrum(A)
    truth = np.linalg.svd(A.toarray(), compute_uv=False)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), truth[:11], rtol=1e-9)
    assert ax.get_yscale() == "log"
    assert "1 of 12 are zero" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_spectrum_without_structure_draws_the_bounds_of_the_norm():
    A = Conv2d(normal((40, 40, 3, 3)), (24, 24), padding=1)
    found = Spectrum.of(A)
    assert found.values is None
    assert 0 < found.bounds[0] <= found.bounds[1]
    ax = plot.spectrum(A)
    assert len(ax.lines) == 0
    assert ax.texts[0].get_text() == "no structure of A gives its singular values"


def test_spectrum_of_zero():
    assert [text.get_text() for text in plot.spectrum(Conv1d([0.0, 0.0], 5)).get_legend().get_texts()] == [
        "norm 0",
        "4 of 4 are zero",
    ]


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_pictures_follow_the_style(style, tmp_path):
    A = Conv2d(normal((3, 3)), (5, 5), padding=1)
    with matplotlib.style.context(style):
        paper, ink = to_rgb(matplotlib.rcParams["figure.facecolor"]), to_rgb(matplotlib.rcParams["text.color"])
        figures = [plot.matrix(A).figure, plot.arithmetic(A, (0, 0)), plot.overlap(A).figure, plot.spectrum(A).figure]
        plot.animate(Conv1d([1.0], 2), tmp_path / "a.gif", dpi=40)
    for number, figure in enumerate(figures):
        assert Theme.of(figure).paper == paper
        assert to_rgb(figure.axes[0].title.get_color()) == ink
        with Image.open(plot.save(figure, tmp_path / f"{number}.png", dpi=40)) as image:
            assert image.convert("RGB").getpixel((0, 0)) == tuple(round(255 * p) for p in paper)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.convert("RGB").getpixel((0, 0)) == tuple(round(255 * p) for p in paper)


def test_numbers_can_be_read_on_every_tap():
    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    for count in (1, 9, 25):
        for tap in range(-1, count):
            colour = tap_colours(count)(tap)
            low, high = sorted([luminance(colour), luminance(text_on(colour))])
            assert (high + 0.05) / (low + 0.05) > 3  # the least contrast that WCAG asks for


def drawn_words(ax):
    """The words on axes and on those inside them, and their boxes, once drawn."""
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        labels = [label for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high
                  for label in (tick.label1, tick.label2)]  # fmt: skip
        yield from ((text.get_text(), text.get_window_extent()) for text in [axis.label, *labels] if text.get_visible())
    outside = [text for text in ax.texts if not text.get_clip_on()]
    legend = [ax.get_legend()] if ax.get_legend() else []
    yield from ((text.get_text(), text.get_window_extent()) for text in [ax.title, *outside])
    yield from (("legend", box.get_window_extent()) for box in legend)
    for inner in ax.child_axes:
        yield from drawn_words(inner)


def collisions(figure):
    """Pairs of words that run into each other, by more than a pixel."""
    figure.draw_without_rendering()
    inner = {inset for ax in figure.axes for inset in ax.child_axes}
    words = [(t, box) for ax in figure.axes if ax not in inner for t, box in drawn_words(ax) if t]
    return [
        (t, u)
        for (t, a), (u, b) in itertools.combinations(words, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]


SHAPES = {
    "wide": Conv2d(np.ones((3, 3)), (5, 5), stride=2, padding=1),
    "tall": Conv2d(np.ones((3, 3)), (5, 5), stride=2, padding=1).T,
    "channels": Conv2d(np.ones((3, 2, 3, 3)), (5, 5), stride=2, padding=1),
    "sums": Conv1d([1.0, 2.0, 3.0], 12, padding=2, padding_mode="reflect"),
    "large": Conv2d(np.ones((2, 1, 3, 3)), (30, 30), padding=1),
    "large and wide": Conv1d(np.ones(3), 1000, stride=2),
    "large and tall": Conv2d(np.ones((3, 3)), (60, 20)),
    "planes": Conv3d(np.ones((2, 2, 2)), (3, 3, 3)),
    "stack": vstack([DX, DY]),
    "sum of channels": 0.25 * Conv2d(normal((2, 2, 3, 3)), (4, 5), padding=1) + identity((2, 4, 5)),
    "complex": Diagonal(normal(6) + 1j, 6),
    "large stack": vstack([Conv2d([[1.0, -1.0]], (30, 30)), Conv2d([[1.0], [-1.0]], (30, 30))]),
    "many planes": Separable((12, 9, 3), [None, np.tri(9), None]),
}


@pytest.mark.parametrize("draw", [plot.matrix, plot.overlap, plot.spectrum])
@pytest.mark.parametrize("shape", SHAPES)
def test_words_do_not_run_into_each_other(draw, shape):
    """On a figure of the function's own, on narrow axes, and on narrow axes side by side."""
    own = draw(SHAPES[shape]).figure
    alone = Figure(figsize=(7, 3))
    draw(SHAPES[shape], alone.add_axes((0.4, 0.25, 0.23, 0.5)))
    beside = Figure(figsize=(7, 3), layout="constrained")
    for ax in beside.subplots(1, 3):
        draw(SHAPES[shape], ax)
    assert [collisions(figure) for figure in (own, alone, beside)] == [[], [], []]


def test_titles_of_narrow_images_do_not_run_into_each_other():
    figure = Figure(figsize=(3, 2), layout="constrained")
    images = {"blurred, stride 2": np.eye(4), "deblurred: 22.3 dB": np.eye(4), "x": np.eye(4)}
    assert collisions(plot.image_pair(images, title="T", figure=figure)) == []
    assert [ax.get_title() for ax in figure.axes] == ["blurred,\nstride 2", "deblurred:\n22.3 dB", "x"]


def test_numbers_of_a_dense_matrix_do_not_run_into_each_other():
    ax = Figure(figsize=(3, 2), layout="constrained").add_subplot()
    plot.cells(-np.random.default_rng(0).random((5, 6)), ax=ax)
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_titles_that_are_given_are_left_as_they_are():
    title = "kernel: 3 x 3, in a title that is longer than the axes are wide"
    for draw in (plot.matrix, plot.overlap):
        drawn = draw(A2, Figure(figsize=(2, 2)).add_subplot(), title=title).axes.title
        assert (drawn.get_text(), drawn.get_fontsize()) == (title, 11)


def test_grids_of_the_arithmetic_stand_below_each_other_where_that_makes_them_readable():
    scene = Scene.of(A2)
    below, beside = layout.fit(scene, 3, 4.5), layout.fit(scene, 7, 3)
    assert len({bottom for _, bottom, _, _ in below.boxes}) == len({left for left, _, _, _ in beside.boxes}) == 3
    assert len({left for left, _, _, _ in below.boxes}) == 1
    assert below.cell >= 0.22


HUGE = Conv2d(np.ones((1000, 1, 3, 3)), (2000, 2000))
"""A matrix of 3.6 10^10 entries."""


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (MemoryError, "200000 x 200000 counts needs .* a smaller input_size",
         lambda: plot.overlap(Conv2d(np.ones((3, 3)), (200000, 200000)))),
        (MemoryError, "1000000000000 counts needs .* a smaller input_size",
         lambda: plot.overlap(Conv1d(np.ones(3), 10**12).T)),
        (MemoryError, "5000000 counts needs .* a smaller input_size",  # a border of 10^12 reads
         lambda: plot.overlap(Conv1d(np.ones(1000000), 5000000))),
        (MemoryError, "40000000000 singular values needs .* a smaller input_size",
         lambda: plot.spectrum(Conv2d(np.ones((3, 3)), (200000, 200000), padding=1, padding_mode="circular"))),
        (MemoryError, "999999999998 singular values needs .* a smaller input_size",
         lambda: plot.spectrum(Conv1d(np.ones(3), 10**12).T)),
        (MemoryError, "25 frames of .* pixels needs .* a smaller dpi, .* an .mp4",
         lambda: plot.animate(Conv2d(np.ones((1, 1)), (5, 5)), "a.gif", dpi=10**5)),
        (MemoryError, "A is of type Chain, whose entries are known from its matrix alone.* smaller images",
         lambda: plot.matrix(HUGE.T @ HUGE)),
        (MemoryError, "A is of type Chain, whose entries are known from its matrix alone.* smaller images",
         lambda: plot.overlap(HUGE.T @ HUGE)),
        (ValueError, "A has a grid of 200000 cells, .* a smaller input",
         lambda: plot.animate(Conv2d(np.ones((3, 3)), (200000, 200000)), "a.gif")),
        (ValueError, "A has a grid of 200002 cells, .* a smaller input",
         lambda: plot.animate(Conv2d(np.ones((3, 3)), (200000, 200000)).T, "a.gif")),
        (ValueError, "A has a grid of 1000000000000 cells, .* a smaller input",
         lambda: plot.arithmetic(Conv1d(np.ones(3), 10**12), 0)),
    ],
)  # fmt: skip
def test_pictures_that_do_not_fit_in_memory_are_refused_before_they_are_allocated(
    error, message, call, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(error, match=message):
            call()
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert list(tmp_path.iterdir()) == []


A2, A3 = Conv2d(np.ones((3, 3)), (5, 5)), Conv3d(np.ones((2, 2, 2)), (3, 3, 3))
A4 = Conv2d(np.ones((4, 2, 3, 3)), (5, 5), groups=2)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "A is of type ndarray: it must be one of convmat's", lambda: plot.matrix(np.eye(3))),
        (TypeError, "A is of type ndarray: it must be one of convmat's", lambda: plot.overlap(np.eye(3))),
        (TypeError, "A is of type int: it must be one of convmat's", lambda: plot.arithmetic(3, 0)),
        (TypeError, "A is of type int: it must be one of convmat's", lambda: plot.animate(3, "a.gif")),
        (TypeError, "A is of type int: it must be one of convmat's", lambda: plot.spectrum(3)),
        (TypeError, "A is of type Sum: it must be one of convmat's conv", lambda: plot.arithmetic(A2 + A2, (0, 0))),
        (TypeError, "A is of type Scaled: it must be one of convmat's conv", lambda: plot.animate(2 * A2, "a.gif")),
        (ValueError, "labels='taps': the entries of a Sum are no taps", lambda: plot.matrix(A2 + A2, labels="taps")),
        (ValueError, "labels='tap' must be one of 'auto', 'taps'", lambda: plot.matrix(A2, labels="tap")),
        (ValueError, "resolution=0 must be at least 1", lambda: plot.matrix(A2, resolution=0)),
        (ValueError, "A has 3 spatial axes: its arithmetic", lambda: plot.arithmetic(A3, (0, 0, 0))),
        (ValueError, "A has 4 -> 4 channels: choose", lambda: plot.arithmetic(A4, (0, 0))),
        (ValueError, "are of different groups", lambda: plot.arithmetic(A4, (0, 0), channels=(0, 3))),
        (ValueError, r"channels=\(4, 0\) must have one entry .* in 0..3 x 0..3", lambda: Scene.of(A4, (4, 0))),
        (TypeError, r"channels=\(0, 1.0\) must be a tuple of integers", lambda: Scene.of(A4, (0, 1.0))),
        (ValueError, r"output=\(3, 0\) must .* of 2 axes, in 0..2 x 0..2", lambda: plot.arithmetic(A2, (3, 0))),
        (ValueError, "output=1 must have one entry for each of 2 axes", lambda: plot.arithmetic(A2, 1)),
        (TypeError, "output='00' must be a tuple of integers", lambda: plot.arithmetic(A2, "00")),
        (TypeError, r"output=\(True, 0\) must be a tuple of integers", lambda: plot.arithmetic(A2, (True, 0))),
        (ValueError, "A has a grid of 60 cells", lambda: plot.arithmetic(Conv1d([1.0], 60), 0)),
        (ValueError, "path='a.bmp' must end in one of .gif, .png, .apng, .mp4", lambda: plot.animate(A2, "a.bmp")),
        (ValueError, "transpose='both' must be one of", lambda: plot.animate(A2, "a.gif", transpose="both")),
        (ValueError, "fps=0 must be positive", lambda: plot.animate(A2, "a.gif", fps=0)),
    ],
)
def test_errors_name_the_argument_and_the_rule(error, message, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: plot.matrix(A2),
        lambda path: plot.arithmetic(A2, (0, 0)),
        lambda path: plot.animate(A2, path / "a.gif"),
        lambda path: plot.animate(A2, path / "a.mp4"),
        lambda path: plot.overlap(A2),
        lambda path: plot.spectrum(A2),
        lambda path: plot.image_pair({"x": np.eye(2)}),
        lambda path: plot.photo(8),
    ],
)
def test_missing_matplotlib_names_the_extra(draw, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"needs matplotlib.*pip install 'convmat\[plot\]'"):
        draw(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_pillow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"an animation needs.*pip install 'convmat\[plot\]'"):
        plot.animate(A2, tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []
