"""A convolution is a matrix: explicit sparse matrices and scipy LinearOperators of convolution layers and their
transposes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convmat.geometry import Geometry
from convmat.matrix import conv_matrix, conv_transpose_matrix
from convmat.operators import (
    Chain,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Correlate,
    Crop,
    Diagonal,
    Downsample,
    LocalConv1d,
    LocalConv2d,
    LocalConv3d,
    Pad,
    Rearrange,
    Separable,
    Upsample,
    block_diag,
    hstack,
    identity,
    simplify,
    varying_blur,
    vstack,
)
from convmat.testing import check_adjoint

if TYPE_CHECKING:
    from convmat.interop.layer import Layer
    from convmat.interop.onnx import from_onnx
    from convmat.interop.pylops import to_pylops
    from convmat.interop.torch import from_torch, to_torch
    from convmat.interop.torch_models import affine_pieces, from_torch_model
    from convmat.scale.dask import to_dask
    from convmat.scale.pylops_mpi import to_pylops_mpi
    from convmat.solve import (
        CglsInfo,
        ProximalInfo,
        SolveInfo,
        cgls,
        lcurve,
        normal,
        preconditioner,
        proximal_gradient,
        tikhonov,
    )
    from convmat.spectrum import SVD, clip_singular_values, norm_bounds, singular_values, svd
    from convmat.storage import load, save

__version__ = "0.1.0"

__all__ = [
    "SVD",
    "CglsInfo",
    "Chain",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Correlate",
    "Crop",
    "Diagonal",
    "Downsample",
    "Geometry",
    "Layer",
    "LocalConv1d",
    "LocalConv2d",
    "LocalConv3d",
    "Pad",
    "ProximalInfo",
    "Rearrange",
    "Separable",
    "SolveInfo",
    "Upsample",
    "affine_pieces",
    "block_diag",
    "cgls",
    "check_adjoint",
    "clip_singular_values",
    "conv_matrix",
    "conv_transpose_matrix",
    "from_onnx",
    "from_torch",
    "from_torch_model",
    "hstack",
    "identity",
    "lcurve",
    "load",
    "norm_bounds",
    "normal",
    "preconditioner",
    "proximal_gradient",
    "save",
    "simplify",
    "singular_values",
    "svd",
    "tikhonov",
    "to_dask",
    "to_pylops",
    "to_pylops_mpi",
    "to_torch",
    "varying_blur",
    "vstack",
]

# Imported when they are first asked for: scipy.fft and scipy.special take a tenth of a second, the interchange has the
# packages of others.
_LATER = {
    "CglsInfo": "solve",
    "Layer": "interop.layer",
    "ProximalInfo": "solve",
    "SVD": "spectrum",
    "SolveInfo": "solve",
    "affine_pieces": "interop.torch_models",
    "cgls": "solve",
    "clip_singular_values": "spectrum",
    "from_onnx": "interop.onnx",
    "from_torch": "interop.torch",
    "from_torch_model": "interop.torch_models",
    "lcurve": "solve",
    "load": "storage",
    "norm_bounds": "spectrum",
    "normal": "solve",
    "preconditioner": "solve",
    "proximal_gradient": "solve",
    "save": "storage",
    "singular_values": "spectrum",
    "svd": "spectrum",
    "tikhonov": "solve",
    "to_dask": "scale.dask",
    "to_pylops": "interop.pylops",
    "to_pylops_mpi": "scale.pylops_mpi",
    "to_torch": "interop.torch",
}


def __getattr__(name: str) -> Any:
    if name == "plot":
        return import_module("convmat.plot")
    if name in _LATER:
        return getattr(import_module(f"convmat.{_LATER[name]}"), name)
    raise AttributeError(f"module 'convmat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
