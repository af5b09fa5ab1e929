"""The arithmetic of a convolution: the grids of a `Scene`, and what one output reads, as cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convmat.plot.scene import BORDER, COPY, CROPPED, HOLE, SAMPLE, Grid, Scene, Step
from convmat.plot.style import (
    BLUE,
    GREEN,
    HIGHLIGHT,
    SUM,
    Theme,
    figure_of,
    new_figure,
    tap_colours,
    tap_names,
    text_on,
)
from convmat.taps import ZERO

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Box = tuple[float, float, float, float]
"""Left, bottom, width and height, in inches."""

_LARGEST_CELL = 0.46
"""Side of a cell, in inches."""

_WIDEST, _HIGHEST = 12.0, 8.0
"""Inches of a new figure, at most."""

_TITLE = 0.46
"""Inches above a grid for its title."""

_CAPTION = 0.62
"""Inches below the grids for the caption."""

_GAP = 0.35
"""Inches around and between the grids."""

_LEAST_WIDTH = 1.45
"""Inches of a grid, at least: those of its title."""


_OUTLINE = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)])
_DIAGONAL = np.array([(-0.5, 0.5), (0.5, -0.5)])


def arithmetic(
    A: Any,
    output: int | Sequence[int],
    *,
    channels: tuple[int, int] | None = None,
    figure: Figure | None = None,
) -> Figure:
    """What one output of a convolution reads: the padded input, the kernel and the output, as grids of cells.

    The cells that the output reads have the colours and letters of the taps that read them. Cells are numbered as the
    columns and rows of the matrix are, within their channel. A dashed cell is padding: with the number of the sample
    that it copies, or blank where it is zero.

    A transposed convolution is drawn as its input with zeros between the samples and around them, over which the
    flipped kernel slides with stride 1. With a padding mode that copies, the copies in the border of the output, which
    are added to the samples whose numbers they show, are drawn too.

    Parameters
    ----------
    A : Conv1d, Conv2d, their transposes or factors
    output : int or tuple of int
        Which output, (m_1, m_2) for two axes.
    channels : (int, int), optional
        Output and input channel of A; needed if it has several.
    figure : matplotlib.figure.Figure, optional
        Draw on this one; a new one by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is missing; it names the extra.
    TypeError
        If A is no convolution, or the output or the channels are not integers.
    ValueError
        If there is no such output, A has three axes or a side of more than 48 cells, the channels are missing, or not
        of one group.

    References
    ----------
    .. [1] V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv2d, plot
    >>> A = Conv2d(np.ones((3, 3)), (5, 5), stride=2, padding=1, padding_mode="reflect")
    >>> figure = plot.arithmetic(A, output=(0, 2))
    >>> [ax.get_label() for ax in figure.axes]
    ['input', 'kernel', 'output']
    """
    scene = Scene.of(A, channels)
    step = scene.step(output)
    figure = figure or new_figure(*figure_size(scene))
    width, height = figure.get_size_inches()
    stage = Stage.set(figure, scene, (0, 0, width, height))
    stage.draw(step)
    return figure


def figure_size(scene: Scene) -> tuple[float, float]:
    """Inches that the grids take with large cells, or with smaller ones where that is too much."""
    return _extent(scene, _fitting_cell(scene, _WIDEST, _HIGHEST))


@dataclass(frozen=True)
class Stage:
    """The grids on a figure, on which a step is drawn."""

    scene: Scene
    theme: Theme
    input: Axes
    kernel: Axes
    output: Axes
    size: float
    """Side of a cell, in points."""
    caption: tuple[float, float]
    """Where the caption is, in fractions of the figure."""

    @classmethod
    def set(cls, figure: Figure, scene: Scene, box: Box) -> Stage:
        """Draw what does not change from output to output, within a part of the figure."""
        figure.set_layout_engine("none")  # cells of one size on all grids are placed by hand
        theme = Theme.of(figure)
        left, bottom, width, height = box
        cell = _fitting_cell(scene, width, height)
        used = _extent(scene, cell)
        x, top = left + (width - used[0]) / 2 + _GAP, bottom + (height + used[1]) / 2
        wide, high = figure.get_size_inches()
        axes: list[Axes] = []
        shapes = _shapes(scene)
        tallest = max(shape[0] for shape in shapes) * cell
        for shape, title, name in zip(shapes, _titles(scene), ("input", "kernel", "output"), strict=True):
            if _stacked(scene):
                top -= _TITLE + shape[0] * cell
                y, at = top, x
            else:
                slot = max(shape[1] * cell, _LEAST_WIDTH)
                y = top - _TITLE - (tallest + shape[0] * cell) / 2
                at, x = x + (slot - shape[1] * cell) / 2, x + slot + _GAP
            bounds = (at / wide, y / high, shape[1] * cell / wide, shape[0] * cell / high)
            axes.append(_axes(figure, bounds, shape, title, name))
        caption = (left + width / 2) / wide, (bottom + _CAPTION / 2) / high
        stage = cls(scene, theme, axes[0], axes[1], axes[2], cell * 72, caption)
        _draw_grid(stage.input, scene.input, theme, BLUE, stage.size)
        _draw_grid(stage.output, scene.output, theme, GREEN, stage.size)
        stage._draw_kernel()
        return stage

    def draw(self, step: Step) -> list[Artist]:
        """Draw one output and what it reads, and return it."""
        drawn: list[Artist] = []
        colours, names = self._taps()
        for (row, column), taps in step.by_cell().items():
            colour = colours(taps[0]) if len(taps) == 1 else SUM
            number = int(self.scene.input.samples[row, column])
            drawn += _cell(self.input, row, column, colour, self.size, number, "".join(names[tap] for tap in taps))
        for place, (row, column) in enumerate(step.targets.tolist()):
            colour = self.theme.tint(HIGHLIGHT, 0.5) if place else HIGHLIGHT
            drawn += _cell(self.output, row, column, colour, self.size, int(self.scene.output.samples[row, column]))
        drawn.append(figure_of(self.input).text(*self.caption, self.words(step), ha="center", va="center", fontsize=10))
        return drawn

    def words(self, step: Step) -> str:
        """The caption of a step."""
        zeros = int((step.samples == ZERO).sum())
        what = _plural(len(step.samples) - zeros, "sample") + (f" and {_plural(zeros, 'zero')}" if zeros else "")
        place = ", ".join(map(str, step.place))
        line = f"output [{place}] reads {what}: row {step.row} of the matrix"
        if len(step.targets) > 1:
            line += f"\n{_plural(len(step.targets) - 1, 'cell')} of the border added to it"
        return line

    def _taps(self) -> tuple[Any, list[str]]:
        count = self.scene.kernel.size
        return tap_colours(count), tap_names(count)

    def _draw_kernel(self) -> None:
        colours, names = self._taps()
        weights = self.scene.weights.reshape(-1)
        for (row, column), tap in np.ndenumerate(self.scene.kernel):
            text = f"{weights[tap]:.2g}"
            _cell(self.kernel, row, column, colours(tap), self.size, text, names[tap], self.theme.faint(0.5))


def _axes(figure: Figure, bounds: Box, shape: tuple[int, int], title: str, name: str) -> Axes:
    """Axes of so many cells."""
    ax = figure.add_axes(bounds, label=name)
    ax.set_xlim(-0.5, shape[1] - 0.5)
    ax.set_ylim(shape[0] - 0.5, -0.5)
    ax.set_axis_off()
    ax.set_title(title, fontsize=10, linespacing=1.1, pad=5)
    return ax


def _draw_grid(ax: Axes, grid: Grid, theme: Theme, colour: str, size: float) -> None:
    """The cells of a grid: samples and zeros, each in its own look."""
    from matplotlib.collections import LineCollection

    fills = {SAMPLE: theme.tint(colour, 0.4), COPY: theme.tint(colour, 0.12), HOLE: theme.faint(0.07)}
    picture = np.empty((*grid.shape, 3))
    for place, kind in np.ndenumerate(grid.kinds):
        picture[place] = fills.get(int(kind), theme.paper)
    ax.imshow(picture, aspect="auto", zorder=1)
    ax.set_xlim(-0.5, grid.shape[1] - 0.5)
    ax.set_ylim(grid.shape[0] - 0.5, -0.5)
    looks: dict[bool, tuple[Any, float]] = {False: ("solid", 0.6), True: ((0, (2.5, 2.5)), 0.35)}
    for border, (style, share) in looks.items():
        cells = [p for p in np.ndindex(*grid.shape) if (grid.kinds[p] in (COPY, BORDER, CROPPED)) == border]
        outlines = [_OUTLINE + place[::-1] for place in cells]
        ax.add_collection(
            LineCollection(
                outlines, colors=[theme.faint(share)], linewidths=0.8, linestyles=[style], zorder=1.2, clip_on=False
            )
        )
    crosses = [_DIAGONAL + place[::-1] for place in np.argwhere(grid.kinds == CROPPED)]
    ax.add_collection(LineCollection(crosses, colors=[theme.faint(0.3)], linewidths=0.8, zorder=1.3))
    for row, column in np.argwhere(grid.samples != ZERO).tolist():
        ink = theme.ink if grid.kinds[row, column] == SAMPLE else theme.faint(0.6)
        text = str(grid.samples[row, column])
        ax.text(column, row, text, **_text(size, text), color=ink, zorder=1.4)


def _cell(
    ax: Axes,
    row: int,
    column: int,
    colour: Any,
    size: float,
    number: int | str,
    tap: str = "",
    edge: Any = HIGHLIGHT,
) -> list[Artist]:
    """A cell that stands out: its number in the middle, its tap in the corner."""
    from matplotlib.patches import Rectangle

    ink = text_on(colour)
    square = Rectangle(
        (column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor=edge, linewidth=1.6, zorder=2, clip_on=False
    )
    drawn: list[Artist] = [ax.add_artist(square)]
    text = "" if number == ZERO else str(number)
    if text:
        drawn.append(ax.text(column, row, text, **_text(size, text), color=ink, zorder=2.1))
    if tap:
        look = {"fontsize": 0.3 * size * min(1, 3.2 / len(tap)), "style": "italic", "color": ink, "zorder": 2.1}
        drawn.append(ax.text(column + 0.42, row + 0.44, tap, look, ha="right", va="bottom"))
    return drawn


def _text(size: float, text: str) -> dict[str, Any]:
    """Where a number stands in its cell, and how large."""
    return {"ha": "center", "va": "center_baseline", "fontsize": 0.4 * size * min(1, 3.2 / len(text))}


def _stacked(scene: Scene) -> bool:
    """Whether the grids stand above one another: those of one axis."""
    return scene.layer.geometry.ndim == 1


def _shapes(scene: Scene) -> list[tuple[int, int]]:
    rows, columns = scene.kernel.shape
    return [scene.input.shape, (rows, columns), scene.output.shape]


def _extent(scene: Scene, cell: float) -> tuple[float, float]:
    """Inches that the grids take with cells of this size."""
    rows, columns = (np.array(sizes) * cell for sizes in zip(*_shapes(scene), strict=True))
    if _stacked(scene):
        return max(columns.max(), 3.6) + 2 * _GAP, float(rows.sum() + 3 * _TITLE + _CAPTION)
    return float(np.maximum(columns, _LEAST_WIDTH).sum() + 4 * _GAP), float(rows.max() + _TITLE + _CAPTION)


def _fitting_cell(scene: Scene, width: float, height: float) -> float:
    """The largest cell with which the grids fit."""
    small, large = 0.0, _LARGEST_CELL
    for _ in range(20):
        cell = (small + large) / 2
        wide, high = _extent(scene, cell)
        small, large = (cell, large) if wide <= width and high <= height else (small, cell)
    return large


def _titles(scene: Scene) -> tuple[str, str, str]:
    geometry = scene.layer.geometry
    kernel, ins, outs = (" x ".join(map(str, size)) for size in (geometry.kernel_size, *scene.sizes))
    kinds = set(scene.input.kinds.reshape(-1).tolist())
    if scene.layer.transposed:
        words = ["between"] * (HOLE in kinds) + ["around"] * (BORDER in kinds)
        around = f"zeros {' and '.join(words)}" if words else ""
    else:
        around = f"{geometry.padding_mode.removesuffix('s')} padding" if kinds & {COPY, BORDER} else ""
    steps = {"stride": () if scene.layer.transposed else geometry.stride, "dilation": geometry.dilation}
    details = [f"{name} {_by_axis(sizes)}" for name, sizes in steps.items() if max(sizes, default=1) > 1]
    return (
        _lines(f"input {ins}", around),
        _lines(f"kernel {kernel}{', flipped' if scene.flipped else ''}", ", ".join(details)),
        f"output {outs}",
    )


def _by_axis(sizes: Sequence[int]) -> str:
    """One number where all axes have the same."""
    return str(sizes[0]) if len(set(sizes)) == 1 else " x ".join(map(str, sizes))


def _lines(*lines: str) -> str:
    return "\n".join(filter(None, lines))


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
