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
Interval = tuple[Tensor, Tensor]


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

    #: how many parameters in [0, 1] the lines take: one moves the lower line, alpha (D, *shape); of more,
    #: alpha (D, slots, *shape), the first moves the lower and the second the upper line
    slots: ClassVar[int] = 1

    def apply(self, node: Node, x: Tensor) -> Tensor:
        """f(x) in x's dtype, rounded."""
        raise NotImplementedError

    def interval(self, node: Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """An interval that contains f([l, u]) in exact arithmetic."""
        raise NotImplementedError

    def lines(self, node: Node, lower: Tensor, upper: Tensor, alpha: Tensor | None = None) -> Lines:
        """Lines that hold in exact arithmetic for any ``alpha`` in [0, 1] (see ``slots``); None: the best guess."""
        raise NotImplementedError

    def loose(self, node: Node, lower: Tensor, upper: Tensor) -> Tensor:
        """Where the relaxation loses something (bool, the shape of ``lower``): the unstable elements."""
        raise NotImplementedError


class Planes:
    """Sound planes below and above a value that depends on several elements: Σ slope·x + offset.

    ``weight`` (D, *shape): at least Σ |slope|·|x| of either plane; ``terms``: products summed into one
    coefficient by ``back``.
    """

    lower_offset: Tensor
    upper_offset: Tensor
    weight: Tensor
    terms: int

    def back(self, positive: Tensor, negative: Tensor) -> list[Tensor]:
        """Coefficients (D, R, *shape) of the value, split by sign (those ≥ 0 meet the lower planes, those ≤ 0
        the upper ones), as coefficients of each input."""
        raise NotImplementedError

    def at(self, xs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Where both planes lie at a point (D, *shape_i) of each input; rounded."""
        raise NotImplementedError


class Joint:
    """y = f(x1, …, xk), an element of y depending on several elements: products, maxima, softmax."""

    #: how many parameters in [0, 1] the planes take: alpha (D, slots, *shape), the first moves the lower and
    #: the second the upper plane; 0: none
    slots: ClassVar[int] = 0

    def apply(self, node: Node, xs: Sequence[Tensor]) -> Tensor:
        """f in the dtype of the inputs, rounded."""
        raise NotImplementedError

    def interval(self, node: Node, boxes: Sequence[Interval]) -> Interval:
        """An interval that contains all values over the boxes in exact arithmetic."""
        raise NotImplementedError

    def planes(self, node: Node, boxes: Sequence[Interval], alpha: Tensor | None = None) -> Planes:
        """Planes that hold in exact arithmetic for any ``alpha`` in [0, 1]; None: the best guess."""
        raise NotImplementedError

    def loose(self, node: Node, boxes: Sequence[Interval]) -> list[Tensor]:
        """Per input, which elements' widths the relaxation loses by (bool, the input's shape)."""
        raise NotImplementedError


def ulps(x: Tensor, count: float) -> Tensor:
    """``count`` units in the last place of x, rounded up, never less than the smallest normal."""
    info = torch.finfo(x.dtype)
    return x.abs() * (count * info.eps) + info.tiny
