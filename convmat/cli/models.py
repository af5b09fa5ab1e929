"""A model that the user names -> its linear layers: a file of ONNX, or what makes a module of PyTorch."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import operator
import os
import re
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convmat.cli import arguments, text
from convmat.cli.arguments import BadArgument
from convmat.interop.layer import Layers

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

Shape = tuple[int, ...]
Shapes = Sequence[tuple[str, Shape]]
"""Name of an input, or nothing, and its full shape."""

_FILE = "a_model_of_convmat_layers"
"""The name under which the module of a file is imported: one that hides no other."""


def input_shape(given: str) -> tuple[str, Shape]:
    """Name and shape of ``name=1x3x64x64``; the name is empty where there is none."""
    name, _, shape = given.rpartition("=")
    if not re.fullmatch(r"\d+([x,]\d+)*", shape):
        raise ArgumentTypeError(f"{given!r} must be a shape, such as 1x3x64x64 or image=1x3x64x64")
    return name, arguments.sizes(shape)


def layers_of(model: str, shapes: Shapes) -> Layers:
    """The linear layers of a model.

    Parameters
    ----------
    model : str
        A file of ONNX; or ``module:name`` or ``path/to/file.py:name``, which is called without arguments and returns a
        module of PyTorch, or a pair of one and its example inputs.
    shapes : sequence of (name, shape)
        Of the inputs. For PyTorch a name is that of an argument of the forward; without names the order counts.

    Raises
    ------
    BadArgument
        If there is no such model, or the shapes do not fit it.
    ImportError
        If the extra is missing.
    """
    source, colon, name = model.rpartition(":")
    is_path = Path(model).is_file() or not all(part.isidentifier() for part in name.split("."))
    return _from_onnx(model, shapes) if not colon or is_path else _from_torch(source, name, shapes)


def _from_onnx(path: str, shapes: Shapes) -> Layers:
    from convmat.interop.onnx import from_onnx

    shown = text.printable(path)
    if not Path(path).is_file():
        raise BadArgument(f"{shown} is not a file; a model of PyTorch is written module:function or file.py:function")
    if any(not name for name, _ in shapes):
        raise BadArgument("--input-shape of an ONNX model must name its input, as in image=1x3x64x64")
    try:
        return from_onnx(path, input_shapes=dict(shapes) or None)
    except (TypeError, ValueError) as error:
        hint = "; that is --input-shape NAME=1x3x64x64 here" if "input_shapes" in str(error) else ""
        raise BadArgument(f"{shown}: {error}{hint}") from error


# PyTorch --------------------------------------------------------------------------------------------------------------


def _from_torch(source: str, name: str, shapes: Shapes) -> Layers:
    from convmat.interop.torch_models import from_torch_model
    from convmat.interop.torch_modules import import_torch

    nn = import_torch("convmat layers").nn
    shown = text.printable(f"{source}:{name}")
    with _as_a_script(source):
        model, given = _made(nn, _found(source, name, shown), shown)
        inputs = _examples(model, shapes, shown) if shapes else given
        if not inputs:
            raise BadArgument(f"{shown} returns no example inputs: give their shapes, --input-shape 1x3x64x64")
        try:
            return from_torch_model(model, *inputs)
        except (TypeError, ValueError) as error:
            raise BadArgument(f"{shown}: {error}") from error


@contextmanager
def _as_a_script(source: str) -> Iterator[None]:
    """Imports are found beside the file, or in this folder; what is printed does not get between the lines of JSON."""
    folder = os.path.dirname(os.path.abspath(source)) if _is_file(source) else os.getcwd()
    sys.path.insert(0, folder)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.path.remove(folder)


def _is_file(source: str) -> bool:
    return source.endswith(".py")


def _found(source: str, name: str, shown: str) -> Any:
    """What has that name in a module or in a file."""
    try:
        module = _module_of_file(source) if _is_file(source) else importlib.import_module(source)
    except Exception as error:  # whatever the code of somebody else raises
        raise BadArgument(f"{shown}: {text.printable(source)} cannot be imported: {_told(error)}") from error
    try:
        return operator.attrgetter(name)(module)
    except AttributeError as error:
        raise BadArgument(f"{shown}: {text.printable(source)} has no {name}") from error


def _module_of_file(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(_FILE, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no file of Python")
    sys.modules[_FILE] = module = importlib.util.module_from_spec(spec)  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


def _made(nn: Any, make: Any, shown: str) -> tuple[Module, tuple[Any, ...]]:
    """The module, and the example inputs that come with it."""
    if not callable(make):
        raise BadArgument(f"{shown} is of type {type(make).__name__}: it must be a function or a class of a module")
    try:
        made = make if isinstance(make, nn.Module) else make()
    except Exception as error:
        raise BadArgument(f"{shown} cannot be called without arguments: {_told(error)}") from error
    model, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, ())
    if not isinstance(model, nn.Module):
        raise BadArgument(
            f"{shown} returns an object of type {type(made).__name__}: it must be a torch.nn.Module, or a pair of one "
            f"and its example inputs"
        )
    return model, tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)


def _examples(model: Module, shapes: Shapes, shown: str) -> Sequence[Tensor]:
    """Zeros of these shapes, in the order in which the forward takes them."""
    import torch

    numbers = (p.dtype for p in model.parameters() if p.is_floating_point() or p.is_complex())
    dtype = next(numbers, torch.get_default_dtype())
    try:
        in_order = [torch.zeros(shape, dtype=dtype) for name, shape in shapes if not name]
        named = {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes if name}
        bound = inspect.signature(model.forward).bind(*in_order, **named)
    except (TypeError, RuntimeError) as error:
        raise BadArgument(f"--input-shape does not fit the forward of {shown}: {error}") from error
    if bound.kwargs:
        raise BadArgument(
            f"--input-shape {next(iter(bound.kwargs))}=... is taken by name alone in the forward of {shown}"
        )
    return bound.args


def _told(error: Exception) -> str:
    return text.printable(f"{type(error).__name__}: {error}".rstrip(": "))
