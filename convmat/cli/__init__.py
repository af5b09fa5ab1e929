"""The command line: ``convmat`` or ``python -m convmat``. One module per command; heavy imports where they are used."""

from __future__ import annotations

import os
import sys
import textwrap
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

import convmat
from convmat.cli import animate, bench, demo, layers, show, spectrum
from convmat.cli.arguments import BadArgument, Parser, one_line
from convmat.products.threads import workers

COMMANDS = (show, animate, spectrum, layers, bench, demo)
"""Modules with ``add(commands)``, which registers a command whose ``run(parsed)`` does it."""

INTERRUPTED, PIPE_CLOSED = 130, 141
"""128 plus the number of the signal, as shells report it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process by default.

    Returns
    -------
    int
        The exit status: 0, 1 where something that is needed is missing, 130 after Ctrl-C, 141 where the reader of the
        output has gone. Bad arguments exit with 2.
    """
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        _check_environment()
        parsed.run(parsed)
        sys.stdout.flush()
    except BadArgument as error:
        parser.exit(2, f"convmat: {one_line(str(error))} (see convmat {parsed.command} --help)\n")
    except BrokenPipeError:
        # The interpreter flushes standard output once more when it ends: into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        print("convmat: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ImportError, MemoryError, OSError) as error:
        print(f"convmat: {one_line(str(error))}", file=sys.stderr)
        return 1
    return 0


def _check_environment() -> None:
    try:
        workers()
    except ValueError as error:
        raise BadArgument(str(error)) from error


def _parser() -> Parser:
    parser = Parser(prog="convmat", description="Convolution layers as matrices and linear operators.")
    parser.add_argument("--version", action="version", version=f"convmat {convmat.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for module in COMMANDS:
        module.add(commands)
    for command in commands.choices.values():
        command.formatter_class = RawDescriptionHelpFormatter  # for the examples, each of which is one line
        command.description = textwrap.fill(command.description or "", 80)
    return parser
