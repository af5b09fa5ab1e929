"""Modules of PyTorch as they stand: the layers of a network in order, the parameters that the next call will use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray


def import_torch(what: str) -> Any:
    """The module torch.

    Raises
    ------
    ImportError
        If it is not installed; it names the extra.
    """
    try:
        return import_module("torch")
    except ImportError as error:
        raise ImportError(
            f"{what} needs torch: install the extra `torch`, pip install 'convmat[torch]'", name=error.name
        ) from error


@contextmanager
def at(path: str, module: Any) -> Iterator[None]:
    """Put the position and the name of a layer in front of the message of an error."""
    try:
        yield
    except (TypeError, ValueError) as error:
        name = type(module).__name__
        raise type(error)(f"layer {path} ({name}): {error}" if path else f"{name}: {error}") from error


def leaves(module: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The layers of a network in the order in which they run, nested `Sequential`s taken apart: (position, layer)."""
    nn = import_torch("from_torch").nn
    if not isinstance(module, nn.Sequential):
        yield path, module
        return
    with at(path, module):
        check_own_forward(module, nn.Sequential)
        check_hooks(module)
    for name, child in module._modules.items():
        yield from leaves(child, f"{path}.{name}" if path else name)


def dtype_of(module: Any) -> np.dtype[Any]:
    """The dtype of layers without parameters: the result type of all parameters and buffers, else float64."""
    return result_type([*module.parameters(), *module.buffers()])


def result_type(tensors: Iterable[Any]) -> np.dtype[Any]:
    """The result type of tensors as they are read, float64 if none of them is of a type that is."""
    dtypes = [np.dtype(_DTYPES[name]) for name in map(_dtype_name, tensors) if name in _DTYPES]
    return np.result_type(*dtypes) if dtypes else np.dtype(np.float64)


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """Evaluation mode without gradients; then every part is in its own mode, and the random numbers are as before."""
    torch = import_torch("from_torch_model")
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for part, training in modes:
            part.training = training


def values(module: Any, name: str) -> NDArray[Any] | None:
    """A parameter or buffer at its current value; half precision becomes float32, which holds all its numbers."""
    torch = import_torch("from_torch")
    with torch.no_grad():
        tensor = _current(torch, module, name)
        if tensor is None:
            return None
        dtype = _dtype_name(tensor)
        if dtype not in _DTYPES or tensor.layout != torch.strided:
            kind = f"dtype {tensor.dtype}" if dtype not in _DTYPES else f"layout {tensor.layout}"
            raise TypeError(f"its {name} has {kind}: it must be a dense tensor of {', '.join(_DTYPES)}; "
                            f"dequantise it first if it is quantised")  # fmt: skip
        if tensor.device.type == "meta":
            raise ValueError(f"its {name} is on the meta device and has no values: load them first")
        array: NDArray[Any] = tensor.to(getattr(torch, _DTYPES[dtype])).numpy(force=True)
        return array


def _current(torch: Any, module: Any, name: str) -> Any:
    """The tensor that the next call of the module will use, without changing the module."""
    for hook in module._forward_pre_hooks.values():
        of = getattr(hook, "name", None) or getattr(hook, "_tensor_name", None)
        if of == name:
            return _RECOMPUTED[_hook_kind(hook)](hook, module)
    parametrized = torch.nn.utils.parametrize.is_parametrized(module, name)
    if not parametrized or not any(part.training for part in module.parametrizations[name].modules()):
        return getattr(module, name)
    probe = copy.deepcopy(module)  # a spectral_norm in training mode writes to its buffers whenever it is read
    with torch.random.fork_rng(devices=[]):
        state = torch.get_rng_state()
        before = _versions(probe.parametrizations[name])
        tensor = getattr(probe, name)
        same = before == _versions(probe.parametrizations[name]) and torch.equal(state, torch.get_rng_state())
    if not same:
        raise ValueError(
            f"its {name} has a parametrization that changes at each call in training mode "
            f"({', '.join(type(part).__name__ for part in module.parametrizations[name])}): module.eval()"
        )
    return tensor


def _versions(module: Any) -> list[tuple[int, int]]:
    """What every parameter and buffer is, and how often it was written to: the values may be those of before."""
    return [(id(tensor), tensor._version) for tensor in (*module.parameters(), *module.buffers())]


def _spectral_norm(hook: Any, module: Any) -> Any:
    if module.training:
        raise ValueError("its spectral_norm changes the weight at each call in training mode: module.eval()")
    return hook.compute_weight(module, do_power_iteration=False)


def check_initialised(module: Any) -> None:
    """Refuse lazy layers that have no parameters yet."""
    is_lazy = import_torch("from_torch").nn.parameter.is_lazy
    if any(is_lazy(t) for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
        raise ValueError("it is lazy and not initialised: call the module once on an image before from_torch")


def check_own_forward(module: Any, kind: type) -> None:
    """Refuse a module that does not compute what its class `kind` of torch.nn does."""
    derived = type(module).__mro__[: type(module).__mro__.index(kind)]
    for name in ("forward", "_conv_forward", "__call__"):
        if any(name in vars(owner) for owner in (module, *derived)):
            raise TypeError(
                f"it has its own {name} in place of that of {kind.__name__}: from_torch reads layers of torch.nn alone"
            )


def check_hooks(module: Any) -> None:
    """Refuse hooks that may change the output, but for those whose effect `values` knows."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    unknown = [getattr(hook, "__name__", type(hook).__name__) for hook in hooks if _hook_kind(hook) not in _RECOMPUTED]
    if unknown:
        raise ValueError(f"it has forward hooks ({', '.join(unknown)}), which may change what it computes: remove them")


def _hook_kind(hook: Any) -> str:
    """The class of a hook of torch.nn.utils that recomputes a weight before each call; "" for all others."""
    names = [kind.__name__ for kind in type(hook).__mro__ if kind.__module__.startswith("torch.nn.utils.")]
    return names[-1] if names else ""


def _dtype_name(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


_DTYPES = {
    "float32": "float32",
    "float64": "float64",
    "complex64": "complex64",
    "complex128": "complex128",
    "float16": "float32",
    "bfloat16": "float32",
    "complex32": "complex64",
}
"""Dtype of a parameter -> the one in which it is read, which holds every number of it."""

_RECOMPUTED: dict[str, Callable[[Any, Any], Any]] = {
    "WeightNorm": lambda hook, module: hook.compute_weight(module),
    "SpectralNorm": _spectral_norm,
    "BasePruningMethod": lambda hook, module: hook.apply_mask(module),
}
"""Hook that recomputes a weight before each call -> the weight."""
