"""The arithmetic of a convolution: the grids of a `Scene`, and what one output reads, as cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convmat.plot.layout import Layout, fit
from convmat.plot.notebook import shown
from convmat.plot.scene import BORDER, COMBINED, COPY, CROPPED, HOLE, SAMPLE, Grid, Scene, Step
from convmat.plot.style import (
    BLUE,
    GREEN,
    HIGHLIGHT,
    SUM,
    Theme,
    inches,
    new_figure,
    root,
    tap_colours,
    tap_names,
    text_on,
)
from convmat.taps import ZERO

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_WIDEST, _HIGHEST = 12.0, 8.0
"""Inches of a new figure, at most."""

_HEADING = 0.32
"""Inches of a title above all."""

_NAMES = ("input", "kernel", "output")

_OUTLINE = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)])
_DIAGONAL = np.array([(-0.5, 0.5), (0.5, -0.5)])


def arithmetic(
    A: Any,
    output: int | Sequence[int],
    *,
    channels: tuple[int, int] | None = None,
    title: str = "",
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """What one output of a convolution reads: the padded input, the kernel and the output, as grids of cells.

    The cells that the output reads have the colours and letters of the taps that read them. Cells are numbered as the
    columns and rows of the matrix are, within their channel. A dashed cell is padding: with the number of the sample
    that it copies, blank where it is zero, or with a sign where it is a weighted sum of samples.

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
    title : str
        A line above.
    figure : matplotlib.figure.Figure or SubFigure, optional
        Draw on this one; a new one by default. The grids are placed by hand, so that the figure loses its layout
        engine.

    Returns
    -------
    matplotlib.figure.Figure or SubFigure

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
    above = _HEADING if title else 0.0
    if figure is None:
        layout = fit(scene, _WIDEST, _HIGHEST)
        figure = new_figure(layout.width, layout.height + above)
    width, height = inches(figure)
    layout = fit(scene, width, height - above)
    figure.text(0.5, 1 - above / height, title, ha="center", va="bottom", fontsize=12)
    place = (width - layout.width) / 2, (height - above - layout.height) / 2
    Stage.set(figure, scene, layout, place).draw(step)
    return shown(figure)


@dataclass(frozen=True)
class Stage:
    """The grids on a figure, on which a step is drawn."""

    figure: Figure | SubFigure
    scene: Scene
    theme: Theme
    input: Axes
    kernel: Axes
    output: Axes
    layout: Layout
    corner: tuple[float, float]
    """Lower left corner of all, in inches."""

    @classmethod
    def set(cls, figure: Figure | SubFigure, scene: Scene, layout: Layout, corner: tuple[float, float]) -> Stage:
        """Draw what does not change from output to output."""
        root(figure).set_layout_engine("none")  # cells of one size on all grids are placed by hand
        shapes = scene.input.shape, scene.kernel.shape, scene.output.shape
        wide, high = inches(figure)
        axes: list[Axes] = []
        for name, shape, title, box in zip(_NAMES, shapes, _titles(scene), layout.boxes, strict=True):
            left, bottom = (c + b for c, b in zip(corner, box[:2], strict=True))
            ax = figure.add_axes((left / wide, bottom / high, box[2] / wide, box[3] / high), label=name)
            ax.set_xlim(-0.5, shape[1] - 0.5)
            ax.set_ylim(shape[0] - 0.5, -0.5)
            ax.set_axis_off()
            ax.set_title(title, fontsize=10 * layout.scale, linespacing=1.1, pad=5 * layout.scale)
            axes.append(ax)
        stage = cls(figure, scene, Theme.of(figure), axes[0], axes[1], axes[2], layout, corner)
        _draw_grid(stage.input, scene.input, stage.theme, BLUE, stage.size)
        _draw_grid(stage.output, scene.output, stage.theme, GREEN, stage.size)
        stage._draw_kernel()
        return stage

    @property
    def size(self) -> float:
        """Side of a cell, in points."""
        return 72 * self.layout.cell

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
        x, y = (
            (c + inch) / size
            for c, inch, size in zip(self.corner, self.layout.caption, inches(self.figure), strict=True)
        )
        size = 10 * self.layout.scale
        drawn.append(self.figure.text(x, y, self.words(step), ha="center", va="center", fontsize=size))
        return drawn

    def words(self, step: Step) -> str:
        """The caption of a step."""
        zeros = int((step.samples == ZERO).sum())
        sums = int((step.samples == COMBINED).sum())
        what = _plural(len(step.samples) - zeros - sums, "sample")
        what += f", {_plural(sums, 'sum')} of samples" if sums else ""
        what += f" and {_plural(zeros, 'zero')}" if zeros else ""
        line = f"row {step.row}, output [{', '.join(map(str, step.place))}]: reads {what}"
        if len(step.targets) > 1:
            line += f"\n{_plural(len(step.targets) - 1, 'cell')} of the border added to it"
            rows, columns = step.targets.T
            line += ", times weights" if COMBINED in self.scene.output.samples[rows, columns] else ""
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
        text = _name(int(grid.samples[row, column]))
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
    look: dict[str, Any] = {"facecolor": colour, "edgecolor": edge, "linewidth": min(1.6, 0.07 * size), "zorder": 2}
    square = Rectangle((column - 0.5, row - 0.5), 1, 1, **look, clip_on=False)
    drawn: list[Artist] = [ax.add_artist(square)]
    text = number if isinstance(number, str) else _name(number)
    if text:
        drawn.append(ax.text(column, row, text, **_text(size, text), color=ink, zorder=2.1))
    if tap:
        drawn.append(
            ax.text(
                column + 0.42, row + 0.44, tap, ha="right", va="bottom", color=ink, zorder=2.1, style="italic",
                fontsize=0.3 * size * min(1, 3.2 / len(tap)),
            )
        )  # fmt: skip
    return drawn


def _name(sample: int) -> str:
    """What stands in a cell: the number of its sample, or a sign for a sum of several."""
    return {ZERO: "", COMBINED: "\u00b1"}.get(sample, str(sample))


def _text(size: float, text: str) -> dict[str, Any]:
    """Where a number stands in its cell, and how large."""
    return {"ha": "center", "va": "center_baseline", "fontsize": 0.4 * size * min(1, 3.2 / len(text))}


def _titles(scene: Scene) -> tuple[str, str, str]:
    geometry = scene.layer.geometry
    kernel, ins, outs = (" x ".join(map(str, size)) for size in (geometry.kernel_size, *scene.sizes))
    kinds = set(scene.input.kinds.reshape(-1).tolist())
    modes = dict.fromkeys(geometry.modes) if isinstance(geometry.padding_mode, str) else geometry.padding_mode
    if scene.layer.transposed:
        words = ["between"] * (HOLE in kinds) + ["around"] * (BORDER in kinds)
        around = f"zeros {' and '.join(words)}" if words else ""
    else:
        around = f"{' x '.join(mode.removesuffix('s') for mode in modes)} padding" if kinds & {COPY, BORDER} else ""
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
