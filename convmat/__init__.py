"""A convolution is a matrix: explicit sparse matrices and scipy LinearOperators of convolution layers and their
transposes.
"""

from convmat.clipping import clip_singular_values
from convmat.decomposition import SVD, svd
from convmat.factors import Correlate, Crop, Downsample, Pad, Upsample
from convmat.geometry import Geometry
from convmat.matrix import conv_matrix, conv_transpose_matrix
from convmat.norms import norm_bounds
from convmat.operators import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from convmat.solve import SolveInfo, normal, preconditioner, tikhonov
from convmat.spectrum import singular_values
from convmat.testing import check_adjoint

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
