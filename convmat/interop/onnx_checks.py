"""What a model must hold before it is read: text, functions of a bounded size, and nodes that the standard knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, NodeProto

STANDARD = ("", "ai.onnx")
"""The names of the domain of the standard's operators."""

INLINED_NODES, INLINED_BYTES = 2**16, 2**28
"""What the functions of a model may become where they are called."""


def printable(text: str) -> str:
    r"""The text, with ``\x1b`` and the like for what a terminal would not show as a character."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@contextmanager
def reading(what: str | Callable[[], str]) -> Iterator[None]:
    """Let what a library raises at a broken model be a ValueError that begins with `what`.

    The kinds are many, and differ between the versions of the library.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        begin = what if isinstance(what, str) else what()
        if isinstance(error, MemoryError):
            raise MemoryError(f"{begin}: it needs more memory than there is") from error
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{begin}: {kind}{printable(' '.join(str(error).split()))}") from error


def title(node: NodeProto) -> str:
    """A node as a message names it: operator, name, and its attributes that are short."""
    name = node.name or next(filter(None, node.output), "")
    given = ", ".join(f"{printable(a.name)}={shown(a)}" for a in node.attribute if shown(a))
    return f"{printable(node.op_type)} {name!r}" + (f" ({given})" if given else "")


def shown(attribute: AttributeProto) -> str:
    """The value of an attribute of numbers or text, as Python writes it; nothing for others."""
    fields = {1: attribute.f, 2: attribute.i, 3: attribute.s, 6: list(attribute.floats), 7: list(attribute.ints)}
    text = repr(fields.get(attribute.type, ""))
    return "" if text == "''" else text if len(text) < 100 else text[:97] + "..."


def check_text(proto: ModelProto) -> None:
    """Raise if a name in the model is no UTF-8: protobuf gives bytes then, where a string is expected."""
    from google.protobuf.descriptor import FieldDescriptor
    from onnx import TensorProto

    messages: list[Any] = [proto]
    while messages:
        message = messages.pop()
        if isinstance(message, TensorProto):
            fields = [(message.DESCRIPTOR.fields_by_name["name"], message.name)]  # its data are long
        else:
            fields = message.ListFields()
        for field, value in fields:
            values = [value] if isinstance(value, str | bytes) or not isinstance(value, Iterable) else value
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                messages.extend(values)
            elif field.type == FieldDescriptor.TYPE_STRING:
                wrong = next((text for text in values if isinstance(text, bytes)), None)
                if wrong is not None:
                    raise ValueError(f"model has a text that is not UTF-8: {field.full_name}={wrong!r}")


def check_functions(proto: ModelProto) -> None:
    """Raise if the functions of the model call each other in a circle, or become too long where they are called."""
    from onnx import FunctionProto

    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    calls: dict[Any, Counter[Any]] = {}  # those of the whole model under None
    sizes: dict[Any, tuple[int, int]] = {}  # nodes and bytes of a body, without those it calls
    for key, body in [*functions.items(), (None, proto.graph)]:
        called = [(node.domain, node.op_type, node.overload) for node in nodes_of(body)]
        calls[key] = Counter(one for one in called if one in functions)
        sizes[key] = (len(called), body.ByteSize()) if isinstance(body, FunctionProto) else (0, 0)

    totals: dict[Any, tuple[int, int]] = {}
    waiting: list[Any] = [None]
    begun: set[Any] = set()
    while waiting:
        key = waiting[-1]
        missing = [called for called in calls[key] if called not in totals]
        if missing and key in begun:
            raise ValueError(f"model has a function {key[1]!r} that calls itself")
        begun.add(key)
        waiting.extend(missing)
        if not missing:
            waiting.pop()
            parts = [(times, totals[called]) for called, times in calls[key].items()]
            totals[key] = tuple(  # type: ignore[assignment]
                own + sum(times * part[i] for times, part in parts) for i, own in enumerate(sizes[key])
            )
    nodes, size = totals[None]
    if nodes > INLINED_NODES or size > INLINED_BYTES:
        raise ValueError(
            f"model has functions that become {nodes} nodes and {size} bytes where they are called: at most "
            f"{INLINED_NODES} nodes and {INLINED_BYTES} bytes are read"
        )


def nodes_of(body: Any) -> Iterator[NodeProto]:
    """Every node of a function or graph, also in the graphs of its nodes, in no certain order."""
    bodies = [body]
    while bodies:
        for node in bodies.pop().node:
            yield node
            for attribute in node.attribute:
                bodies += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def check_node(node: NodeProto, opsets: Mapping[str, int]) -> None:
    """Raise if a node of the standard has inputs, outputs or attributes that its operator does not.

    Shape inference reads past the end of such nodes, and ends the process.
    """
    from onnx import GraphProto, NodeProto, checker, defs

    version = opsets.get("")
    if version is None or node.domain not in STANDARD or not defs.has(node.op_type):
        return
    try:
        if defs.get_schema(node.op_type, version).deprecated:
            return
    except defs.SchemaError:  # newer than the model, or than this onnx
        return
    bare = NodeProto()
    bare.CopyFrom(node)
    for attribute in bare.attribute:  # the nodes of inner graphs are checked where they stand
        if attribute.HasField("g"):
            attribute.g.CopyFrom(GraphProto(name="graph"))
    context = checker.C.CheckerContext()
    context.ir_version, context.opset_imports = 10, dict.fromkeys(STANDARD, version)
    with reading(lambda: f"{title(node)} breaks the rules of the standard"):
        checker.check_node(bare, context)
    ranges = _UNCHECKED | {("Split", "num_outputs"): range(len(node.output), len(node.output) + 1)}
    for attribute in node.attribute:
        allowed = ranges.get((node.op_type, attribute.name))
        if allowed and attribute.i not in allowed:
            raise ValueError(
                f"{title(node)} breaks the rules of the standard: {attribute.name} must be in "
                f"{allowed.start}..{allowed.stop - 1}"
            )


_UNCHECKED = {("GatherND", "batch_dims"): range(2**10), ("LayerNormalization", "axis"): range(-(2**10), 2**10)}
"""Operator and attribute -> the values with which shape inference stays in its memory, and ends; it does not ask."""
