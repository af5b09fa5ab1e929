"""Operators as files: a plain .npz without pickle, which ``numpy.load(path, allow_pickle=False)`` opens.

===================== =================================================================================
`archive`             arrays in a .npz, for a reader that trusts nobody
`kinds`               what is stored of each class, one entry each
===================== =================================================================================

A file of version 1 holds one convolution: its weight, bit for bit, and its arguments, resolved; those of a transposed
convolution are of the convolution that it transposes. A file of version 2 holds an operator made of others: each part
once, as its number and the names of its fields say ("3/weight"), after those that it is made of; the last is the whole.
A SHA-256 of all fields tells a damaged or edited file; it signs nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from convmat.operators import ImageOperator
from convmat.storage.archive import MEMBERS, Archive, digest, opened, write
from convmat.storage.kinds import CONVOLUTION, FIELDS, KINDS, NAMES, OPERATORS, Kind, decoded, put_together, taken

__all__ = ["load", "save"]

_FORMAT = "convmat operator"
_VERSIONS = (1, 2)

_LEVELS = 100
"""How deep parts may be nested: a product, a transpose, a matrix take some calls of Python per level, of its 1,000."""

_NUMBERED = re.compile(rf"(0|[1-9]\d{{0,4}})/({'|'.join(FIELDS)})", re.ASCII)
"""The name of a field in version 2."""

Node = dict[str, NDArray[Any]]
"""One part: its kind, the numbers of the parts that it is made of, its fields."""


def save(operator: ImageOperator, path: str | os.PathLike[str] | IO[bytes]) -> None:
    """Write an operator to a .npz file, to be read by `load`.

    An existing file is replaced in one step, when the new one is complete. Equal operators give equal files. A part
    that is the same object in several places is written once.

    Parameters
    ----------
    operator : ImageOperator
        A convolution, a factor, another layer, a weight operator, or what is made of these by products, sums,
        multiples, stacks and transposes.
    path : str, path or binary file
        As for ``numpy.savez``, ".npz" is appended to a name that does not end with it.

    Raises
    ------
    TypeError
        If the operator, or a part of it, is of another type, or `path` is neither a path nor a file.
    ValueError
        If the operator has some thousand parts, or they are nested more than a hundred levels deep.
    OSError
        If the file cannot be written; what was there before stays.

    See Also
    --------
    scipy.sparse.save_npz : for the matrix, ``A.tosparse()``.

    References
    ----------
    .. [1] ``numpy.lib.format``

    Examples
    --------
    >>> import io
    >>> import numpy as np
    >>> from convmat import Conv2d, identity, vstack
    >>> from convmat.storage import load, save
    >>> A = Conv2d(np.ones((8, 3, 3, 3), np.float32), (32, 32), stride=2, padding="same_upper")
    >>> file = io.BytesIO()
    >>> save(vstack([A, 0.1 * identity(A.input_shape)]), file)
    >>> _ = file.seek(0)
    >>> B = load(file)
    >>> B
    <5120x3072 VStack with dtype=float64>
    >>> np.array_equal(B.parts()[0].weight, A.weight)
    True
    """
    nodes = _nodes(operator)
    alone = len(nodes) == 1 and set(nodes[0]) == {"kind", *CONVOLUTION}
    fields = {
        "format": np.array(_FORMAT),
        "version": np.array(1 if alone else 2, dtype=np.int64),
        **(
            nodes[0]
            if alone
            else {f"{at}/{name}": array for at, node in enumerate(nodes) for name, array in node.items()}
        ),
    }
    if len(fields) >= MEMBERS:
        raise ValueError(
            f"operator has {len(nodes)} parts, with {len(fields)} fields: a file holds at most {MEMBERS}; save the "
            f"parts in several files"
        )
    write(path, fields | {"sha256": np.array(digest(fields))})


def load(path: str | os.PathLike[str] | IO[bytes]) -> ImageOperator:
    """Read an operator that `save` wrote: of the same class, with the same geometry, weight, dtype and method.

    Nothing in the file is executed. Unlike ``numpy.load``, a name without ".npz" means the file that `save` wrote under
    this name.

    Parameters
    ----------
    path : str, path or binary file
        A file is read from where it stands to its end, and stays open; one that cannot seek is held in memory.

    Returns
    -------
    ImageOperator
        Of the class that was saved, and so its parts. A part that was the same object in several places is so again.

    Raises
    ------
    TypeError
        If `path` is neither a path nor a binary file.
    ValueError
        If the file is no file of `save`, of a newer version, damaged, edited, or does not describe an operator.
    MemoryError
        If the weight that the file holds is more than this machine has available.
    OSError
        If the file cannot be read.
    """
    with opened(path) as archive:
        name, nodes = archive.name, _read(archive)
    try:
        return _operator(nodes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} does not describe an operator: {error}") from error


# %% Operators as nodes


def _nodes(operator: ImageOperator) -> list[Node]:
    """The parts of an operator, each after those that it is made of."""
    if not isinstance(operator, ImageOperator):
        raise TypeError(_refusal("operator", operator))
    numbers: dict[int, int] = {}
    parts: dict[int, tuple[Any, ...]] = {}
    order: list[Any] = []
    waiting: list[Any] = [operator]
    while waiting:
        part = waiting[-1]
        if id(part) in numbers:
            waiting.pop()
        elif id(part) in parts:
            numbers[id(part)] = len(order)
            order.append(waiting.pop())
        else:
            if type(part) not in NAMES:
                raise TypeError(_refusal("operator" if part is operator else "a part of the operator", part))
            kind = KINDS[NAMES[type(part)]]
            parts[id(part)] = kind.parts(part) if kind.parts else ()
            waiting += reversed(parts[id(part)])
    places = [[numbers[id(inner)] for inner in parts[id(part)]] for part in order]
    _check_levels("operator", places)
    return [_node(part, inner) for part, inner in zip(order, places, strict=True)]


def _node(part: Any, places: list[int]) -> Node:
    name = NAMES[type(part)]
    inner = {"parts": np.array(places, dtype=np.int64)} if KINDS[name].parts else {}
    return {"kind": np.array(name), **inner, **taken(KINDS[name], part)}


def _operator(nodes: list[Node]) -> ImageOperator:
    """The operator of these nodes, by the rules for the arguments of calls.

    Raises
    ------
    TypeError, ValueError
        If there is none.
    """
    kinds = [_kind(node) for node in nodes]
    places = [_places(at, node) for at, node in enumerate(nodes)]
    _check_levels("it", places)
    if unused := set(range(len(nodes) - 1)).difference(*places):
        raise ValueError(f"part {min(unused)} is a part of no other")
    made: list[Any] = []
    for at, kind in enumerate(kinds):
        try:
            made.append(put_together(kind, tuple(made[place] for place in places[at]), nodes[at]))
        except (TypeError, ValueError) as error:
            where = f"part {at}, a {NAMES[kind.made]}: " if len(nodes) > 1 else ""
            raise ValueError(f"{where}{error}") from error
    if not isinstance(made[-1], ImageOperator):
        raise ValueError(f"it is a {NAMES[kinds[-1].made]}, and must be one of {', '.join(OPERATORS)}")
    operator: ImageOperator = made[-1]
    return operator


def _kind(node: Node) -> Kind:
    """The kind of a node, if it has the fields of one."""
    name = decoded("kind", node["kind"]) if "kind" in node else ""
    if name not in KINDS:
        raise ValueError(f"kind={name!r} must be one of {', '.join(KINDS)}")
    kind = KINDS[name]
    expected = {"kind", *kind.fields, *(["parts"] if kind.parts else [])}
    if set(node) != expected:
        raise ValueError(f"a {name} must have the fields {', '.join(sorted(expected))}, not {', '.join(sorted(node))}")
    return kind


def _places(at: int, node: Node) -> list[int]:
    """The numbers of the parts of a node, if they stand before it."""
    parts = decoded("parts", node["parts"]) if "parts" in node else np.zeros(0, dtype=np.int64)
    if parts.size and not 0 <= parts.min() <= parts.max() < at:
        raise ValueError(f"the parts of part {at} must stand before it, not from {parts.min()} to {parts.max()}")
    places: list[int] = parts.tolist()
    return places


def _check_levels(name: str, places: Iterable[list[int]]) -> None:
    levels: list[int] = []
    for inner in places:
        levels.append(1 + max((levels[place] for place in inner), default=0))
    if levels[-1] > _LEVELS:
        raise ValueError(
            f"{name} has parts that are nested {levels[-1]} levels deep: a file holds at most {_LEVELS}; save the "
            f"parts in several files"
        )


def _refusal(what: str, thing: Any) -> str:
    kind, instead = type(thing), "save its matrix, by scipy.sparse.save_npz or numpy.save"
    if isinstance(thing, ImageOperator):
        instead = "save tosparse() by scipy.sparse.save_npz"
        if kind.__module__.startswith("convmat."):
            instead = f"save the operator that it was made from and make it again, or {instead}"
    return f"{what} is of type {kind.__name__}: it must be one of {', '.join(OPERATORS)}; {instead}"


# %% Nodes as fields


def _read(archive: Archive) -> list[Node]:
    """The nodes of a file, if it is one of a version that is known here, complete and unchanged."""
    name, names = archive.name, archive.fields
    if "format" not in names or not _says(archive.array("format"), _FORMAT):
        raise ValueError(f"{name} is not a file of convmat.save: its field 'format' is not {_FORMAT!r}")
    version = archive.array("version")
    if version.shape != () or version.dtype.kind != "i":
        raise ValueError(f"{name} is damaged: its version is not an integer")
    if version not in _VERSIONS:
        hint = ", a newer convmat wrote it" if version > _VERSIONS[-1] else ""
        raise ValueError(f"{name} has version {version}{hint}: this one reads versions 1 and 2")
    inner = {"kind", *CONVOLUTION} if version == 1 else {field for field in names if _NUMBERED.fullmatch(field)}
    _check_names(name, names, inner, "" if version == 1 else ", and those of its parts, such as 0/kind")
    fields = {field: archive.array(field, large=_is_large(field)) for field in names}
    if not _says(fields.pop("sha256"), digest(fields)):
        raise ValueError(f"{name} is damaged or was edited: its SHA-256 is another")
    nodes: dict[int, Node] = {}
    for field in names:
        if field in inner:
            place, _, base = field.rpartition("/")
            nodes.setdefault(int(place or 0), {})[base] = fields[field]
    if not nodes or max(nodes) >= len(nodes):
        raise ValueError(f"{name} has {len(nodes)} parts: they must be numbered from 0, without gaps")
    return [nodes[place] for place in range(len(nodes))]


def _check_names(name: str, names: list[str], inner: set[str], others: str) -> None:
    expected = {"format", "version", "sha256", *inner}
    if len(names) != len(expected) or set(names) != expected:
        listed = ", ".join(sorted(expected - inner if others else expected))
        raise ValueError(
            f"{name} must have the fields {listed}{others}, once each; missing: {_list(expected.difference(names))}; "
            f"unknown: {_list(set(names) - expected)}"
        )


def _is_large(field: str) -> bool:
    base = field.rpartition("/")[2]
    return base in FIELDS and FIELDS[base].large


def _says(array: NDArray[Any], text: str) -> bool:
    return array.dtype.kind == "U" and array.shape == () and bool(array == text)


def _list(names: Iterable[str]) -> str:
    """The first few names, without what a terminal would obey."""
    return ", ".join(ascii(name)[1:-1][:40] for name in sorted(names)[:9]) or "none"
