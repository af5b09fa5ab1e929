"""A line on standard error while one waits: on a terminal alone, and for what takes longer than a second."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Self, TextIO

_PATIENCE, _EVERY = 1.0, 0.2
"""Seconds before the line is first drawn, and between drawings."""

_BAR = 24


class Progress:
    """What is being done, for how long, and how much of it is done where that is known.

    Parameters
    ----------
    label : str
    stream : text stream, optional
        Standard error by default. Nothing is written where it is not a terminal.

    Examples
    --------
    >>> with Progress("sums") as progress:
    ...     for i in range(10):
    ...         progress(i, 10)
    """

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self._label = label
        self._stream = sys.stderr if stream is None else stream
        self._done, self._total = 0, 0
        self._drawn = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True) if self._stream.isatty() else None

    def __call__(self, done: int, total: int) -> None:
        """Report that `done` of `total` steps are done."""
        self._done, self._total = done, total

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            if self._drawn:
                self._write("")

    def _draw(self) -> None:
        wait = _PATIENCE
        while not self._over.wait(wait):
            self._drawn = True
            self._write(self._line(time.monotonic() - self._begin))
            wait = _EVERY

    def _line(self, seconds: float) -> str:
        if not self._total:
            return f"{self._label} ... {seconds:.0f} s"
        full = _BAR * self._done // self._total
        return f"{self._label} [{'#' * full}{'.' * (_BAR - full)}] {self._done}/{self._total}, {seconds:.0f} s"

    def _write(self, line: str) -> None:
        self._stream.write(f"\r\x1b[K{line}")
        self._stream.flush()
