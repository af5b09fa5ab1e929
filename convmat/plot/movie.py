"""Animations: every row of a matrix in turn, beside the arithmetic that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat.matrix import check_bytes
from convmat.plot.grids import Stage
from convmat.plot.layout import fit
from convmat.plot.matrices import matrix
from convmat.plot.notebook import Animation
from convmat.plot.scene import Scene, Step
from convmat.plot.style import HIGHLIGHT, missing_extra, new_figure

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from PIL import Image

Frame = NDArray[np.uint8]
"""A picture, (height, width, 3)."""

TRANSPOSE = ("side-by-side", "only", "none")

_WIDEST, _HIGHEST = 9.0, 6.0
"""Inches of the arithmetic, at most."""

_COLOURS = 96
"""Colours of a palette: those of the taps, of the grids, and the shades at the edges of letters."""

_LEAST_DISTANCE = 8
"""Between two colours of a palette, in the channel in which they differ most."""

_MATRIX_WIDTH, _MATRIX_HEIGHT = 7.2, 3.75
"""Inches of the matrices, at most."""

_LARGEST_CELL = 0.2
"""Inches of a cell of a matrix, at most."""

_SMALLEST_LABELLED = 0.14
"""Inches of a cell of a matrix in which a letter can be read."""

_PIXEL = 3
"""Bytes that pillow holds for each pixel of each frame until the file is written."""

_MARGIN = 0.3
_LABELS = 0.45
"""Inches left of a matrix and above it, for its ticks and its title."""


def animate(
    A: Any,
    path: str | Path,
    *,
    transpose: str = "side-by-side",
    channels: tuple[int, int] | None = None,
    fps: float = 2.0,
    dpi: float = 80,
    progress: Callable[[int, int], object] | None = None,
) -> Animation:
    """Every output of a convolution in turn: what it reads, and its row of the matrix. An animation in a file.

    Each frame is `arithmetic` of one output above the matrix, in which the row of that output is framed. The frames
    follow the rows of the output channel.

    Parameters
    ----------
    A : Conv1d, Conv2d, their transposes or factors
    path : str or Path
        The suffix is the format: .gif; .png or .apng, an animated PNG; .mp4, which needs the program ffmpeg. The folder
        is made if there is none.
    transpose : {"side-by-side", "only", "none"}
        "side-by-side": A with its row, and beside it the transpose with the same column framed: what a row reads is
        where the transpose writes. "only": the arithmetic and the rows of the transpose of A. "none": A alone.
    channels : (int, int), optional
        Output and input channel of A; needed if it has several.
    fps : float
        Frames per second.
    dpi : float
        Pixels per inch; a picture is about 7 inches wide.
    progress : callable, optional
        Called as ``progress(done, total)`` after each frame.

    Returns
    -------
    Path
        A notebook shows what is in the file.

    Raises
    ------
    ImportError
        If matplotlib or pillow is missing; it names the extra.
    TypeError
        If A is no convolution, or the channels are not integers.
    ValueError
        If the suffix or `transpose` is another, `fps` is not positive, or `arithmetic` cannot draw A.
    MemoryError
        If the frames do not fit in this machine's memory; raised before one is drawn.
    RuntimeError
        If an MP4 is asked for and there is no ffmpeg.

    See Also
    --------
    arithmetic : one frame.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from convmat import Conv2d, plot
    >>> A = Conv2d(np.ones((3, 3)), (4, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = plot.animate(A, f"{folder}/no_padding.gif", progress=lambda done, total: print(done, "of", total))
    1 of 4
    2 of 4
    3 of 4
    4 of 4
    """
    path = Animation(path)
    if path.suffix.lower() not in _WRITERS:
        raise ValueError(f"path={str(path)!r} must end in one of {', '.join(_WRITERS)}")
    if fps <= 0:
        raise ValueError(f"fps={fps!r} must be positive")
    write = _WRITERS[path.suffix.lower()](fps)
    operator, scene, steps = plan(A, transpose, channels)
    operators = [operator, operator.T] if transpose == "side-by-side" else [operator]
    if path.suffix.lower() in _WHOLE:
        width, height = (round(inches * dpi) for inches in _size(scene, operators))
        check_bytes(
            f"dpi={dpi!r}: an animation of {len(steps)} frames of {width} x {height} pixels",
            _PIXEL * len(steps) * width * height,
            "choose a smaller dpi, a smaller input_size, or an .mp4, which is written frame by frame",
        )
    frames = _frames(scene, steps, operators, dpi)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(_counted(frames, len(steps), progress), path)
    return path


def plan(A: Any, transpose: str, channels: tuple[int, int] | None) -> tuple[Any, Scene, list[Step]]:
    """The operator whose rows are shown, its scene, and one step per frame.

    Raises
    ------
    TypeError, ValueError
        If `transpose` is another word, or A cannot be drawn.
    """
    if transpose not in TRANSPOSE:
        raise ValueError(f"transpose={transpose!r} must be one of {', '.join(map(repr, TRANSPOSE))}")
    scene = Scene.of(A, channels)
    if transpose == "only":
        A = A.T
        scene = Scene.of(A, scene.channels[::-1])
    return A, scene, [scene.step(place) for place in scene.places()]


def _frames(scene: Scene, steps: list[Step], operators: list[Any], dpi: float) -> Iterator[Frame]:
    """The pictures, drawn on one figure: what does not change is drawn once."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise missing_extra("an animation", error) from error

    above, boxes = fit(scene, _WIDEST, _HIGHEST), _boxes([operator.shape for operator in operators])
    width, height = _size(scene, operators)
    figure = new_figure(width, height)
    figure.set_dpi(dpi)
    stage = Stage.set(figure, scene, above, ((width - above.width) / 2, boxes.height))
    left = (width - boxes.width) / 2
    axes = []
    for number, (operator, (x, y, wide, high)) in enumerate(zip(operators, boxes.places, strict=True)):
        ax = figure.add_axes(((left + x) / width, y / height, wide / width, high / height))
        name = "the transpose" if number else type(operator).__name__
        labels = "auto" if boxes.cell >= _SMALLEST_LABELLED else "none"
        matrix(operator, ax, labels=labels, legend=False, title=f"{name}, {operator.shape[0]} x {operator.shape[1]}")
        ax.set(xlabel="", ylabel="")
        ax.title.set_fontsize(10)
        ax.tick_params(labelsize=7)
        axes.append(ax)

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    for step in steps:
        canvas.restore_region(background)
        drawn = stage.draw(step) + [_frame(ax, op, step.row, bool(n)) for n, (ax, op) in _numbered(axes, operators)]
        for artist in drawn:
            (artist.axes or figure).draw_artist(artist)
            artist.remove()
        yield np.array(np.asarray(canvas.buffer_rgba())[..., :3])


def _size(scene: Scene, operators: list[Any]) -> tuple[float, float]:
    """Inches of the figure: the arithmetic above the matrices."""
    above, boxes = fit(scene, _WIDEST, _HIGHEST), _boxes([operator.shape for operator in operators])
    return max(above.width, boxes.width), above.height + boxes.height


def _numbered(axes: list[Axes], operators: list[Any]) -> list[tuple[int, tuple[Axes, Any]]]:
    return list(enumerate(zip(axes, operators, strict=True)))


def _frame(ax: Axes, operator: Any, index: int, column: bool) -> Artist:
    """A frame around a row, or a column, of a matrix."""
    from matplotlib.patches import Rectangle

    rows, cols = operator.shape
    bounds = ((index - 0.5, -0.5), 1, rows) if column else ((-0.5, index - 0.5), cols, 1)
    return ax.add_artist(
        Rectangle(*bounds, facecolor="none", edgecolor=HIGHLIGHT, linewidth=2, clip_on=False, zorder=3)
    )


@dataclass(frozen=True)
class _Boxes:
    """Where matrices stand beside each other, in inches: (left, bottom, width, height) of each, and the whole."""

    cell: float
    places: list[tuple[float, float, float, float]]
    width: float
    height: float


def _boxes(shapes: list[tuple[int, int]]) -> _Boxes:
    """Matrices with cells of one size, as large as there is room for, each centred in the height of the tallest."""
    columns, tallest = sum(cols for _, cols in shapes), max(rows for rows, _ in shapes)
    cell = min(_LARGEST_CELL, _MATRIX_WIDTH / columns, _MATRIX_HEIGHT / tallest)
    least = 1.2  # inches that a title takes
    x, places = _MARGIN, []
    for rows, cols in shapes:
        slot = max(cols * cell, least)
        x += _MARGIN
        bottom = _LABELS + (tallest - rows) * cell / 2
        places.append((x + (slot - cols * cell) / 2, bottom, cols * cell, rows * cell))
        x += slot + _MARGIN
    return _Boxes(cell, places, x + _MARGIN, tallest * cell + 2 * _LABELS)


def _counted(frames: Iterator[Frame], total: int, progress: Callable[[int, int], object] | None) -> Iterator[Frame]:
    for done, frame in enumerate(frames, start=1):
        yield frame
        if progress is not None:
            progress(done, total)


Writer = Callable[[Iterator[Frame], Path], None]


def _pillow(fps: float, kind: str) -> Writer:
    """A writer of animated GIF or PNG: all frames on one palette."""
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("an animation", error) from error

    def write(frames: Iterator[Frame], path: Path) -> None:
        palette = Image.new("P", (1, 1))
        images: list[Image.Image] = []
        for frame in frames:
            image = Image.fromarray(frame)
            if not images:
                palette.putpalette(_palette(image))
            images.append(image.quantize(palette=palette, dither=Image.Dither.NONE))
        images[0].save(path, kind, save_all=True, append_images=images[1:], duration=1000 / fps, loop=0, optimize=True)

    return write


def _palette(image: Image.Image) -> list[int]:
    """Colours that cover the most of a picture, none close to another: pillow finds the nearest one to a few bits only,
    and flat areas are to keep their colour.
    """
    found: Any = image.getcolors(image.width * image.height)
    colours = np.array([colour for _, colour in sorted(found, reverse=True)])
    chosen: list[NDArray[Any]] = []
    while len(colours) and len(chosen) < _COLOURS:
        chosen.append(colours[0])
        colours = colours[np.abs(colours - colours[0]).max(axis=1) > _LEAST_DISTANCE]
    return [int(value) for colour in chosen for value in colour]


def _ffmpeg(fps: float, kind: str) -> Writer:
    """A writer of films, through matplotlib's writer."""
    try:
        from matplotlib.animation import FFMpegWriter
    except ImportError as error:
        raise missing_extra("an animation", error) from error
    if not FFMpegWriter.isAvailable():
        raise RuntimeError("an MP4 needs the program ffmpeg, which is not found: install it, or write a .gif or .png")

    def write(frames: Iterator[Frame], path: Path) -> None:
        writer: Any = FFMpegWriter(fps=fps)  # type: ignore[arg-type]
        first = next(frames)
        height, width = (size // 2 * 2 for size in first.shape[:2])  # the usual codec takes even sizes alone
        figure = new_figure(width / 100, height / 100)
        figure.set_layout_engine("none")
        picture = figure.figimage(first[:height, :width])
        with writer.saving(figure, str(path), dpi=100):
            writer.grab_frame()
            for frame in frames:
                picture.set_data(frame[:height, :width])
                writer.grab_frame()

    return write


_WRITERS: dict[str, Callable[[float], Writer]] = {
    ".gif": lambda fps: _pillow(fps, "GIF"),
    ".png": lambda fps: _pillow(fps, "PNG"),
    ".apng": lambda fps: _pillow(fps, "PNG"),
    ".mp4": lambda fps: _ffmpeg(fps, "mp4"),
}
"""Suffix -> frames per second -> what writes the frames to a file."""

_WHOLE = (".gif", ".png", ".apng")
"""Suffixes of files of which all frames are held in memory."""
