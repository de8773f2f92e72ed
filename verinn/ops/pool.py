"""Max pooling: the window's entries side by side, and two sound lines for their maximum."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from verinn.ir.graph import Node
from verinn.ops.shape import torch_pads


class MaxPool:
    """Maximum over windows of x (N, C, *S); padding never wins."""

    def windows(self, node: Node, x: Tensor, fill: float) -> Tensor:
        """(B, N, C, *S) → (B, N, C, *out, K): the K entries of each window, ``fill`` for padding."""
        attrs = node.attrs
        y = F.pad(x, torch_pads(attrs["pads"]), value=fill)
        half = len(attrs["kernel"])
        for axis, (kernel, stride, dilation) in enumerate(
            zip(attrs["kernel"], attrs["strides"], attrs["dilations"], strict=True)
        ):
            reach = dilation * (kernel - 1) + 1
            size = (y.shape[3 + axis] - reach) // stride + 1
            picks = [y.narrow(3 + axis, k * dilation, (size - 1) * stride + 1) for k in range(kernel)]
            picks = [pick[(slice(None),) * (3 + axis) + (slice(None, None, stride),)] for pick in picks]
            y = torch.stack(picks, dim=-1)
        return y.flatten(-half)

    def apply(self, node: Node, x: Tensor) -> Tensor:
        return self.windows(node, x, -math.inf).amax(-1)

    def interval(self, node: Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return self.apply(node, lower), self.apply(node, upper)

    def choice(self, node: Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(best, sole, ceiling), each (B, N, C, *out): the entry with the greatest lower bound; whether
        it is at least every other entry always; the greatest upper bound (a constant upper line)."""
        low, high = self.windows(node, lower, -math.inf), self.windows(node, upper, -math.inf)
        value, best = low.max(-1)
        others = high.scatter(-1, best.unsqueeze(-1), -math.inf).amax(-1)
        return best, value >= others, high.amax(-1)

    def loose(self, node: Node, lower: Tensor, upper: Tensor) -> Tensor:
        """Which entries of x may be the greatest of a window where more than one may: (B, N, C, *S) bool."""
        low, high = self.windows(node, lower, -math.inf), self.windows(node, upper, -math.inf)
        rival = (high > low.amax(-1, keepdim=True)) | (low == low.amax(-1, keepdim=True))
        rival &= rival.sum(-1, keepdim=True) > 1
        with torch.enable_grad():
            x = torch.zeros_like(lower, requires_grad=True)
            windows = self.windows(node, x, 0.0)
        return torch.autograd.grad(windows, x, rival.to(x.dtype))[0] > 0

    def place(self, node: Node, pick: Tensor, a: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Coefficients a (B, N, C, *out) moved to the picked entry of each window: (B, N, C, *S)."""
        with torch.enable_grad():
            x = torch.zeros((a.shape[0], *shape), dtype=a.dtype, device=a.device, requires_grad=True)
            windows = self.windows(node, x, 0.0)
            chosen = windows.gather(-1, pick.expand(a.shape).unsqueeze(-1)).squeeze(-1)
        return torch.autograd.grad(chosen, x, a, create_graph=a.requires_grad)[0]

    def terms(self, node: Node) -> int:
        """How many windows one input may belong to: terms summed by ``place``."""
        return math.prod(node.attrs["kernel"])
