"""Where the grids of a `Scene` stand: cells of one size, as large as there is room for. Inches; nothing is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convmat.plot.scene import Scene

Box = tuple[float, float, float, float]
"""Left, bottom, width and height."""

_LARGEST_CELL = 0.46

_SCALES = (1.0, 0.85, 0.7, 0.55)
"""Of text and gaps, from which the largest is taken that leaves cells in which numbers can be read."""

_READABLE_CELL = 0.22

_TITLE, _CAPTION, _GAP = 0.46, 0.62, 0.35
"""Above a grid, below all of them, and between them."""

_LEAST_WIDTHS = (1.25, 1.45, 1.1)
"""What the titles of input, kernel and output take."""

_CAPTION_WIDTH = 4.0


@dataclass(frozen=True)
class Layout:
    """Input, kernel and output: one beside the other for two axes, one below the other for one, if there is room."""

    cell: float
    scale: float
    """Of text, 1 where there is room."""
    width: float
    height: float
    boxes: tuple[Box, Box, Box]
    """Of input, kernel and output, from the lower left corner of all."""

    @property
    def caption(self) -> tuple[float, float]:
        """Where the middle of the caption is."""
        return self.width / 2, self.scale * _CAPTION / 2


def fit(scene: Scene, width: float, height: float) -> Layout:
    """The layout with the largest text that has room in an area, if its cells can be read; else the largest cells."""
    flat = scene.layer.geometry.ndim == 1
    layouts = [_fit(scene, width, height, scale, below) for scale in _SCALES for below in (flat, not flat)]
    readable = (layout for layout in layouts if layout.cell >= _READABLE_CELL)
    return next(readable, max(layouts, key=lambda layout: layout.cell))


def _fit(scene: Scene, width: float, height: float, scale: float, below: bool) -> Layout:
    """The layout with the largest cells of one scale, by bisection."""
    small, large = 0.0, _LARGEST_CELL
    for _ in range(16):
        cell = (small + large) / 2
        tried = _layout(scene, cell, scale, below)
        small, large = (cell, large) if tried.width <= width and tried.height <= height else (small, cell)
    return _layout(scene, max(small, _LARGEST_CELL / 100), scale, below)


def _layout(scene: Scene, cell: float, scale: float, below: bool) -> Layout:
    shapes = np.array([scene.input.shape, scene.kernel.shape, scene.output.shape])
    highs, wides = (cell * shapes).T
    title, caption, gap = scale * _TITLE, scale * _CAPTION, scale * _GAP
    if below:
        width = max(*wides, scale * _CAPTION_WIDTH) + 2 * gap
        height = float(highs.sum()) + 3 * title + caption
        bottoms = height - np.cumsum(highs + title)
        lefts = np.full(3, gap)
    else:
        slots = np.maximum(wides, scale * np.array(_LEAST_WIDTHS))
        width = max(float(slots.sum()) + 4 * gap, scale * _CAPTION_WIDTH)
        height = float(highs.max()) + title + caption
        starts = np.cumsum(slots + gap) - slots + (width - slots.sum() - 4 * gap) / 2
        bottoms = caption + (highs.max() - highs) / 2
        lefts = starts + (slots - wides) / 2
    first, second, third = (
        (float(left), float(bottom), float(wide), float(high))
        for left, bottom, wide, high in zip(lefts, bottoms, wides, highs, strict=True)
    )
    return Layout(cell, scale, float(width), float(height), (first, second, third))
