"""Affine operators with weights: linear, scale, divide, shift, sum, constant."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verinn.ir.graph import Node
from verinn.ops.base import Affine, Params


class Linear(Affine):
    """x @ weight + bias on the last axis."""

    weights = ("weight",)
    bias = "bias"

    def linear(self, node: Node, xs: Sequence[Tensor], params: Params, absolute: bool = False) -> Tensor:
        return xs[0] @ params["weight"]

    def back(self, node: Node, a: Tensor, params: Params, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        return [a @ params["weight"].T]

    def terms(self, node: Node, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
        rows, columns = node.params["weight"].shape
        return rows, columns


class Scale(Affine):
    """x * factor, elementwise. ``divide`` arrives here too, its factor the reciprocal."""

    weights = ("factor",)

    def linear(self, node: Node, xs: Sequence[Tensor], params: Params, absolute: bool = False) -> Tensor:
        return xs[0] * params["factor"]

    def back(self, node: Node, a: Tensor, params: Params, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        return [a * params["factor"]]

    def terms(self, node: Node, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
        return 1, 1


class Shift(Affine):
    """x + offset."""

    bias = "offset"

    def linear(self, node: Node, xs: Sequence[Tensor], params: Params, absolute: bool = False) -> Tensor:
        return xs[0]

    def back(self, node: Node, a: Tensor, params: Params, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        return [a]


class Sum(Affine):
    """s1·x1 + … + sk·xk with signs ±1."""

    def linear(self, node: Node, xs: Sequence[Tensor], params: Params, absolute: bool = False) -> Tensor:
        signs = [1] * len(xs) if absolute else node.attrs["signs"]
        total = xs[0] if signs[0] > 0 else -xs[0]
        for sign, x in zip(signs[1:], xs[1:], strict=True):
            total = total + x if sign > 0 else total - x
        return total

    def back(self, node: Node, a: Tensor, params: Params, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        return [a if sign > 0 else -a for sign in node.attrs["signs"]]

    def terms(self, node: Node, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
        return len(node.inputs), 0


class Constant(Affine):
    """A value that depends on nothing."""

    bias = "value"

    def linear(self, node: Node, xs: Sequence[Tensor], params: Params, absolute: bool = False) -> Tensor:
        return torch.zeros_like(params["value"]).expand(1, *node.shape)

    def back(self, node: Node, a: Tensor, params: Params, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        return []


class ReduceSum(Affine):
    """Sum over axes, which stay with length 1."""

    def linear(self, node: Node, xs: Sequence[Tensor], params: Params, absolute: bool = False) -> Tensor:
        return xs[0].sum(dim=[axis + 1 for axis in node.attrs["axes"]], keepdim=True)

    def back(self, node: Node, a: Tensor, params: Params, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        return [a.expand(a.shape[0], *shapes[0])]

    def terms(self, node: Node, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
        return math.prod(shapes[0][axis] for axis in node.attrs["axes"]), 0
