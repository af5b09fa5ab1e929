"""What every example does at its end: save its picture."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from convmat import plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def picture_options() -> argparse.ArgumentParser:
    """The options that every example has; one may have more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="folder of the picture (./pictures)")
    parser.add_argument("--dpi", type=float, default=100, help="pixels per inch of the picture (100)")
    return parser


def save_picture(name: str, draw: Callable[[], "Figure"], arguments: argparse.Namespace | None = None) -> Path | None:
    """Save what `draw` returns as `name`, in the folder that the command line says, if matplotlib is installed."""
    arguments = arguments or picture_options().parse_args()
    try:
        figure = draw()
    except ImportError as error:
        print(f"\nNo picture: {error}")
        return None
    path = plot.save(figure, arguments.out / name, dpi=arguments.dpi)
    print(f"\nPicture: {path}")
    return path
