"""Every property of the other modules on many more random layers, other ones on each run: `pytest -m slow`."""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmat.products import usable
from tests import (
    test_blocks,
    test_factors,
    test_geometry,
    test_matrix,
    test_operators,
    test_parts,
    test_patterns,
    test_taps,
    test_weights,
)
from tests.strategies import layers, transposed_layers, tries

MODULES = (
    test_taps, test_parts, test_patterns, test_geometry, test_matrix, test_operators, test_blocks, test_factors,
    test_weights,
)  # fmt: skip

DRAWN = {
    "axis": test_taps.every_axis,
    "case": transposed_layers(),
    "data": st.data(),
    "layer": layers(),
    "method": st.sampled_from([*usable(), "auto"]),
}


def properties():
    """The tests all of whose arguments can be drawn."""
    found = []
    for module in MODULES:
        for name, test in inspect.getmembers(module, inspect.isfunction):
            if getattr(test, "is_hypothesis_test", False) and name.startswith("test_"):
                drawn = set(inspect.signature(test.hypothesis.inner_test).parameters)
                if drawn <= set(DRAWN):
                    found.append(pytest.param(test.hypothesis.inner_test, id=f"{module.__name__}-{name}"))
    return found


def test_there_is_much_to_sweep():
    assert len(properties()) > 25


@pytest.mark.slow
@pytest.mark.parametrize("fact", properties())
def test_properties_hold_on_thousands_of_random_layers(fact):
    drawn = {name: DRAWN[name] for name in inspect.signature(fact).parameters}
    tries(1500, derandomize=False, deadline=None)(given(**drawn)(fact))()
