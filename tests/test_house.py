"""Imports go downwards only, from room to room and inside each."""

import ast
from pathlib import Path

import pytest

import convmat

PACKAGE = Path(convmat.__file__).parent

FLOORS = [
    ["taps", "html"],
    ["patterns", "parts"],
    ["occupancy"],
    ["geometry"],
    ["matrix"],
    ["products"],
    ["operators"],
    ["spectrum"],
    ["solve"],
    ["testing", "storage", "scale"],
    ["interop"],
    ["plot"],
    ["cli"],
]
"""What stands on a floor imports from its own room and from the floors before it."""

FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imports(name: str) -> set[str]:
    """The modules of the package that a module imports, wherever it does so."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inside & set(MODULES)) or ({node.module} & set(MODULES))
    return found - {"convmat"}


GRAPH = {name: imports(name) for name in MODULES}


def room(name: str) -> str:
    return name.split(".")[1]


def test_every_module_has_a_floor_and_few_stand_at_the_top():
    rooms = {room(name) for name in MODULES if name not in ("convmat", "convmat.__main__")}
    assert rooms == set(FLOOR)
    assert len(list(PACKAGE.glob("*.py"))) <= 10


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"convmat", "convmat.__main__"}))
def test_a_module_imports_from_lower_floors_and_its_own_room_alone(name):
    above = {other for other in GRAPH[name] if room(other) != room(name) and FLOOR[room(other)] >= FLOOR[room(name)]}
    assert not above


def test_no_imports_run_in_a_circle():
    left = {name: set(below) for name, below in GRAPH.items() if name != "convmat"}
    while free := [name for name, below in left.items() if not below & set(left)]:
        for name in free:
            del left[name]
    assert not left
