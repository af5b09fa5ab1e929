"""Run independent pieces of one product on the cores that this process may use."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

VARIABLE = "CONVMAT_NUM_THREADS"

# The allocator of glibc returns a large block to the system when it is freed, until it has seen one of that size freed;
# then it keeps them. From here on, up to 31 MB: the page faults of ever new memory for the tiles of an FFT, which scipy
# allocates, take more time than the FFT. Elsewhere this does nothing.
np.empty(31 * 2**20, dtype=np.uint8)


def workers() -> int:
    """How many threads one product may use: CONVMAT_NUM_THREADS, or else the cores this process may run on.

    Raises
    ------
    ValueError
        If the variable is set to something other than a positive integer.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked:
        if not asked.isdigit() or int(asked) < 1:
            raise ValueError(f"{VARIABLE}={asked!r} must be a positive integer")
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Scratch:
    """Work arrays of one thread, kept from one piece to the next: fresh memory costs more than the sums made in it."""

    def __init__(self) -> None:
        self._flat: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An uninitialised array; the one of the same name and what was in it are gone."""
        size = math.prod(shape) * dtype.itemsize
        flat = self._flat.get(name)
        if flat is None or flat.size < size:
            flat = self._flat[name] = np.empty(size, dtype=np.uint8)
        return flat[:size].view(dtype).reshape(shape)


class Pool:
    """The work arrays of a plan: as many sets as threads have ever used it at once."""

    def __init__(self) -> None:
        self._idle: list[Scratch] = []

    def run(self, task: Callable[..., None], pieces: Iterable[tuple[Any, ...]], threads: int) -> None:
        """Call ``task(scratch, *piece)`` for each piece, on the given number of threads; raise the first error again.

        The threads live for this call alone: starting one costs some 50 microseconds, and nothing is left behind.
        """
        queue = iter(list(pieces))
        lock = threading.Lock()
        errors: list[BaseException] = []

        def work() -> None:
            try:
                scratch = self._idle.pop()
            except IndexError:
                scratch = Scratch()
            while not errors:
                with lock:
                    piece = next(queue, None)
                if piece is None:
                    break
                try:
                    task(scratch, *piece)
                except BaseException as error:  # raised again below, by the caller's thread
                    errors.append(error)
            self._idle.append(scratch)

        helpers = [threading.Thread(target=work) for _ in range(threads - 1)]
        for helper in helpers:
            helper.start()
        work()
        for helper in helpers:
            helper.join()
        if errors:
            raise errors[0]
