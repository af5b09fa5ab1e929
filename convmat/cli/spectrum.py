"""``convmat spectrum``: singular values where they are exact, proven bounds of the norm elsewhere."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convmat.cli import arguments, text
from convmat.cli.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from convmat.operators import ImageOperator

_BARS = 60
"""Characters of the picture of the singular values."""


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "spectrum",
        help="singular values, rank and condition number, or proven bounds of the norm",
        description="Print the largest and smallest singular value, rank and condition number of a layer, or of any "
        "operator in a file, where all singular values can be computed (circular padding, kernels of rank one, small "
        "layers), and certified bounds of the norm everywhere. Without --weight the weights are random (--seed).",
        epilog=arguments.EXAMPLES,
    )
    arguments.add_operator(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="draw the singular values into this picture")
    parser.add_argument("--json", action="store_true", help="print one JSON document: operator, shape, norm (lower and "
                        "upper bound), exact, and, if exact, count, largest, smallest, rank, condition (null if "
                        "infinite)")  # fmt: skip
    parser.set_defaults(run=run)


def run(parsed: Namespace) -> None:
    """Run the command."""
    given = arguments.layer_or_operator(parsed)
    A = given.operator() if isinstance(given, arguments.Layer) else given
    figure = None if parsed.output is None else _figure(parsed.output)
    with Progress("singular values"):
        sigma = singular_values(A)
    facts: dict[str, Any] = {"operator": type(A).__name__, "shape": A.shape, "exact": sigma is not None}
    if sigma is None:
        from convmat import norm_bounds

        with Progress("bounds of the norm"):
            try:
                facts["norm"] = norm_bounds(A)
            except ValueError as error:  # a number that is not finite
                raise arguments.BadArgument(str(error)) from error
    else:
        facts |= {"norm": (float(sigma[0]), float(sigma[0])), **exact_facts(sigma, A.shape)}
    if parsed.json:
        print(json.dumps(facts))
    else:
        width = text.terminal_width()
        print(text.entry("operator", f"{facts['operator']}, {A.shape[0]} x {A.shape[1]}, {_numbers(given)}", width))
        for name, value in _lines(facts, sigma):
            print(text.entry(name, value, width))
    if figure is not None:
        from convmat import plot

        plot.spectrum(A, figure.add_subplot())
        plot.save(figure, parsed.output)
        if not parsed.json:
            print(f"{'picture':<12} {parsed.output}")  # a path is never broken


def _figure(path: Path) -> Figure:
    """An empty figure, which can be saved under that name."""
    from convmat import plot

    figure = plot.new_figure(7, 4.5)
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in formats:
        raise arguments.BadArgument(f"--output {path} must end in one of {', '.join(f'.{name}' for name in formats)}")
    return figure


def singular_values(A: ImageOperator) -> NDArray[Any] | None:
    """All of them, or None where A has no structure for it and is large."""
    import convmat

    try:
        values: NDArray[Any] = convmat.singular_values(A)
    except ValueError:
        return None
    return values


def exact_facts(sigma: NDArray[Any], shape: tuple[int, int]) -> dict[str, Any]:
    """What all singular values say. The rank counts those above the usual tolerance, max(shape) eps sigma_1."""
    largest, smallest = float(sigma[0]), float(sigma[-1])
    rank = int(np.count_nonzero(sigma > max(shape) * np.finfo(sigma.dtype).eps * largest))
    return {
        "count": sigma.size,
        "largest": largest,
        "smallest": smallest,
        "rank": rank,
        "condition": largest / smallest if rank == sigma.size else None,
    }


def _lines(facts: dict[str, Any], sigma: NDArray[Any] | None) -> list[tuple[str, str]]:
    lower, upper = facts["norm"]
    below, above = text.outward(lower, upper, 8)
    if sigma is None:
        apart = f"{100 * (upper / lower - 1):.2g} %" if lower > 0 else "infinitely far"
        return [
            ("norm", f"{below} <= ||A|| <= {above}, certified, {apart} apart"),
            ("condition", "not known: neither block diagonal in waves, nor a kernel of rank one, nor small enough for "
                          "a dense decomposition"),
        ]  # fmt: skip
    at = np.linspace(0, sigma.size - 1, min(_BARS, sigma.size)).round().astype(int)
    bars = text.bars(sigma[at] / (sigma[0] or 1), text.ascii_only())
    condition = (
        f"{facts['condition']:.6g}"
        if facts["condition"] is not None
        else (
            f"infinite ({facts['largest'] / float(sigma[facts['rank'] - 1]):.6g} on the range)"
            if facts["rank"]
            else "none"
        )
    )
    return [
        ("sigma", f"all {facts['count']}, largest {facts['largest']:.8g}, smallest {facts['smallest']:.8g}"),
        ("", f"{bars}"),
        ("rank", f"{facts['rank']} of {facts['count']}"),
        ("condition", condition),
        ("norm", f"||A|| = {facts['largest']:.8g}"),
    ]


def _numbers(given: arguments.Layer | ImageOperator) -> str:
    if isinstance(given, arguments.Layer) and given.weight is None:
        return f"random weights, seed {given.seed}"
    return f"weights in {given.dtype.name}"
