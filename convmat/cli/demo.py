"""``convmat demo``: blur and decimate a photograph, and get it back. The whole use of the package in one run."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat.cli.arguments import BadArgument

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DAMP = 0.01
"""Weight of |x| in the least squares: a little above the noise."""

_DETAIL = slice(72, 136), slice(96, 160)
"""The part of the photograph that is shown enlarged: the eyes."""


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "demo",
        help="blur a photograph and get it back: builds, checks, solves, saves a picture",
        description="Blur a photograph and keep every second pixel of every second row: build that map as a matrix and "
        "as an operator, check the adjoint, transpose, solve, and save the pictures side by side.",
    )
    parser.add_argument("--out", type=Path, default=Path("pictures"), metavar="DIR",
                        help="folder of the picture (default: ./pictures)")  # fmt: skip
    parser.set_defaults(run=run)


def run(parsed: Namespace) -> None:
    """Run the command."""
    if parsed.out.exists() and not parsed.out.is_dir():
        raise BadArgument(f"--out {parsed.out} is not a folder")
    demo(parsed.out)


def demo(out: Path, say: Callable[[str], object] = print) -> Path:
    """Blur and decimate a photograph, and get it back.

    Parameters
    ----------
    out : Path
        Folder of the picture; made if there is none.
    say : callable
        What is done with each line of the report.

    Returns
    -------
    Path
        The picture.

    Raises
    ------
    ImportError
        If matplotlib is missing; it names the extra.
    """
    from scipy.sparse.linalg import lsqr

    from convmat import Conv2d, check_adjoint, plot, singular_values, tikhonov

    x = plot.photo(256)
    k = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    A = Conv2d(np.outer(k, k) / k.sum() ** 2, x.shape, stride=2, padding=3, padding_mode="reflect")
    say("A blurs a photograph and keeps every second pixel of every second row:\n")
    say(str(A.geometry))

    matrix = A.tosparse()
    size = (matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes) / 1e6
    say(f"\nexplicit matrix  {type(matrix).__name__}, {size:.1f} MB")
    difference = np.abs(matrix @ x.ravel() - A @ x.ravel()).max()
    say(f"matrix-free      method {A.method!r}, differs from it by {difference:.0e}")
    check_adjoint(A)
    say("adjoint          <A x, y> = <x, A^T y> holds to rounding")
    sigma = singular_values(A)
    say(f"singular values  all {sigma.size}, from {sigma[0]:.4f} to {sigma[-1]:.4f}: condition number "
        f"{sigma[0] / sigma[-1]:.2f}")  # fmt: skip

    y = A.apply(x) + 0.002 * np.random.default_rng(0).standard_normal(A.output_shape)
    transposed = 4 * A.T.apply(y)
    begin = time.perf_counter()
    solution, _, steps = lsqr(A, y.ravel(), damp=_DAMP, atol=1e-8, btol=1e-8)[:3]
    solved = solution.reshape(x.shape)
    middle = time.perf_counter()
    closed, info = tikhonov(A, y, _DAMP)
    end = time.perf_counter()

    say("\nx from y = A x + noise, error as PSNR in dB (more is better):")
    for name, image in (("4 A^T y, the transposed convolution", transposed), (f"lsqr(A, y), {steps} steps", solved)):
        say(f"  {name:<40} {plot.psnr(image, x):.2f} dB")
    say(f"  {f'tikhonov(A, y), closed form ({info.method})':<40} the same, to {np.abs(closed - solved).max():.0e}")
    say(f"seconds: lsqr {middle - begin:.2f}, tikhonov {end - middle:.2f}")

    figure = _picture(x, y, transposed, solved, closed, steps)
    path = plot.save(figure, out / "convmat_demo.png")
    say(f"\npicture: {path}")
    return path


def _picture(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    transposed: NDArray[np.float64],
    solved: NDArray[np.float64],
    closed: NDArray[np.float64],
    steps: int,
) -> Figure:
    """Five images, and below each the eyes enlarged."""
    from convmat import plot

    rows, columns = _DETAIL
    half = slice(rows.start // 2, rows.stop // 2), slice(columns.start // 2, columns.stop // 2)
    return plot.image_pair(
        {
            "x: the photograph, 256 x 256": x,
            "y = A x + noise: 128 x 128": y,
            f"4 A$^T$ y: {plot.psnr(transposed, x):.1f} dB": transposed,
            f"lsqr(A, y): {plot.psnr(solved, x):.1f} dB": solved,
            f"tikhonov(A, y): {plot.psnr(closed, x):.1f} dB": closed,
            "the eyes of x": x[_DETAIL],
            "blurred, every 2nd pixel kept": y[half],
            "transposed: blurred once more": transposed[_DETAIL],
            f"solved by {steps} steps": solved[_DETAIL],
            "solved in closed form": closed[_DETAIL],
        },
        columns=5,
        title="A blurs and keeps every second pixel. The transpose A$^T$ blurs once more; a solver sharpens",
        caption="PSNR against x, more is better. Zero filling makes A$^T$ y a quarter as bright, hence the factor 4",
    )
