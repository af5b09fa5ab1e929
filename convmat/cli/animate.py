"""``convmat animate``: the arithmetic of a layer, output by output, as an animation."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from convmat.cli import arguments
from convmat.cli.progress import Progress


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "animate",
        help="draw what each output reads, as an animation",
        description="Draw what each output of a layer reads, beside its row of the matrix and the same column of the "
        "transpose, as an animation.",
        epilog=arguments.EXAMPLES,
    )
    arguments.add_geometry(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE",
                        help="its suffix is the format: .gif, .png or .apng, .mp4")  # fmt: skip
    parser.set_defaults(run=run)


def run(parsed: Namespace) -> None:
    """Run the command."""
    operator = arguments.layer(parsed).operator()
    from convmat import plot

    with Progress("drawing") as progress:
        path = plot.animate(operator, parsed.output, progress=progress)
    print(f"animation: {path}")
