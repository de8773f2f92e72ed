"""Affine operators that only move numbers: reshape, transpose, slice, gather, pad, concat, expand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verinn.ir.graph import Node
from verinn.ops.base import Affine, Params


class Reshape(Affine):
    def linear(self, node: Node, xs: Sequence[Tensor], params: Params, absolute: bool = False) -> Tensor:
        return xs[0].reshape(xs[0].shape[0], *node.shape)

    def back(self, node: Node, a: Tensor, params: Params, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        return [a.reshape(a.shape[0], *shapes[0])]


class Transpose(Affine):
    def linear(self, node: Node, xs: Sequence[Tensor], params: Params, absolute: bool = False) -> Tensor:
        return xs[0].permute(0, *[axis + 1 for axis in node.attrs["perm"]])

    def back(self, node: Node, a: Tensor, params: Params, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        perm = node.attrs["perm"]
        inverse = sorted(range(len(perm)), key=lambda axis: perm[axis])
        return [a.permute(0, *[axis + 1 for axis in inverse])]


class Slice(Affine):
    """x[start], x[start + step], … (``sizes`` of them) along each axis."""

    def linear(self, node: Node, xs: Sequence[Tensor], params: Params, absolute: bool = False) -> Tensor:
        y = xs[0]
        specs = zip(node.attrs["starts"], node.attrs["steps"], node.attrs["sizes"], strict=True)
        for axis, (start, step, size) in enumerate(specs, start=1):
            if (start, step, size) == (0, 1, y.shape[axis]):
                continue
            if step == 1:
                y = y.narrow(axis, start, size)
            else:
                index = start + step * torch.arange(size, device=y.device)
                y = y.index_select(axis, index)
        return y


class Gather(Affine):
    """Picks entries along one axis; an entry may be picked more than once."""

    def linear(self, node: Node, xs: Sequence[Tensor], params: Params, absolute: bool = False) -> Tensor:
        index = torch.tensor(node.attrs["indices"], device=xs[0].device, dtype=torch.int64)
        return xs[0].index_select(node.attrs["axis"] + 1, index)

    def terms(self, node: Node, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
        indices = node.attrs["indices"]
        repeats = max(map(list(indices).count, set(indices)), default=1) if len(indices) < 4096 else len(indices)
        return 0, 0 if repeats == 1 else repeats


class Pad(Affine):
    """Constant padding: zeros by L, the value by b."""

    bias = "pad"  # made when the program is prepared, only if the value is not zero

    def linear(self, node: Node, xs: Sequence[Tensor], params: Params, absolute: bool = False) -> Tensor:
        return torch.nn.functional.pad(xs[0], torch_pads(node.attrs["pads"]))


class Concat(Affine):
    def linear(self, node: Node, xs: Sequence[Tensor], params: Params, absolute: bool = False) -> Tensor:
        batch = max(x.shape[0] for x in xs)
        return torch.cat([x.expand(batch, *x.shape[1:]) for x in xs], dim=node.attrs["axis"] + 1)

    def back(self, node: Node, a: Tensor, params: Params, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        axis = node.attrs["axis"]
        return list(a.split([shape[axis] for shape in shapes], dim=axis + 1))


class Expand(Affine):
    """Numpy broadcasting to the node's shape."""

    def linear(self, node: Node, xs: Sequence[Tensor], params: Params, absolute: bool = False) -> Tensor:
        missing = len(node.shape) - (xs[0].dim() - 1)
        x = xs[0].reshape(xs[0].shape[0], *[1] * missing, *xs[0].shape[1:])
        return x.expand(x.shape[0], *node.shape)

    def terms(self, node: Node, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
        return 0, math.prod(node.shape) // max(1, math.prod(shapes[0]))


def torch_pads(pads: Sequence[int]) -> list[int]:
    """ONNX pads (all begins, then all ends) in torch's order (last axis first, begin and end)."""
    half = len(pads) // 2
    return [pad for axis in reversed(range(half)) for pad in (pads[axis], pads[axis + half])]
