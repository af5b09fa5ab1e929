"""Operators on images, scipy `LinearOperator`s all: what one of them is, and what there is to build from.

============================= =================================================================================
`base`                        `ImageOperator`: products of images and vectors, transpose, matrix
`factors`                     `Pad`, `Crop`, `Downsample`, `Upsample`
`weights`                     W -> y for a fixed image: im2col and the weight gradient
`convolution`                 `Conv1d` .. `ConvTranspose3d`, `Correlate`
`layers`, `resampling`        other linear layers; the matrices of an axis that is resampled
`stencils`                    what of several convolutions is one
`algebra`, `simplification`   operators made of operators, and equal ones of fewer parts
`local`                       convolutions with a kernel of its own for every output; blur that varies
`blocks`                      a box of the outputs of an operator, by itself
============================= =================================================================================
"""

from convmat.operators.algebra import (
    BlockDiagonal,
    Chain,
    HStack,
    Scaled,
    Sum,
    VStack,
    block_diag,
    hstack,
    identity,
    vstack,
)
from convmat.operators.base import ImageOperator
from convmat.operators.blocks import Block
from convmat.operators.convolution import (
    Conv,
    Conv1d,
    Conv2d,
    Conv3d,
    Convolution,
    ConvTranspose,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Correlate,
)
from convmat.operators.factors import Crop, Downsample, Pad, Upsample
from convmat.operators.layers import Diagonal, Rearrange, Separable
from convmat.operators.local import LocalConv, LocalConv1d, LocalConv2d, LocalConv3d, varying_blur
from convmat.operators.simplification import simplify

__all__ = [
    "Block",
    "BlockDiagonal",
    "Chain",
    "Conv",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Convolution",
    "Correlate",
    "Crop",
    "Diagonal",
    "Downsample",
    "HStack",
    "ImageOperator",
    "LocalConv",
    "LocalConv1d",
    "LocalConv2d",
    "LocalConv3d",
    "Pad",
    "Rearrange",
    "Scaled",
    "Separable",
    "Sum",
    "Upsample",
    "VStack",
    "block_diag",
    "hstack",
    "identity",
    "simplify",
    "varying_blur",
    "vstack",
]
