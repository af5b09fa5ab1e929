"""From PyTorch: a layer or a network of linear layers as an operator. To PyTorch: an operator as an autograd function.

Needs the extra `torch`, which is imported when it is first used.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat.interop.torch_layers import does_nothing, reader_of
from convmat.interop.torch_modules import at, dtype_of, import_torch, leaves
from convmat.operators import Chain, ImageOperator, Rearrange
from convmat.operators.layers import image_shape

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["TorchOperator", "from_torch", "to_torch"]


def from_torch(module: Module, input_size: int | Sequence[int]) -> tuple[ImageOperator, NDArray[Any] | None]:
    """A layer of PyTorch, or a `Sequential` of linear layers, as y = A x + b on flat vectors.

    It reads Conv1d to Conv3d and ConvTranspose1d to ConvTranspose3d with every attribute, Linear, AvgPool and
    AdaptiveAvgPool, BatchNorm (in evaluation mode, with running statistics), the padding layers (Zero, Constant,
    Reflection, Replication, Circular), Upsample in every mode, PixelShuffle, PixelUnshuffle, ChannelShuffle, Flatten,
    Unflatten, Identity, Dropout (in evaluation mode), and `torch.nn.Sequential` of these, nested as deep as you like.

    Parameters
    ----------
    module : torch.nn.Module
        Its current parameters are copied: later training does not reach the operator. Weights under weight_norm,
        spectral_norm, pruning or a parametrization are those that the next call of the module would use.
    input_size : int or tuple of int
        The shape of one image, without a batch axis: (C, N_1..N_D), or (..., F) for a Linear. Convolutions, transposed
        convolutions, BatchNorm2d and BatchNorm3d know their channels, so that the spatial size (N_1..N_D) alone will
        do; channels that are given are checked. For a BatchNorm1d it is always (C,) or (C, N_1). For a Sequential it
        is read as for its first layer that is not an Identity or a Dropout.

    Returns
    -------
    A : ImageOperator
        For a single layer the operator that it is, such as a `Conv2d`; for several a `Chain` of these, without those
        that do nothing. ``A.tosparse()`` multiplies its matrices.
    b : ndarray, shape (A.shape[0],), or None
        The flat offset, None if every layer is linear without one.

    Raises
    ------
    ImportError
        If PyTorch is missing; it names the extra.
    TypeError
        If a layer is not linear, not known, quantised, or a subclass with a forward of its own; in a Sequential the
        message has its position ("layer 2.0" is the first in the third) and name.
    ValueError
        If `input_size` does not fit, a layer is in training mode and would differ from evaluation mode, forward hooks
        change a layer, or a lazy layer has no parameters yet.

    See Also
    --------
    affine_pieces : a `Sequential` with non-linear layers.
    from_torch_model : every linear layer of any module.
    to_torch : the way back, for any operator.

    Notes
    -----
    float32, float64, complex64 and complex128 parameters keep their dtype; float16 and bfloat16 become float32 and
    complex32 becomes complex64, which is exact: the larger formats hold every number of the smaller. A BatchNorm is
    folded in double precision and then rounded. Layers without parameters take the result type of all parameters of
    `module`, and float64 if there are none. Image axes of a Flatten count as in PyTorch, from 1; the batch axis is 0.

    References
    ----------
    .. [1] ``torch.nn``, https://pytorch.org/docs/stable/nn.html

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from convmat.interop.torch import from_torch
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(1, 4, 3, stride=2, padding=1), torch.nn.BatchNorm2d(4), torch.nn.PixelShuffle(2)
    ... ).double().eval()
    >>> A, b = from_torch(net, (8, 8))
    >>> A.input_shape, A.output_shape, [type(factor).__name__ for factor in A.factors()]
    ((1, 8, 8), (1, 8, 8), ['Rearrange', 'Diagonal', 'Conv2d'])
    >>> x = np.random.default_rng(0).standard_normal((1, 8, 8))
    >>> np.allclose(A @ x.ravel() + b, net(torch.from_numpy(x)[None]).detach().numpy().ravel())
    True

    A layer that is not linear is named:

    >>> from_torch(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU()), (8, 8))
    Traceback (most recent call last):
    TypeError: layer 1 (ReLU): it is not linear: split the network there and convert the layers before and after it
    """
    if not isinstance(module, import_torch("from_torch").nn.Module):
        raise TypeError(f"module={module!r} must be a torch.nn.Module, not {type(module).__name__}")
    layers = list(leaves(module))
    A, b = joined(layers, image_of(layers, input_size), dtype_of(module))
    return A, None if b is None else np.array(np.broadcast_to(b, A.output_shape)).reshape(-1)


def image_of(layers: Iterable[tuple[str, Module]], input_size: int | Sequence[int]) -> tuple[int, ...]:
    """The shape of one image, with the channels that the first layer which does anything may know."""
    shape = image_shape("input_size", input_size)
    for path, layer in layers:
        with at(path, layer):
            if not does_nothing(layer):
                return reader_of(layer).complete(layer, shape)
    return shape


def joined(
    layers: Iterable[tuple[str, Module]], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[ImageOperator, NDArray[Any] | None]:
    """Layers, one after the other, as an operator and an image that broadcasts to its output, or None for zero."""
    factors: list[ImageOperator] = []
    offset: NDArray[Any] | None = None
    for path, layer in layers:
        with at(path, layer):
            reader = reader_of(layer)
            reader.check(layer, shape)
            A, added = reader.read(layer, shape, dtype)
        if A is not None:
            if offset is not None:
                offset = A.apply(np.broadcast_to(offset, A.input_shape))
                offset = offset if added is None else offset + added
            else:
                offset = added
            factors.append(A)
            shape = A.output_shape
    A = Chain(*reversed(factors)) if len(factors) > 1 else factors[0] if factors else Rearrange(shape, dtype=dtype)
    return A, offset


@dataclass(frozen=True)
class TorchOperator:
    """An operator as a differentiable function of tensors; made by `to_torch`.

    Attributes
    ----------
    operator : ImageOperator
    """

    operator: ImageOperator

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the operator to a tensor of images.

        Parameters
        ----------
        x : Tensor, shape (*batch, *operator.input_shape)
            On the CPU.

        Returns
        -------
        Tensor, shape (*batch, *operator.output_shape)
            In the result type of operator and tensor, as numpy has it.

        Raises
        ------
        TypeError, ValueError
            If it is not a dense tensor of numbers on the CPU, or has a wrong shape.
        """
        torch = import_torch("to_torch")
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"x={x!r} must be a torch.Tensor: use operator.apply for numpy arrays")
        if x.device.type != "cpu":
            raise ValueError(f"x is on the device {x.device}: the operator computes on the CPU, pass x.cpu()")
        if x.layout != torch.strided:
            raise ValueError(f"x has layout {x.layout}: it must be dense, pass x.to_dense()")
        if x.dtype not in (torch.float32, torch.float64, torch.complex64, torch.complex128):
            raise TypeError(
                f"x has dtype {x.dtype}: it must be float32, float64, complex64 or complex128, pass x.float()"
            )
        expected = self.operator.input_shape
        if x.ndim < len(expected) or tuple(x.shape[x.ndim - len(expected) :]) != expected:
            raise ValueError(f"x has shape {tuple(x.shape)}: it must end in {expected}, with any batch axes in front")
        result: Tensor = _product().apply(x, self.operator, False)
        return result


def to_torch(operator: ImageOperator) -> TorchOperator:
    """An operator as a function on tensors whose gradient is its adjoint: for losses, unrolled networks, any autograd.

    Forward it is ``operator.apply``, backward A^H, which for a complex operator is PyTorch's convention. Gradients of
    gradients, forward-mode derivatives and `torch.func.vmap` work too. On the CPU numpy and PyTorch share memory, so
    that a contiguous tensor is not copied on its way in or out.

    Parameters
    ----------
    operator : ImageOperator
        Any operator of this package, a fixed linear map: its weights get no gradient.

    Returns
    -------
    TorchOperator
        A function of a tensor of shape (*batch, *operator.input_shape), which can be pickled.

    Raises
    ------
    ImportError
        If PyTorch is missing; it names the extra.
    TypeError
        If the operator is not one of this package.

    See Also
    --------
    from_torch : an operator from a layer.

    References
    ----------
    .. [1] ``torch.autograd.Function``

    Examples
    --------
    The gradient of ||A x - y||^2 / 2 is A^H (A x - y):

    >>> import numpy as np
    >>> import torch
    >>> from convmat import Conv2d
    >>> from convmat.interop.torch import to_torch
    >>> A = Conv2d(np.ones((3, 3)), (8, 8), stride=2, padding=1)
    >>> x, y = torch.ones(8, 8, dtype=torch.float64, requires_grad=True), torch.ones(4, 4, dtype=torch.float64)
    >>> ((to_torch(A)(x) - y) ** 2).sum().div(2).backward()
    >>> np.allclose(x.grad, A.T.apply(A.apply(np.ones((8, 8))) - 1))
    True
    """
    import_torch("to_torch")
    if not isinstance(operator, ImageOperator):
        raise TypeError(f"operator={operator!r} must be a convmat operator on images, not {type(operator).__name__}")
    return TorchOperator(operator)


@functools.cache
def _product() -> Any:
    """The autograd function (x, operator, adjoint) -> A x, or A^H x where adjoint."""
    torch = import_torch("to_torch")
    function: Any = torch.autograd.Function

    class Product(function):  # type: ignore[misc]
        """A x, or A^H x where adjoint."""

        @staticmethod
        def forward(x: Any, operator: ImageOperator, adjoint: bool) -> Any:
            inputs, outputs = operator.input_shape, operator.output_shape
            if adjoint:
                inputs, outputs = outputs, inputs
            batch = x.shape[: x.ndim - len(inputs)]
            rows = x.detach().resolve_conj().resolve_neg().numpy().reshape(math.prod(batch), math.prod(inputs))
            columns = operator.rmatmat(rows.T) if adjoint else operator.matmat(rows.T)
            return torch.from_numpy(np.ascontiguousarray(columns.T)).reshape(*batch, *outputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ImageOperator, bool], output: Any) -> None:
            x, ctx.operator, ctx.adjoint = inputs
            ctx.dtype = x.dtype

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            x = Product.apply(gradient, ctx.operator, not ctx.adjoint)
            return (x if ctx.dtype.is_complex else torch.real(x)).to(ctx.dtype), None, None

        @staticmethod
        def jvp(ctx: Any, tangent: Any, *_: None) -> Any:
            return Product.apply(tangent, ctx.operator, ctx.adjoint)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int, None, None], x: Any, operator: ImageOperator, adjoint: bool) -> Any:
            return Product.apply(x.movedim(in_dims[0], 0), operator, adjoint), 0

    return Product
