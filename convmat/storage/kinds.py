"""What is stored of each class of operators: `KINDS` is the table.

A class is taken apart into the operators that it is made of, its parts, and arrays, its fields. It is put together by
its constructor, under the rules for the arguments of a user, so that no file makes an operator that a call could not
make.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from convmat.geometry import DTYPES, Geometry, as_weight, conv_geometry
from convmat.operators import (
    BlockDiagonal,
    Chain,
    Conv,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Correlate,
    Crop,
    Diagonal,
    Downsample,
    HStack,
    ImageOperator,
    LocalConv,
    LocalConv1d,
    LocalConv2d,
    LocalConv3d,
    Pad,
    Rearrange,
    Scaled,
    Separable,
    Sum,
    Upsample,
    VStack,
)
from convmat.operators.base import _Conjugated, _Transposed
from convmat.operators.factors import IndexMap
from convmat.operators.weights import TransposeWeightOperator, WeightOperator
from convmat.products import Products


class Field(NamedTuple):
    """What a field holds: in words, by kind of dtype, by number of axes; and whether it may be large."""

    words: str
    dtype_kinds: str
    ndim: int | None
    large: bool = False


_TEXT = Field("text", "U", 0)
_INTEGERS = Field("integers, one per axis", "i", 1)
_INDICES = Field("integers", "i", 1, large=True)
_NUMBERS = Field("an array of numbers", "fc", None, large=True)

FIELDS = {
    "kind": _TEXT,
    "parts": _INDICES,
    "method": _TEXT,
    "weight": _NUMBERS,
    "input_size": _INTEGERS,
    "stride": _INTEGERS,
    "dilation": _INTEGERS,
    "padding": Field("integer pairs, one per axis", "i", 2),
    "padding_mode": _TEXT,
    "padding_as_given": _TEXT,
    "groups": Field("an integer", "i", 0),
    "flip": Field("a bool", "b", 0),
    "weight_shape": _INTEGERS,
    "image": _NUMBERS,
    "values": _NUMBERS,
    "input_shape": _INTEGERS,
    "output_shape": _INTEGERS,
    "split": _INTEGERS,
    "order": _INTEGERS,
    "dtype": _TEXT,
    "factor": Field("a number", "fc", 0),
    "matrix": Field("a matrix of numbers", "fc", 2, large=True),
    "data": Field("numbers", "fc", 1, large=True),
    "indices": _INDICES,
    "indptr": _INDICES,
    "shape": _INTEGERS,
}
"""Name -> what it holds. `kind` is a name of `KINDS`, `parts` the places of the parts among all that a file holds."""

_GEOMETRY = ("input_size", "stride", "dilation", "padding", "padding_mode", "padding_as_given", "groups", "flip")
CONVOLUTION = ("method", "weight", *_GEOMETRY)
"""The fields of a convolution."""


@dataclass(frozen=True)
class Kind:
    """One class: ``make(*parts(A), **values(A))`` is A again."""

    made: type
    make: Callable[..., Any]
    fields: tuple[str, ...] = ()
    values: Callable[[Any], Mapping[str, Any]] | None = None
    """Its fields; by default the attributes of these names."""
    parts: Callable[[Any], tuple[Any, ...]] | None = None
    count: int | None = None
    """How many parts it has, if it must be so many."""
    of: type | tuple[type, ...] = ImageOperator
    """What its parts are."""


def taken(kind: Kind, made: Any) -> dict[str, NDArray[Any]]:
    """The fields of an object of this kind, as arrays."""
    values = kind.values(made) if kind.values else {name: getattr(made, name) for name in kind.fields}
    return {name: _encoded(name, values[name]) for name in kind.fields}


def put_together(kind: Kind, parts: tuple[Any, ...], fields: Mapping[str, NDArray[Any]]) -> Any:
    """The object of this kind with these parts and fields.

    Raises
    ------
    TypeError, ValueError
        If there is none.
    """
    if kind.count not in (None, len(parts)):
        raise ValueError(f"parts must be {kind.count}, not {len(parts)}")
    if not all(isinstance(part, kind.of) for part in parts):
        raise ValueError("parts must be " + ("operators" if kind.of is ImageOperator else "matrices, or none"))
    made = kind.make(*parts, **{name: decoded(name, fields[name]) for name in kind.fields})
    if type(made) is not kind.made:
        raise ValueError(f"parts make a {type(made).__name__}")
    return made


def _encoded(name: str, value: Any) -> NDArray[Any]:
    integers = FIELDS[name].dtype_kinds == "i" and not isinstance(value, np.ndarray)
    try:
        return np.asarray(value, dtype=np.int64 if integers else None)
    except OverflowError:
        raise ValueError(f"{name}={value} cannot be saved: a file holds integers of 64 bits") from None


def decoded(name: str, array: NDArray[Any]) -> Any:
    """The value that a constructor takes: an array of numbers, or Python's text, number, or list of integers."""
    words, dtype_kinds, ndim, large = FIELDS[name]
    if array.dtype.kind not in dtype_kinds or ndim not in (None, array.ndim):
        raise ValueError(f"{name} must be {words}, not of dtype {array.dtype} and shape {array.shape}")
    if dtype_kinds == "fc" and array.dtype.newbyteorder("=") not in DTYPES:
        raise ValueError(f"{name} has dtype {array.dtype}: it must be one of {', '.join(map(str, DTYPES))}")
    return array if large else array.tolist()


# %% Convolutions

_FORMER_METHODS = {"toeplitz": "pointwise"}
"""Methods that files may name, though there is none of that name any more -> those with the same accuracy."""

_ONES: dict[str, Any] = {"dilation": 1, "flip": False, "weight": 1, "method": "auto"}
_PADS: dict[str, Any] = {"stride": 1, **_ONES}
_STEPS: dict[str, Any] = {"padding": 0, "padding_mode": "zeros", **_ONES}
_FIXED: dict[type, dict[str, Any]] = {
    Correlate: {"stride": 1, "padding": 0, "padding_mode": "zeros"},
    Pad: _PADS,
    Crop: _PADS,
    Downsample: _STEPS,
    Upsample: _STEPS,
}
"""Class -> the fields that it has no choice of."""

_CEILING = {repr(word): word for word in ("same_upper", "same_lower")}
"""Paddings as given that say more than their pairs: which input sizes share the output size."""

_ARRAY = re.compile(r"\w+\(\[[-\d,\[\] \n]*\](,[ \n]+dtype=\w+)?\)", re.ASCII)
"""A padding that was given as an array of integers, as numpy prints it: the only one that has several lines."""


def _geometry_values(geometry: Geometry) -> dict[str, Any]:
    return {name: getattr(geometry, name) for name in _GEOMETRY if name != "padding_as_given"} | {
        "padding_as_given": geometry.asked,
        "padding_mode": geometry.padding_mode if isinstance(geometry.padding_mode, str) else ",".join(geometry.modes),
    }


def _geometry(weight_shape: tuple[int, ...], *, padding: list[Any], padding_as_given: str, **options: Any) -> Geometry:
    """The geometry, which prints the padding as it was given."""
    given, pairs = padding_as_given, tuple(map(tuple, padding))
    if not (given.isascii() and given.isprintable()) and not _ARRAY.fullmatch(given):
        raise ValueError(f"padding_as_given={given!r} must be printable ASCII")
    modes = options.pop("padding_mode").split(",")
    options["padding_mode"] = modes[0] if len(modes) == 1 else modes
    geometry = conv_geometry(weight_shape, padding=_CEILING.get(given, pairs), **options)
    if geometry.padding != pairs:
        raise ValueError(f"padding={pairs} must be that of padding_as_given={given}, {geometry.padding}")
    return dataclasses.replace(geometry, asked=given)


def _check_fixed(made: type, fields: Mapping[str, Any]) -> None:
    for name, value in _FIXED.get(made, {}).items():
        if np.any(np.asarray(fields[name]) != value):
            raise ValueError(f"{name} must be {value!r} throughout in a file of kind {made.__name__}")


def _convolution(made: type[Conv] | type[ConvTranspose]) -> Kind:
    def values(of: Conv | ConvTranspose) -> dict[str, Any]:
        return {"weight": of.weight, "method": of._products.asked, **_geometry_values(of.geometry)}

    def make(weight: NDArray[Any], method: str, **fields: Any) -> Conv | ConvTranspose:
        method = _FORMER_METHODS.get(method, method)
        _check_fixed(made, fields)
        geometry = _geometry(weight.shape, **fields)
        if made._ndim not in (None, geometry.ndim):
            raise ValueError(
                f"input_size={geometry.input_size} must have one entry for each axis of kind {made.__name__}"
            )
        return made._of(Products(geometry, as_weight(weight), method))

    return Kind(made, make, CONVOLUTION, values)


def _index_map(made: type[IndexMap]) -> Kind:
    def values(of: IndexMap) -> dict[str, Any]:
        return {"weight": of._ones(), "method": "auto", **_geometry_values(of.geometry)}

    def make(weight: NDArray[Any], method: str, **fields: Any) -> IndexMap:
        _check_fixed(made, {"weight": weight, "method": method, **fields})
        geometry = _geometry(weight.shape, **fields)
        if not geometry.in_channels == geometry.out_channels == geometry.groups == weight.size:
            raise ValueError(
                f"weight must be a single 1 per channel in a file of kind {made.__name__}, not of shape {weight.shape}"
            )
        return made._of(geometry, weight.dtype.newbyteorder("="))

    return Kind(made, make, CONVOLUTION, values)


def _weight_map(made: type[WeightOperator] | type[TransposeWeightOperator]) -> Kind:
    def values(of: WeightOperator | TransposeWeightOperator) -> dict[str, Any]:
        return {"image": of.image, "weight_shape": of.input_shape, **_geometry_values(of.geometry)}

    def make(image: NDArray[Any], weight_shape: list[int], **fields: Any) -> WeightOperator | TransposeWeightOperator:
        return made(_geometry(tuple(weight_shape), **fields), image, image.dtype.newbyteorder("="))

    return Kind(made, make, ("image", "weight_shape", *_GEOMETRY), values)


def _local(made: type[LocalConv]) -> Kind:
    def values(of: LocalConv) -> dict[str, Any]:
        return {"weight": of.weight, **_geometry_values(of.geometry)}

    def make(weight: NDArray[Any], **fields: Any) -> LocalConv:
        dims = made._ndim
        if weight.ndim not in (2 * dims, 2 * dims + 2):
            raise ValueError(f"weight has shape {weight.shape}, which is none of a {made.__name__}")
        geometry = _geometry(weight.shape[:-dims], **fields)
        if geometry.ndim != dims or geometry.output_size != weight.shape[-dims:]:
            raise ValueError(f"weight has shape {weight.shape}: it must end in the output size {geometry.output_size}")
        return made._of(geometry, weight)

    return Kind(made, make, ("weight", *_GEOMETRY), values)


# %% Other layers


def _rearrange(input_shape: list[int], output_shape: list[int], dtype: str, **options: Any) -> Rearrange:
    return Rearrange(input_shape, output_shape, dtype=_dtype(dtype), **options)


def _dtype(word: str) -> np.dtype[Any]:
    for dtype in DTYPES:
        if word == str(dtype):
            return dtype
    raise ValueError(f"dtype={word!r} must be one of {', '.join(map(str, DTYPES))}")


def _separable(*matrices: Any, input_shape: list[int]) -> Separable:
    return Separable(input_shape, matrices)


def _axis_matrices(of: Separable) -> tuple[Any, ...]:
    """The matrices; those of a transpose have another order or format."""
    return tuple(m if m is None else m.tocsr() if issparse(m) else np.ascontiguousarray(m) for m in of.matrices)


def _csr(data: NDArray[Any], indices: NDArray[Any], indptr: NDArray[Any], shape: list[int]) -> csr_array:
    matrix = csr_array((as_weight(data), indices, indptr), shape=tuple(shape))
    matrix.check_format(full_check=True)
    if not matrix.has_canonical_format:
        raise ValueError("indices must ascend in each row")
    return matrix


# %% Operators made of operators


def _flat(made: type[ImageOperator]) -> Callable[..., ImageOperator]:
    """The constructor, for parts that it leaves as they are: what it would take apart can multiply."""

    def make(*parts: ImageOperator) -> ImageOperator:
        if any(type(part) is made for part in parts):
            raise ValueError(f"parts of a {made.__name__} must not be of its own kind")
        return made(*parts)

    return make


def _sum(*terms: ImageOperator) -> ImageOperator:
    if len({(term.input_shape, term.output_shape) for term in terms}) > 1:
        raise ValueError("parts of a Sum must have the same image shapes")
    return _flat(Sum)(*terms)


def _scaled(of: ImageOperator, factor: complex, dtype: str) -> Scaled:
    """A number of Python's, or one of numpy's where that makes the dtype another."""
    for number in (factor, np.asarray(factor)[()]):
        made = Scaled(number, of)
        if made.dtype == _dtype(dtype):
            return made
    raise ValueError(f"dtype={dtype} must be that of the number {factor} times an operator of dtype {of.dtype}")


def _transposed(of: ImageOperator) -> ImageOperator:
    if type(of)._flipped is not ImageOperator._flipped:
        raise ValueError(f"the transpose of a {type(of).__name__} has a class of its own")
    return of.T  # type: ignore[no-any-return]


def _conjugated(of: ImageOperator) -> ImageOperator:
    if type(of)._adjoint is not ImageOperator._adjoint or of.dtype.kind != "c":
        raise ValueError(f"the conjugate of a {type(of).__name__} of dtype {of.dtype} has a class of its own")
    return of.T.H  # type: ignore[no-any-return]


KINDS: dict[str, Kind] = {
    **{
        made.__name__: _convolution(made)
        for made in (Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, Correlate)
    },
    **{made.__name__: _index_map(made) for made in (Pad, Crop, Downsample, Upsample)},
    **{made.__name__: _local(made) for made in (LocalConv1d, LocalConv2d, LocalConv3d)},
    **{made.__name__: _weight_map(made) for made in (WeightOperator, TransposeWeightOperator)},
    "Diagonal": Kind(Diagonal, Diagonal, ("values", "input_shape")),
    "Rearrange": Kind(
        Rearrange,
        _rearrange,
        ("input_shape", "output_shape", "split", "order", "dtype"),
        lambda of: {
            "input_shape": of.input_shape,
            "output_shape": of.output_shape,
            "split": of._split,
            "order": of._order,
            "dtype": str(of.dtype),
        },
    ),
    "Separable": Kind(
        Separable, _separable, ("input_shape",), parts=_axis_matrices, of=(np.ndarray, csr_array, type(None))
    ),
    "none": Kind(type(None), lambda: None),
    "dense matrix": Kind(np.ndarray, lambda matrix: matrix, ("matrix",), lambda matrix: {"matrix": matrix}),
    "sparse matrix": Kind(csr_array, _csr, ("data", "indices", "indptr", "shape")),
    "Chain": Kind(Chain, _flat(Chain), parts=Chain.factors),
    "Sum": Kind(Sum, _sum, parts=Sum.terms),
    **{made.__name__: Kind(made, _flat(made), parts=made.parts) for made in (VStack, HStack, BlockDiagonal)},
    "Scaled": Kind(
        Scaled,
        _scaled,
        ("factor", "dtype"),
        lambda of: {"factor": of.factor, "dtype": str(of.dtype)},
        parts=lambda of: (of.of,),
        count=1,
    ),
    "Transposed": Kind(_Transposed, _transposed, parts=lambda of: (of._of,), count=1),
    "Conjugated": Kind(_Conjugated, _conjugated, parts=lambda of: (of._of,), count=1),
}
"""Name in a file -> the class. A class of operators that is to be saved needs an entry, and no more."""

NAMES = {kind.made: name for name, kind in KINDS.items()}

OPERATORS = [name for name, kind in KINDS.items() if issubclass(kind.made, ImageOperator)]
