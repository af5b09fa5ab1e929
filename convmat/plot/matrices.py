"""The matrix itself: small ones entry by entry, large ones as counts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from convmat.operators import ImageOperator
from convmat.plot.notebook import shown
from convmat.plot.pattern import BLOCKS, CHANNELS, Reads, built, check_operator, counts, has_taps, reads, rules
from convmat.plot.style import (
    SUM,
    Theme,
    axes_of,
    cell_points,
    figure_of,
    fit_beside,
    scale,
    scale_of_counts,
    sheet,
    tap_colours,
    tap_names,
    text_on,
)
from convmat.taps import ZERO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

LABELS = ("auto", "taps", "weights", "none")

_LABELLED = 60
"""Rows and columns up to which cells are ruled, and labelled if there is room."""

_SMALLEST_LABEL = 4.5
"""Size of a letter, in points, below which there is no room for it."""

_LONGEST = 4
"""Sides of a matrix that is drawn in its true proportions differ by at most this factor."""


def matrix(
    A: ImageOperator,
    ax: Axes | None = None,
    *,
    labels: str = "auto",
    legend: bool = True,
    resolution: int = 400,
    title: str | None = None,
) -> AxesImage:
    """The matrix of an operator: which tap of the kernel each entry is, its value, or how many entries are where.

    Up to `resolution` rows and columns, each stored entry is a cell. Those of a convolution, its factors and weight
    operators have the colour of their tap; an entry that sums several taps, as at a border that is folded back, has a
    colour of its own. Those of all other operators have the colour of their value; if it is complex, of its modulus.

    Larger matrices are drawn as the number of entries in each of at most `resolution` x `resolution` bins. Those of
    convolutions, factors and diagonals, of their multiples and stacks are counted without the matrix, at any size; the
    sparse matrix of other large operators is built.

    Thick lines separate channels, thin ones the rows of images, the thickest the blocks of stacks.

    Parameters
    ----------
    A : ImageOperator
    ax : matplotlib.axes.Axes, optional
        Draw on these; on those of a new figure by default.
    labels : {"auto", "taps", "weights", "none"}
        What is written in the cells: the letter of the tap, the value of the entry, or nothing. "auto" writes letters,
        or values where there are no taps, if there is room.
    legend : bool
        Draw the kernel with the colours and letters of its taps, or the scale of the values or counts, beside the
        matrix.
    resolution : int
        The most rows and columns that are drawn one by one.
    title : str, optional
        By default the kind of the operator, its shape and its number of entries.

    Returns
    -------
    matplotlib.image.AxesImage

    Raises
    ------
    ImportError
        If matplotlib is missing; it names the extra.
    TypeError, ValueError
        If A is no operator of convmat's, `labels` is another word, or "taps" where there are none, or `resolution` is
        not positive.
    MemoryError
        If the matrix has to be built, and does not fit in this machine's memory.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv2d, plot
    >>> image = plot.matrix(Conv2d(np.ones((3, 3)), (5, 5), stride=2, padding=1))
    >>> image.get_array().shape
    (9, 25)
    >>> thumbnail = plot.matrix(Conv2d(np.ones((3, 3)), (1000, 1000)), resolution=200)
    >>> thumbnail.get_array().shape, int(thumbnail.get_array().sum())
    ((199, 200), 8964036)

    Two differences below each other:

    >>> from convmat import vstack
    >>> image = plot.matrix(vstack([Conv2d([[1.0, -1.0]], (4, 4)), Conv2d([[1.0], [-1.0]], (4, 4))]))
    >>> image.get_array().filled(0)[0].tolist()[:4]
    [1.0, -1.0, 0.0, 0.0]
    """
    if labels not in LABELS:
        raise ValueError(f"labels={labels!r} must be one of {', '.join(map(repr, LABELS))}")
    if resolution < 1:
        raise ValueError(f"resolution={resolution!r} must be at least 1")
    check_operator(A)
    if labels == "taps" and not has_taps(A):
        raise ValueError(f"labels='taps': the entries of a {type(A).__name__} are no taps of a kernel; write 'weights'")
    rows, cols = A.shape
    ax = axes_of(ax, *_figure_size(rows, cols))
    if max(rows, cols) > resolution:
        image, entries = _counts(A, ax, resolution, legend)
    elif has_taps(A):
        found = reads(A)
        image, entries = _taps(A, found, ax, labels, legend), len(found.entries())
    else:
        image, entries = _values(A, ax, labels, legend)
    _rule(A, ax, max(rows, cols) <= _LABELLED)
    ax.set_aspect("equal" if _in_proportion(rows, cols) else "auto")
    ax.set_xlabel(f"column: input {_x(A.input_shape)}")
    ax.set_ylabel(f"row: output {_x(A.output_shape)}")
    ax.locator_params(integer=True)
    told = f"{type(A).__name__}: {rows} x {cols}, {entries} entries" if title is None else title
    ax.set_title(told, fontsize=11, pad=8)  # clear of the label of the first row
    fit_beside(ax, ax.xaxis.label, ax.yaxis.label, *[ax.title] * (title is None))
    return shown(image)


def _taps(A: Any, found: Reads, ax: Axes, labels: str, legend: bool) -> AxesImage:
    """One cell per entry, in the colour of its tap."""
    kernel = A.geometry.kernel_size
    count = math.prod(kernel)
    picture = found.picture()
    image = ax.imshow(
        np.ma.masked_equal(picture, ZERO),
        cmap=tap_colours(count),
        vmin=-0.5,
        vmax=count - 0.5,
        interpolation_stage="rgba",  # between two taps there is no third
    )
    names = tap_names(count)
    size = _label_size(ax, picture.shape)
    if labels == "weights":
        values = A.tosparse().toarray()
        for row, col in found.entries():
            _label(ax, image, row, col, f"{values[row, col]:.2g}", picture[row, col], size)
    elif labels == "taps" or (labels == "auto" and max(picture.shape) <= _LABELLED and size >= _SMALLEST_LABEL):
        for (row, col), taps in found.entries().items():
            _label(ax, image, row, col, _sum_of(taps, names), picture[row, col], size)
    if legend:
        _legend(ax, image, sheet(np.arange(count).reshape(kernel)), names, bool((picture < ZERO).any()))
    return image


def _sum_of(taps: list[tuple[int, int]], names: list[str]) -> str:
    """The taps of an entry, side by side; with signs where one of them has a factor."""
    if all(factor == 1 for _, factor in taps):
        return "".join(names[tap] for tap, _ in taps)
    terms = (
        f"{'-' if factor < 0 else '+'}{abs(factor) if abs(factor) > 1 else ''}{names[tap]}" for tap, factor in taps
    )
    return "".join(terms).removeprefix("+")


def _values(A: ImageOperator, ax: Axes, labels: str, legend: bool) -> tuple[AxesImage, int]:
    """One cell per entry, in the colour of its value, and how many there are."""
    found = built(A)
    shades = np.abs(found.data) if found.data.dtype.kind == "c" else found.data
    values, empty = np.zeros(A.shape, shades.dtype), np.ones(A.shape, np.bool_)
    values[found.row, found.col], empty[found.row, found.col] = shades, False
    low, high = _limits(shades[np.isfinite(shades)])
    image = ax.imshow(np.ma.array(values, mask=empty), cmap="cividis", vmin=low, vmax=high, interpolation="nearest")
    words = [f"{value:.2g}" for value in found.data + 0.0]  # no -0
    size = min(11, 1.5 * cell_points(ax, A.shape) / max(map(len, words), default=1))  # a digit: 0.6 times as wide
    room = max(A.shape) <= _LABELLED and size >= _SMALLEST_LABEL
    if labels == "weights" or (labels == "auto" and room):
        for row, col, shade, word in zip(found.row, found.col, shades, words, strict=True):
            colour = text_on(image.to_rgba(shade))
            ax.text(col, row, word, ha="center", va="center_baseline", color=colour, fontsize=size, clip_on=True)
    if legend:
        scale(image, "value" if shades is found.data else "modulus")
    return image, found.nnz


def _limits(values: Any) -> tuple[float, float]:
    """What the darkest and the brightest colour stand for: 0 is one of them, or, between both signs, in the middle."""
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low < 0 < high:
        high = max(high, -low)
        low = -high
    return (low, high) if low < high else (0.0, 1.0)


def _label(ax: Axes, image: AxesImage, row: int, col: int, text: str, tap: int, size: float) -> None:
    """Write a word in a cell, smaller if it is long, and a plus where it has no room."""
    fitted = size * min(1, 1.8 / len(text))
    if len(text) > 1 and fitted < _SMALLEST_LABEL:
        text, fitted = "+", size
    colour = text_on(image.to_rgba(np.array(tap)))
    ax.text(col, row, text, ha="center", va="center_baseline", color=colour, fontsize=fitted, clip_on=True)


def _label_size(ax: Axes, shape: tuple[int, int]) -> float:
    """Points that a letter in a cell may have."""
    return min(11, 0.62 * cell_points(ax, shape))


def _legend(ax: Axes, image: AxesImage, kernel: Any, names: list[str], sums: bool) -> None:
    """The kernel beside the matrix, with the colours of its taps."""
    theme = Theme.of(figure_of(ax))
    rows, columns = kernel.shape
    tall, wide = image.get_size()
    cell = min(0.055, 0.3 / max(rows, columns)) * (max(tall, wide) if _in_proportion(tall, wide) else 1)
    tall, wide = (tall, wide) if _in_proportion(tall, wide) else (1, 1)
    inset = ax.inset_axes((1.04, 1 - cell * rows / tall, cell * columns / wide, cell * rows / tall), anchor="NW")
    inset.imshow(kernel, cmap=image.cmap, vmin=-0.5, vmax=kernel.size - 0.5)
    inset.set_xticks([])
    inset.set_yticks([])
    inset.spines[:].set_color(theme.faint(0.4))
    if max(rows, columns) <= 9:
        size = min(8, _label_size(inset, kernel.shape))
        for (row, column), tap in np.ndenumerate(kernel):
            _label(inset, image, row, column, names[tap], tap, size)
    words = {"kernel": theme.ink, "sums of taps": SUM} if sums else {"kernel": theme.ink}
    for line, (word, colour) in enumerate(words.items()):  # below, since the title is above
        place = (0, -4 - 11 * line)
        inset.annotate(
            word, (0, 0), place, "axes fraction", textcoords="offset points", va="top", fontsize=9, color=colour
        )


def _counts(A: Any, ax: Axes, resolution: int, legend: bool) -> tuple[AxesImage, int]:
    """The number of entries in bins, and in all of them."""
    rows, cols = A.shape
    ratio = min(rows, cols) / max(rows, cols)
    short = resolution if ratio * _LONGEST < 1 else max(1, round(resolution * ratio))
    height, width = min(rows, short if rows < cols else resolution), min(cols, short if cols < rows else resolution)
    found = counts(A, height, width)
    image = ax.imshow(
        np.ma.masked_equal(found, 0),
        cmap="cividis",
        vmin=0,
        extent=(-0.5, cols - 0.5, rows - 0.5, -0.5),
        interpolation_stage="rgba",
    )
    if legend:
        bins = f"{math.ceil(rows / height)} x {math.ceil(cols / width)}"
        scale_of_counts(image, f"entries per bin, each {bins}")
    return image, int(found.sum())


def _rule(A: ImageOperator, ax: Axes, cells: bool) -> None:
    """Lines between cells, image rows, planes, channels and blocks, as far as they are not too many."""
    theme = Theme.of(figure_of(ax))
    rows, cols = A.shape
    thick = {CHANNELS: (0.6, 1.6), BLOCKS: (1.0, 2.4)}
    for side, draw, across in ((0, ax.hlines, cols), (1, ax.vlines, rows)):
        for rank, places in rules(A, side).items():
            if places.size and (rank > 0 or cells):
                shade, width = thick.get(rank, (min(0.5, 0.1 + 0.15 * rank), 0.4 + 0.3 * rank))
                draw(
                    places - 0.5,
                    -0.5,
                    across - 0.5,
                    color=theme.faint(shade),
                    linewidth=width,
                    zorder=1.5 + rank / 10,
                )
    ax.set_xlim(-0.5, cols - 0.5)
    ax.set_ylim(rows - 0.5, -0.5)


def _in_proportion(rows: int, cols: int) -> bool:
    """Whether the matrix is drawn with square cells."""
    return max(rows, cols) <= _LONGEST * min(rows, cols)


def _figure_size(rows: int, cols: int) -> tuple[float, float]:
    """Inches for a matrix, with room for text: at most 7.8 wide and 6.7 high."""
    long = 5.5 / max(rows, cols)
    return max(4.5, long * cols + 2.3), max(3.2, long * rows + 1.2)


def _x(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
