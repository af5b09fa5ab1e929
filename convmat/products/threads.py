"""The threads of this package: one pool for the process, and BLAS held to the thread that calls it.

A BLAS has threads of its own, which wait for each other in loops that take a whole core. Where another process wants
that core, or where the other threads are ours, a product of a millisecond can take a second. So there is one kind of
thread, ours, which sleep while they wait, and what they call runs on the thread that calls it.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VARIABLE = "CONVMAT_NUM_THREADS"

_this_thread = threading.local()

# The allocator of glibc returns a large block to the system when it is freed, until it has seen one of that size freed;
# then it keeps them. From here on, up to 31 MB: the page faults of ever new memory for the tiles of an FFT, which scipy
# allocates, take more time than the FFT. Elsewhere this does nothing.
np.empty(31 * 2**20, dtype=np.uint8)


def workers() -> int:
    """How many threads one product may use: CONVMAT_NUM_THREADS, or else the cores that this process has.

    These are the cores it may run on, or fewer where a container has a quota of processor time. One inside `alone`.

    Raises
    ------
    ValueError
        If the variable is set to something other than a positive integer.
    """
    if getattr(_this_thread, "alone", False):
        return 1
    asked = os.environ.get(VARIABLE, "")
    if asked:
        if not (asked.isascii() and asked.isdigit()) or int(asked) < 1:
            raise ValueError(f"{VARIABLE}={asked!r} must be a positive integer")
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota >= cores else max(1, math.ceil(quota))


@contextmanager
def alone() -> Iterator[None]:
    """Hold the products that this thread asks for to this thread: for what runs in the threads of others."""
    before = getattr(_this_thread, "alone", False)
    _this_thread.alone = True
    try:
        yield
    finally:
        _this_thread.alone = before


@cache
def cpu_quota(root: Path = Path("/")) -> float:
    """How many cores' time the control groups of Linux leave to this process: infinity where they set no quota.

    The least of its group and of those that hold it, in version 1 and 2 of their files.
    """
    mount, found = root / "sys/fs/cgroup", [math.inf]
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = mount / "cpu" if controllers else mount
        group = top / path.lstrip("/")
        found += [_quota(folder) for folder in (group, *group.parents) if folder.is_relative_to(top)]
    return min(found)


def _quota(folder: Path) -> float:
    pair = _text(folder / "cpu.max").split() or [_text(folder / f"cpu.cfs_{word}_us") for word in ("quota", "period")]
    try:
        quota, period = map(int, pair)
        return quota / period if quota > 0 else math.inf
    except (ValueError, ZeroDivisionError):  # "max", or no such files
        return math.inf


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


@contextmanager
def blas_on_one_thread() -> Iterator[None]:
    """Hold BLAS and LAPACK to the thread that calls them. May be nested, and entered by several threads at once.

    A number of threads belongs to the whole process, but for a BLAS on OpenMP, where each thread has its own.
    """
    shared = _shared
    own = _limit(library for library in _libraries() if _has_own_number(library))
    shared.hold()
    try:
        yield
    finally:
        shared.let_go()
        _restore(own)


class _Shared:
    """The libraries whose number of threads belongs to the process: one, from the first who holds it to the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._before: list[tuple[Any, int]] = []

    def hold(self) -> None:
        with self._lock:
            if self._holders == 0:
                self._before = _limit(library for library in _libraries() if not _has_own_number(library))
            self._holders += 1

    def let_go(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                _restore(self._before)


def _limit(libraries: Iterable[Any]) -> list[tuple[Any, int]]:
    """Set one thread; return the libraries for which that had an effect, and how many they had."""
    before = [(library, library.get_num_threads() or 1) for library in libraries]
    for library, count in before:
        if count > 1:
            library.set_num_threads(1)
    return [(library, count) for library, count in before if count > 1 and library.get_num_threads() == 1]


def _restore(before: list[tuple[Any, int]]) -> None:
    for library, count in before:
        # From 3.8 on threadpoolctl obeys the thread alone that was the first to set a number: that was one of ours.
        clear = getattr(library, "clear_controlling_thread", lambda force: None)
        clear(force=True)
        library.set_num_threads(count)
        clear(force=True)


@cache
def _libraries() -> tuple[Any, ...]:
    """Looked for once: those of numpy and scipy are there when this package is."""
    from threadpoolctl import ThreadpoolController

    return tuple(ThreadpoolController().select(user_api="blas").lib_controllers)


def _has_own_number(library: Any) -> bool:
    return getattr(library, "threading_layer", "") == "openmp"


_shared = _Shared()


@cache
def _helpers(count: int) -> ThreadPoolExecutor:
    """The threads that help the callers of `Pool.run`, shared by all of them, started when they are first needed."""
    return ThreadPoolExecutor(count, thread_name_prefix="convmat")


def _after_fork() -> None:
    """A child process has none of its parent's threads, and nothing that they hold is ever let go."""
    global _shared
    _helpers.cache_clear()
    _shared = _Shared()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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


def _taken(idle: list[Scratch]) -> Scratch:
    try:
        return idle.pop()
    except IndexError:
        return Scratch()


class Pool:
    """The work arrays of a plan: as many sets as threads have ever used it at once."""

    def __init__(self) -> None:
        self._idle: list[Scratch] = []

    def alone(self, task: Callable[..., None], *piece: Any) -> None:
        """Call ``task(scratch, *piece)`` here and now: for what calls no BLAS and is over before help would come."""
        scratch = _taken(self._idle)
        try:
            task(scratch, *piece)
        finally:
            self._idle.append(scratch)

    def run(self, task: Callable[..., None], pieces: Iterable[tuple[Any, ...]], threads: int) -> None:
        """Call ``task(scratch, *piece)`` for each piece, on the given number of threads; raise the first error again.

        The caller works too. It waits for pieces that a helper is at, never for a helper that has not come yet: on a
        busy machine that may take longer than all of the work. See `_Company` for what else such a machine costs.
        """
        job = _Job(task, pieces, self._idle, threads)
        with blas_on_one_thread():
            helping = _call(job.work, threads) if threads > 1 and _company.pays() else []
            begin = time.perf_counter()
            try:
                job.work(0)
            finally:
                worked = time.perf_counter()
                for future in helping:
                    future.cancel()
                job.close()
        if helping:
            _company.learn(worked - begin, time.perf_counter() - worked)
        if job.errors:
            raise job.errors[0]


class _Company:
    """Whether helpers are worth asking: where other processes want the cores, a helper that has begun a piece may be
    put to sleep in the middle of it, for longer than a short product takes, and its caller has to wait.

    A caller that waited much longer than it worked is on such a machine; then all work alone, for a while, and longer
    if it is still so after that.
    """

    def __init__(self) -> None:
        self._alone_until, self._pause = 0.0, _SHORTEST_PAUSE

    def pays(self) -> bool:
        return time.perf_counter() >= self._alone_until

    def learn(self, worked: float, waited: float) -> None:
        """From the seconds that a caller worked itself, and those that it waited for its helpers after that."""
        if waited > max(_MUCH * worked, _SHORT_WAIT):
            self._alone_until = time.perf_counter() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        else:
            self._pause = _SHORTEST_PAUSE


_MUCH, _SHORT_WAIT = 1.5, 0.0005
"""A wait of more than so many times the caller's own work is too long, if it is of more than so many seconds."""

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
"""Seconds for which callers then work alone."""

_company = _Company()


class _Job:
    """Pieces of work that several threads take: each from its own place on, and then those that others have left.

    So the same thread does mostly the same pieces of a product that is made again, whose memory is in its cache.
    """

    def __init__(
        self, task: Callable[..., None], pieces: Iterable[tuple[Any, ...]], idle: list[Scratch], threads: int
    ) -> None:
        self._task, self._idle, self._threads = task, idle, max(1, threads)
        self._left: list[tuple[Any, ...] | None] = list(pieces)
        self._under_way, self._closed = 0, False
        self._changed = threading.Condition()
        self.errors: list[BaseException] = []

    def work(self, number: int) -> None:
        """Take pieces until none are left, or one has failed; as the thread of that number."""
        scratch = _taken(self._idle)
        count = len(self._left)
        for place in range(number * count // self._threads, (number * count // self._threads) + count):
            with self._changed:
                if self.errors or self._closed:
                    break
                piece, self._left[place % count] = self._left[place % count], None
                if piece is None:
                    continue
                self._under_way += 1
            try:
                self._task(scratch, *piece)
            except BaseException as error:  # raised again by the caller's thread
                self.errors.append(error)
            finally:
                with self._changed:
                    self._under_way -= 1
                    self._changed.notify()
        self._idle.append(scratch)

    def close(self) -> None:
        """Give out no more pieces, and wait until none is under way."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._under_way == 0)


def _call(work: Callable[[int], None], threads: int) -> list[Future[None]]:
    """Ask helpers to work, as they become free: as the threads from number 1 on."""
    try:
        pool = _helpers(max(threads, workers()) - 1)
        return [pool.submit(_help, work, number) for number in range(1, threads)]
    except RuntimeError:  # the interpreter is ending, or the system has no more threads: the caller does it all
        return []


@blas_on_one_thread()
def _help(work: Callable[[int], None], number: int) -> None:
    work(number)
