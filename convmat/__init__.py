"""A convolution is a matrix: explicit sparse matrices and scipy LinearOperators of convolution layers and their
transposes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convmat.factors import Correlate, Crop, Downsample, Pad, Upsample
from convmat.geometry import Geometry
from convmat.matrix import conv_matrix, conv_transpose_matrix
from convmat.operators import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from convmat.testing import check_adjoint

if TYPE_CHECKING:
    from convmat.clipping import clip_singular_values
    from convmat.decomposition import SVD, svd
    from convmat.norms import norm_bounds
    from convmat.solve import SolveInfo, normal, preconditioner, tikhonov
    from convmat.spectrum import singular_values

__version__ = "0.1.0"

__all__ = [
    "SVD",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Correlate",
    "Crop",
    "Downsample",
    "Geometry",
    "Pad",
    "SolveInfo",
    "Upsample",
    "check_adjoint",
    "clip_singular_values",
    "conv_matrix",
    "conv_transpose_matrix",
    "norm_bounds",
    "normal",
    "preconditioner",
    "singular_values",
    "svd",
    "tikhonov",
]

# The spectrum and the solvers bring scipy.fft and scipy.special, which take a tenth of a second to import.
_LATER = {
    "SVD": "decomposition",
    "SolveInfo": "solve",
    "clip_singular_values": "clipping",
    "norm_bounds": "norms",
    "normal": "solve",
    "preconditioner": "solve",
    "singular_values": "spectrum",
    "svd": "decomposition",
    "tikhonov": "solve",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"convmat.{_LATER[name]}"), name)
    raise AttributeError(f"module 'convmat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
