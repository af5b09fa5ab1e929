"""The attributes of a convolution of ONNX, and the padding that they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convmat.interop.onnx_checks import shown

if TYPE_CHECKING:
    from onnx import NodeProto

Pairs = tuple[tuple[int, int], ...]
"""(lo, hi) per axis."""


def _odd_at_end(total: int) -> tuple[int, int]:
    return total // 2, total - total // 2


def _odd_at_beginning(total: int) -> tuple[int, int]:
    return total - total // 2, total // 2


SPLITS = {
    "NOTSET": _odd_at_beginning,
    "VALID": _odd_at_beginning,
    "SAME_UPPER": _odd_at_end,
    "SAME_LOWER": _odd_at_beginning,
}
"""auto_pad -> how the pads of a transposed convolution or a pool share a total into (lo, hi)."""

_WORDS = {"VALID": "valid", "SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower"}
"""auto_pad -> the padding of a convolution."""


_KINDS = dict.fromkeys(("kernel_shape", "strides", "dilations", "pads", "output_padding", "output_shape"), "INTS") | {
    "auto_pad": "STRING",
    "group": "INT",
}
"""Attribute -> the type of its value."""


@dataclass(frozen=True)
class Attributes:
    """The attributes of a convolution, with the defaults of the standard."""

    transposed: bool
    auto_pad: str
    pads: Pairs
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    output_padding: tuple[int, ...]
    output_shape: tuple[int, ...] | None
    span: tuple[int, ...]
    """What a kernel covers, d (K - 1) + 1."""

    @classmethod
    def of(cls, node: NodeProto, kernel: tuple[int, ...], what: str) -> Attributes:
        """Those of a node whose weight has this kernel size; `what` names it in messages.

        Raises
        ------
        ValueError
            If they break the rules of the standard.
        """
        from onnx import AttributeProto

        read = [attribute for attribute in node.attribute if attribute.name in _KINDS]
        for attribute in read:
            kind, rule = AttributeProto.AttributeType.Name(attribute.type), _KINDS[attribute.name]
            if kind != rule:
                value = shown(attribute)
                raise ValueError(
                    f"{what}: {attribute.name}{value and f'={value}'} is of type {kind}: it must be {rule}"
                )
        given = {attribute.name: attribute for attribute in read}
        dims = len(kernel)

        def integers(name: str, default: tuple[int, ...], least: int) -> tuple[int, ...]:
            values = tuple(given[name].ints) if name in given else default
            if len(values) != len(default):
                raise ValueError(f"{what}: {name}={list(values)} must have {len(default)} entries")
            if min(values) < least:
                raise ValueError(f"{what}: {name}={list(values)} must not be {'negative' if least == 0 else 'below 1'}")
            return values

        auto_pad = given["auto_pad"].s.decode(errors="backslashreplace") if "auto_pad" in given else "NOTSET"
        if auto_pad not in SPLITS:
            raise ValueError(f"{what}: auto_pad={auto_pad!r} must be one of {', '.join(map(repr, SPLITS))}")
        pads = integers("pads", (0,) * (2 * dims), 0)
        if auto_pad != "NOTSET" and "pads" in given:
            raise ValueError(f"{what}: pads={list(pads)} and auto_pad={auto_pad!r} exclude each other")
        kernel_shape = integers("kernel_shape", kernel, 0)
        if kernel_shape != kernel:
            raise ValueError(f"{what}: kernel_shape={list(kernel_shape)} is not that of its weight, {list(kernel)}")
        groups = given["group"].i if "group" in given else 1
        if groups < 1:
            raise ValueError(f"{what}: group={groups} must not be below 1")
        dilation = integers("dilations", (1,) * dims, 1)
        return cls(
            transposed=node.op_type == "ConvTranspose",
            auto_pad=auto_pad,
            pads=tuple(zip(pads[:dims], pads[dims:], strict=True)),
            stride=integers("strides", (1,) * dims, 1),
            dilation=dilation,
            groups=groups,
            output_padding=integers("output_padding", (0,) * dims, 0),
            output_shape=integers("output_shape", (0,) * dims, 0) if "output_shape" in given else None,
            span=tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)),
        )

    def options(self, size: tuple[int, ...]) -> dict[str, Any]:
        """The arguments of the operator on images of this size."""
        common = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        if not self.transposed:
            return common | {"padding": _WORDS.get(self.auto_pad, self.pads)}
        pads, extra = self.same_pads() or self.pads, self.output_padding
        if self.output_shape is not None:
            excess = [
                (n - 1) * s + span + e - wanted
                for n, s, span, e, wanted in zip(size, self.stride, self.span, extra, self.output_shape, strict=True)
            ]
            pads = tuple(SPLITS[self.auto_pad](max(0, total)) for total in excess)
            extra = tuple(e + max(0, -total) for e, total in zip(extra, excess, strict=True))
        return common | {"padding": pads, "output_padding": extra}

    def same_pads(self) -> Pairs | None:
        """The pads that SAME means in a transposed convolution, whatever the size of its input; None without it."""
        if not self.transposed or self.output_shape is not None or not self.auto_pad.startswith("SAME"):
            return None
        totals = (span + e - s for span, e, s in zip(self.span, self.output_padding, self.stride, strict=True))
        return tuple(SPLITS[self.auto_pad](max(0, total)) for total in totals)
