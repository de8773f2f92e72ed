"""What every operator family says of itself, and the weights it is given.

Tensors carry one leading axis of domains: a value of shape S is a tensor (D, *S), coefficients of
linear forms over it are (B, *S) with B any merged batch. Weights come in three guises: their
values, their magnitudes |W|, and a bound E on how far the values are from the exact numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verinn.ir.graph import Node

Params = Mapping[str, Tensor]


class Affine:
    """y = L x + b. A family says how L is applied; its transpose follows by differentiation."""

    #: parameters that are part of L, and the one that is b
    weights: ClassVar[tuple[str, ...]] = ()
    bias: ClassVar[str | None] = None

    def linear(self, node: Node, xs: Sequence[Tensor], params: Params, absolute: bool = False) -> Tensor:
        """L x (without b), or |L| x when ``absolute`` (then ``params`` hold magnitudes)."""
        raise NotImplementedError

    def offset(self, node: Node, params: Params) -> Tensor | None:
        """b with the node's shape under a leading axis of one, or None."""
        return None if self.bias is None or self.bias not in params else params[self.bias]

    def apply(self, node: Node, xs: Sequence[Tensor], params: Params) -> Tensor:
        """L x + b."""
        y = self.linear(node, xs, params)
        b = self.offset(node, params)
        return y if b is None else y + b

    def back(self, node: Node, a: Tensor, params: Params, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Aᵀ-products: for coefficients a (B, *S) of y, the coefficients (B, *S_i) of each input."""
        with torch.enable_grad():
            xs = [
                torch.zeros((a.shape[0], *shape), dtype=a.dtype, device=a.device, requires_grad=True)
                for shape in shapes
            ]
            y = self.linear(node, xs, params)
        return list(torch.autograd.grad(y, xs, a, create_graph=a.requires_grad))

    def terms(self, node: Node, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
        """How many products are summed into one element of L x, and of Lᵀ a; 0: only moves."""
        return 0, 0


@dataclass(frozen=True, eq=False)
class Lines:
    """Sound lines: lower_slope·x + lower_offset ≤ f(x) ≤ upper_slope·x + upper_offset on [l, u]."""

    lower_slope: Tensor
    lower_offset: Tensor | None  # None: zero everywhere
    upper_slope: Tensor
    upper_offset: Tensor


class Elementwise:
    """y = f(x), elementwise."""

    def apply(self, node: Node, x: Tensor) -> Tensor:
        """f(x) in x's dtype, rounded."""
        raise NotImplementedError

    def interval(self, node: Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """An interval that contains f([l, u]) in exact arithmetic."""
        raise NotImplementedError

    def lines(self, node: Node, lower: Tensor, upper: Tensor, alpha: Tensor | None = None) -> Lines:
        """Lines that hold in exact arithmetic. ``alpha`` in [0, 1] (same shape) moves the lower one."""
        raise NotImplementedError

    def loose(self, node: Node, lower: Tensor, upper: Tensor) -> Tensor:
        """Where the relaxation loses something (bool, the shape of ``lower``): the unstable elements."""
        raise NotImplementedError


def ulps(x: Tensor, count: float) -> Tensor:
    """``count`` units in the last place of x, rounded up, never less than the smallest normal."""
    info = torch.finfo(x.dtype)
    return x.abs() * (count * info.eps) + info.tiny
