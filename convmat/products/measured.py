"""``method="measure"``: the methods that promise well, timed on the real image when a product is first made.

The winner is remembered for as long as the process lives: for a layer's geometry, a direction, a dtype, a number of
threads and the methods that were tried. Everybody who waits for it waits for one measurement.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence

from convmat.products.plan import Estimate

PROMISING = 4.0
"""Methods are timed whose expected cost is at most so many times the least."""

ROUNDS = 5
"""Turns of each method, of which the fastest counts."""

PATIENCE = 0.5
"""Seconds after which no further round begins."""

HOPELESS = 2.0
"""A method that took so many times the best of a round has no further turn."""

_winners: dict[Hashable, str] = {}
_lock = threading.Lock()


def promising(expected: Sequence[Estimate], transpose: bool) -> list[str]:
    """The methods to time, the most promising one first."""
    costs = {e.method: e.transpose if transpose else e.forward for e in expected}
    limit = PROMISING * min(costs.values())
    return sorted((method for method in costs if costs[method] <= limit), key=costs.__getitem__)


def fastest(methods: Sequence[str], product: Callable[[str], object], case: Hashable) -> str:
    """The method whose product takes the least time; measured if that is not known of the case."""
    key = (case, tuple(methods))
    if key not in _winners:
        with _lock:
            if key not in _winners:
                _winners[key] = _measure(methods, product) if len(methods) > 1 else methods[0]
    return _winners[key]


def _measure(methods: Sequence[str], product: Callable[[str], object]) -> str:
    for method in methods:
        product(method)  # plans are made, code is compiled, memory is touched
    best = dict.fromkeys(methods, float("inf"))
    begin = time.perf_counter()
    for turn in range(ROUNDS):
        limit = HOPELESS * min(best.values())
        for method in methods:
            if best[method] <= limit or turn == 0:
                start = time.perf_counter()
                product(method)
                best[method] = min(best[method], time.perf_counter() - start)
        if time.perf_counter() - begin > PATIENCE:
            break
    return min(methods, key=best.__getitem__)
