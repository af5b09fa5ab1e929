"""A convolution is a matrix: explicit sparse matrices and scipy LinearOperators of convolution layers and their
transposes.
"""

from convmat.factors import Correlate, Crop, Downsample, Pad, Upsample
from convmat.geometry import Geometry
from convmat.matrix import conv_matrix, conv_transpose_matrix
from convmat.operators import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from convmat.testing import check_adjoint

__version__ = "0.1.0"

__all__ = [
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
    "Upsample",
    "check_adjoint",
    "conv_matrix",
    "conv_transpose_matrix",
]
