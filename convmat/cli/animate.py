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
    parser.add_argument("--view", choices=("side-by-side", "only", "none"), default="side-by-side",
                        help="the transpose beside the layer (default), the transpose only, or none")  # fmt: skip
    parser.add_argument("--draw-channels", type=arguments.channels, metavar="OUT,IN",
                        help="of a layer with channels: the two that are drawn (default: 0,0)")  # fmt: skip
    parser.add_argument("--fps", type=float, default=2.0, help="frames per second (default 2)")
    parser.set_defaults(run=run)


def run(parsed: Namespace) -> None:
    """Run the command."""
    from convmat import plot

    layer = arguments.layer(parsed)
    channels = parsed.draw_channels or ((0, 0) if layer.geometry.channels else None)
    with Progress("drawing") as progress:
        try:
            path = plot.animate(
                layer.operator(),
                parsed.output,
                transpose=parsed.view,
                channels=channels,
                fps=parsed.fps,
                progress=progress,
            )
        except (TypeError, ValueError) as error:
            raise arguments.BadArgument(str(error)) from error
        except RuntimeError as error:  # no ffmpeg
            raise FileNotFoundError(str(error)) from error
    print(f"animation: {path}")
