"""The command line: ``python -m convmat`` or ``convmat``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import lsqr

from convmat import Conv2d, __version__, check_adjoint, plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def demo(out: Path, say: Callable[[str], object] = print) -> Path:
    """Blur and decimate a photograph, and get it back: the whole use of the package in one run.

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

    y = A.apply(x) + 0.002 * np.random.default_rng(0).standard_normal(A.output_shape)
    transposed = 4 * A.T.apply(y)
    solution, _, steps = lsqr(A, y.ravel(), atol=1e-6, btol=1e-6)[:3]
    solved = solution.reshape(x.shape)
    say("\nx from y = A x + noise, error as PSNR in dB (more is better):")
    for name, image in (("4 A^T y, the transposed convolution", transposed), (f"lsqr(A, y), {steps} steps", solved)):
        say(f"  {name:<36} {plot.psnr(image, x):.2f} dB")

    path = plot.save(_demo_picture(x, y, transposed, solved), out / "convmat_demo.png")
    say(f"\npicture: {path}")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process by default.

    Returns
    -------
    int
        The exit status: 0, or 1 where something that is needed is missing. Bad arguments exit with 2.
    """
    parser = _Parser(prog="convmat", description="Convolution layers as matrices and linear operators.")
    parser.add_argument("--version", action="version", version=f"convmat {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    command = commands.add_parser("demo", help="blur a photograph and get it back", description=_first_line(demo))
    command.add_argument("--out", type=Path, default=Path("pictures"), metavar="DIR",
                         help="folder of the picture (default: ./pictures)")  # fmt: skip
    parsed = parser.parse_args(arguments)
    if parsed.out.exists() and not parsed.out.is_dir():
        parser.error(f"--out {parsed.out} is not a folder")
    try:
        demo(parsed.out)
    except (ImportError, OSError) as error:
        print(f"convmat: {error}", file=sys.stderr)
        return 1
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _demo_picture(
    x: NDArray[np.float64], y: NDArray[np.float64], transposed: NDArray[np.float64], solved: NDArray[np.float64]
) -> Figure:
    return plot.image_pair(
        {
            "x: the photograph": x,
            "y = A x + noise: blur, stride 2": y,
            f"4 A$^T$ y: {plot.psnr(transposed, x):.1f} dB": transposed,
            f"lsqr(A, y): {plot.psnr(solved, x):.1f} dB": solved,
        },
        title="A convolution as a linear operator: the transpose is not the inverse, a solver inverts",
        caption="PSNR against x, more is better. Zero filling makes A$^T$ y a quarter as bright, hence the factor 4",
    )


def _first_line(function: Callable[..., object]) -> str:
    return (function.__doc__ or "").splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
