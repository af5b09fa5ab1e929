"""Inverses of normal operators, exact and approximate: one module per idea, behind one signature.

``INVERSES[kind](problem)`` makes one, or raises `UnsupportedError` where the kind does not exist.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from convmat.solve.inverses.circulant import Circulant
from convmat.solve.inverses.cosine import Cosine
from convmat.solve.inverses.framed import Framed
from convmat.solve.inverses.kronecker import Kronecker
from convmat.solve.inverses.problem import Inverse, Problem
from convmat.solve.inverses.schwarz import Schwarz
from convmat.solve.inverses.terms import UnsupportedError

__all__ = ["INVERSES", "Identity", "Inverse", "Problem", "UnsupportedError"]


class Identity(Inverse):
    """No preconditioner."""

    name = "identity"

    @classmethod
    def fits(cls, problem: Problem) -> bool:
        return False

    def apply(self, r: NDArray[Any]) -> NDArray[Any]:
        return r.copy()


INVERSES: dict[str, type[Inverse]] = {
    "circulant": Circulant,
    "kronecker": Kronecker,
    "dct": Cosine,
    "schwarz": Schwarz,
    "framed": Framed,
    "identity": Identity,
}
"""Kind -> (problem) -> inverse; of several exact ones, the first is the fastest."""
