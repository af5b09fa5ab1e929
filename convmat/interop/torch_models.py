"""Whole models of PyTorch: every linear layer of any module, and the affine maps between the non-linear ones.

Needs the extra `torch`, which is imported when it is first used.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat.interop.layer import Layer, Layers, as_bias, unused
from convmat.interop.torch import image_of, joined
from convmat.interop.torch_layers import READERS, is_quantised, kind_of, reader_of, why_not_linear
from convmat.interop.torch_modules import (
    at,
    check_initialised,
    dtype_of,
    evaluating,
    import_torch,
    leaves,
    result_type,
)
from convmat.operators import ImageOperator, Rearrange, simplify
from convmat.operators.convolution import ConvTranspose

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["affine_pieces", "from_torch_model"]

Shape = tuple[int, ...]


def from_torch_model(model: Module, *inputs: Any) -> Layers:
    """Every linear layer of a model of PyTorch, as an operator with an offset.

    One forward pass on example inputs, in evaluation mode, finds the sizes and what is connected to what. Then each
    module that `from_torch` reads becomes a `Layer`. The model is left as it was found.

    Parameters
    ----------
    model : torch.nn.Module
        Any module. Its current parameters are copied.
    *inputs : Tensor, or whatever else the forward of the model takes
        One example for each of its arguments, with the batch axis in front. Their values do not matter where they do
        not decide which layers are called.

    Returns
    -------
    Layers
        A dict of `Layer` by qualified name, such as ``"layer1.0.conv2"``, in the order of the calls; a model that is a
        single layer has the name of its class. A module that was called with several sizes is there under each: the
        later ones get ``#2``, ``#3``, ... at the end. One that is registered twice has its first name.

        Its attribute `skipped` has the name of every other layer and the reason: it is not linear, was not called, has
        hooks or a forward of its own, or is a block with parameters of its own.

    Raises
    ------
    ImportError
        If PyTorch is missing; it names the extra.
    TypeError
        If `model` is not a module, `inputs` hold no tensor, or a part of the model is a ScriptModule.
    ValueError
        If there are no inputs, a lazy layer has no parameters yet, or the forward of the model fails.

    See Also
    --------
    from_torch : one layer, or a `Sequential` of linear ones as one operator.
    affine_pieces : a `Sequential` with non-linear layers, as affine maps between these.
    norm_bounds : the Lipschitz constant of each.

    Notes
    -----
    ``layer.inputs[i]`` and ``layer.outputs[i]`` name the tensor that went into the i-th call of the layer, and the one
    that came out. A tensor has the name of the module that made it, with ``#2``, ``#3``, ... for later calls;
    ``inputs[0]``, ``inputs[1]``, ... are the tensors that went into the model. One that a function made, such as
    ``x + y`` or a concatenation, is ``tensor``, ``tensor#2``, ..., or has the name of the module that returned it, and
    is ``output`` if that is the model. A tensor that is changed in place is another one afterwards. Functions are
    called by no module: they are neither layers nor skipped.

    A layer without parameters has the dtype of the tensor that went in. A transposed convolution that is called with
    ``output_size`` has that size. During the pass all its tensors are kept.

    References
    ----------
    .. [1] ``torch.nn.Module.register_forward_hook``, https://pytorch.org/docs/stable/generated/torch.nn.Module.html

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from convmat import from_torch_model
    >>> class Block(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv = torch.nn.Conv2d(4, 4, 3, padding=1)
    ...         self.norm, self.relu = torch.nn.BatchNorm2d(4), torch.nn.ReLU()
    ...     def forward(self, x):
    ...         return self.relu(x + self.norm(self.conv(x)))
    >>> layers = from_torch_model(torch.nn.Sequential(Block(), Block()), torch.zeros(1, 4, 8, 8))
    >>> list(layers)
    ['0.conv', '0.norm', '1.conv', '1.norm']
    >>> layers["1.conv"].operator, layers["1.conv"].inputs, layers["1.conv"].outputs
    (<256x256 Conv2d with dtype=float32>, ('0.relu',), ('1.conv',))
    >>> layers.skipped
    {'0.relu': 'it is not linear', '1.relu': 'it is not linear'}
    """
    torch = import_torch("from_torch_model")
    _check(torch, model, inputs)
    names = {module: name or type(module).__name__ for name, module in _listed(torch, model)}
    layers, times = Layers(), Counter[str]()
    with evaluating(model):
        calls = _calls(torch, model, names, inputs)
        called = {call.module for call in calls}
        for module, name in names.items():
            if module not in called:
                layers.skipped[name] = "it was not called"
        for (module, taken, made, dtype), same in _grouped(calls).items():
            try:
                A, bias = _read(module, taken, made, dtype)
            except (TypeError, ValueError) as error:
                layers.skipped[names[module]] = str(error)
                continue
            key = unused(names[module], layers, times)
            layers[key] = Layer(key, A, bias, tuple(c.source for c in same), tuple(c.target for c in same))
    return layers


def affine_pieces(sequential: Module, input_size: int | Sequence[int]) -> list[Layer[ImageOperator] | Module]:
    """The affine maps between the non-linear layers of a `Sequential`, in order, with these layers in between.

    Interval bounds, linear programmes and mixed-integer ones are made of these: ``pieces[::2]`` are affine,
    ``pieces[1::2]`` are not.

    Parameters
    ----------
    sequential : torch.nn.Module
        A `Sequential` of layers, nested as deep as you like, or one layer. Current parameters are copied.
    input_size : int or tuple of int
        As for `from_torch`: the shape of one image, without a batch axis.

    Returns
    -------
    list
        An odd number of pieces: `Layer`, module, `Layer`, ..., `Layer`. Each `Layer` is what `simplify` makes of all
        the layers in its place; where there are none it is an identity. Its name has their positions, ``"0+1"``, or is
        ``"identity"``. The modules are those of `sequential` which `from_torch` does not know as linear: activations,
        max-pooling, and modules with a forward of their own.

    Raises
    ------
    ImportError
        If PyTorch is missing; it names the extra.
    TypeError
        If `sequential` is not a module, a linear layer has a forward of its own, or a module in between does not give
        one tensor.
    ValueError
        As for `from_torch`, or if a module in between fails on an image of zeros, by which its output size is found.

    See Also
    --------
    from_torch : a `Sequential` of linear layers as one operator.
    from_torch_model : every linear layer of any module.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from convmat import affine_pieces
    >>> nn = torch.nn
    >>> net = nn.Sequential(
    ...     nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ... ).double().eval()
    >>> first, relu, last = affine_pieces(net, (8, 8))
    >>> first.name, first.operator, relu, last.name, last.operator.shape
    ('0+1', <64x64 Conv2d with dtype=float64>, ReLU(), '3+4', (3, 64))
    >>> x = np.random.default_rng(0).standard_normal((1, 8, 8))
    >>> y = last.apply(np.maximum(first.apply(x), 0))
    >>> np.allclose(y, net(torch.from_numpy(x)[None]).detach().numpy()[0])
    True
    """
    torch = import_torch("affine_pieces")
    if not isinstance(sequential, torch.nn.Module):
        raise TypeError(f"sequential={sequential!r} must be a torch.nn.Module, not {type(sequential).__name__}")
    layers, dtype = list(leaves(sequential)), dtype_of(sequential)
    shape = image_of(itertools.takewhile(lambda layer: kind_of(layer[1]) is not None, layers), input_size)
    pieces: list[Layer[ImageOperator] | Module] = []
    source = "inputs[0]"
    for run, between in _runs(layers):
        A, offset = joined(run, shape, dtype)
        name = "+".join(path or type(layer).__name__ for path, layer in run)
        target = run[-1][0] if run else source
        bias = None if offset is None else as_bias(offset, A.output_shape)
        pieces.append(Layer(name or "identity", simplify(A), bias, (source,), (target,)))
        if between is not None:
            source, layer = between
            pieces.append(layer)
            with at(source, layer), evaluating(sequential):
                shape = _shape_after(torch, layer, A.output_shape, next(sequential.parameters(), torch.zeros(())))
    return pieces


def _runs(layers: Iterable[tuple[str, Any]]) -> Iterator[tuple[list[tuple[str, Any]], tuple[str, Any] | None]]:
    """Linear layers that follow each other, perhaps none, and the layer after them, None at the end."""
    run: list[tuple[str, Any]] = []
    for path, layer in layers:
        if kind_of(layer) is not None:
            run.append((path, layer))
        else:
            yield run, (path, layer)
            run = []
    yield run, None


def _shape_after(torch: Any, layer: Any, shape: Shape, like: Tensor) -> Shape:
    """The shape of an image when it has passed a layer, which computes in the dtype and on the device of a tensor."""
    try:
        y = layer(like.new_zeros((1, *shape)))
    except Exception as error:
        raise ValueError(f"it fails on an image of shape {shape}: {type(error).__name__}: {error}") from error
    if not isinstance(y, torch.Tensor) or y.ndim < 2 or y.shape[0] != 1:
        raise TypeError(f"it makes {type(y).__name__} of an image of shape {shape}: it must make one image")
    return tuple(y.shape[1:])


def _check(torch: Any, model: Any, inputs: tuple[Any, ...]) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model={model!r} must be a torch.nn.Module, not {type(model).__name__}")
    if not inputs:
        raise ValueError(
            "inputs is empty: pass an example for each argument of the model, such as torch.zeros(1, 3, 64, 64)"
        )
    if not any(True for _ in _tensors(torch, inputs)):
        kinds = ", ".join(type(value).__name__ for value in inputs)
        raise TypeError(
            f"inputs hold no tensor, but {kinds}: pass tensors with a batch axis, such as torch.zeros(1, 3, 64, 64) "
            "for a size and torch.from_numpy(x) for an array"
        )
    for name, module in model.named_modules():
        with at(name, module):
            check_initialised(module)
            if isinstance(module, torch.jit.ScriptModule):
                raise TypeError(
                    "it is a ScriptModule, whose calls cannot be seen: pass the module that it was made from"
                )


def _listed(torch: Any, model: Any) -> Iterator[tuple[str, Any]]:
    """The modules that compute something by themselves: those without parts, and those with parameters of their own."""
    nn = torch.nn
    inside = _parametrizations(torch, model)
    for name, module in model.named_modules():
        own = any(True for _ in module.parameters(recurse=False))
        whole = not module._modules and not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        if module not in inside and (kind_of(module) or whole or own or is_quantised(module)):
            yield name, module


def _parametrizations(torch: Any, model: Any) -> set[Any]:
    """The modules that compute the parameters of others."""
    lists = (m for m in model.modules() if isinstance(m, torch.nn.utils.parametrize.ParametrizationList))
    return {part for parametrizations in lists for part in parametrizations.modules()}


@dataclass(frozen=True)
class _Call:
    """A call of a layer: the tensors that it took and made, by name, their shapes, and the dtype that it took."""

    module: Any
    source: str
    target: str
    taken: Shape
    made: Shape
    dtype: np.dtype[Any]


@dataclass
class _Names:
    """Names of the tensors of one forward pass, which are kept so that no other one gets their identity."""

    found: dict[tuple[int, int], tuple[Any, str]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    times: Counter[str] = field(default_factory=Counter)

    def give(self, tensor: Any, name: str) -> str:
        """Name a tensor, whatever its name was."""
        name = unused(name, self.taken, self.times)
        self.taken.add(name)
        self.found[_identity(tensor)] = tensor, name
        return name

    def of(self, tensor: Any, default: str = "tensor") -> str:
        """The name of a tensor; if it has none, the default becomes it."""
        known = self.found.get(_identity(tensor))
        return known[1] if known else self.give(tensor, default)


def _identity(tensor: Any) -> tuple[int, int]:
    """What tells tensors apart, and also one from itself before it was written to."""
    return id(tensor), 0 if tensor.is_inference() else tensor._version


def _calls(torch: Any, model: Any, listed: Mapping[Any, str], inputs: tuple[Any, ...]) -> list[_Call]:
    """The calls of the listed modules in one forward pass, in order."""
    calls: list[_Call] = []
    tensors = _Names()
    for place, tensor in enumerate(_tensors(torch, inputs)):
        tensors.give(tensor, f"inputs[{place}]")

    def record(module: Any, args: Any, kwargs: Any, result: Any, *, name: str) -> None:
        taken, made = [*_tensors(torch, (args, kwargs))], [*_tensors(torch, result)]
        if module not in listed:
            for tensor in made:
                tensors.of(tensor, name)
            return
        source = tensors.of(taken[0]) if taken else ""
        target = [tensors.give(tensor, name) for tensor in made]
        before, after = (tuple(ends[0].shape) if ends else () for ends in (taken, made))
        calls.append(_Call(module, source, target[0] if target else "", before, after, result_type(taken[:1])))

    inside = _parametrizations(torch, model)
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if module not in inside:
                hook = functools.partial(record, name=listed.get(module, name or "output"))
                hooks.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        try:
            model(*inputs)
        except Exception as error:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in _tensors(torch, inputs))
            raise ValueError(
                f"model fails on inputs of shapes {shapes}, which begin with the batch axis: "
                f"{type(error).__name__}: {error}"
            ) from error
    return calls


def _tensors(torch: Any, value: Any) -> Iterator[Any]:
    """All tensors in tuples, lists and dicts, nested as deep as you like."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(torch, list(value.values()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(torch, part)


def _grouped(calls: Iterable[_Call]) -> dict[tuple[Any, Shape, Shape, np.dtype[Any]], list[_Call]]:
    """The calls of each module with images of one size and dtype: (module, image in, image out, dtype) -> calls."""
    groups: dict[tuple[Any, Shape, Shape, np.dtype[Any]], list[_Call]] = {}
    for call in calls:
        kind = kind_of(call.module)
        axes = READERS[kind.__name__].ndim if kind else None
        sizes = (_image(call.taken, axes), _image(call.made, axes))
        groups.setdefault((call.module, *sizes, call.dtype), []).append(call)
    return groups


def _image(shape: Shape, axes: int | None) -> Shape:
    """The shape of one image of a batch: channels and spatial axes, if their number is known; one axis is no batch."""
    if axes is not None:
        return shape[-axes - 1 :]
    return shape[1:] if len(shape) > 1 else shape


def _read(module: Any, taken: Shape, made: Shape, dtype: np.dtype[Any]) -> tuple[ImageOperator, NDArray[Any] | None]:
    """The operator of a layer that made an image of one shape of one of another, and its bias.

    Raises
    ------
    TypeError, ValueError
        If it is not linear; the message is the reason alone.
    """
    if kind_of(module) is None:
        if module._modules and (own := [name for name, _ in module.named_parameters(recurse=False)]):
            raise TypeError(f"it is a block that uses parameters of its own: {', '.join(own)}")
        raise TypeError(why_not_linear(module))
    reader = reader_of(module)
    reader.check(module, taken)
    A, offset = reader.read(module, taken, dtype)
    if A is None:
        A = Rearrange(taken, dtype=dtype)
    if isinstance(A, ConvTranspose) and A.output_shape != made:  # it was called with output_size
        g = A.geometry
        A = type(A)(A.weight, taken[1:], stride=g.stride, padding=g.padding, dilation=g.dilation, groups=g.groups,
                    output_size=made[1:])  # fmt: skip
    if A.output_shape != made:
        raise ValueError(f"it made an image of shape {made} of one of shape {taken}, not {A.output_shape}")
    return A, None if offset is None else as_bias(offset, A.output_shape)
