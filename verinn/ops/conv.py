"""Convolution in one to three dimensions, with an explicit transpose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from verinn.ir.graph import Node
from verinn.ops.base import Affine, Params
from verinn.ops.shape import torch_pads

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class Conv(Affine):
    weights = ("weight",)
    bias = "bias"

    def linear(self, node: Node, xs: Sequence[Tensor], params: Params, absolute: bool = False) -> Tensor:
        x = xs[0]
        flat = F.pad(x.flatten(0, 1), torch_pads(node.attrs["pads"]))
        attrs = node.attrs
        conv = _CONV[flat.dim() - 2]
        y = conv(flat, params["weight"], None, attrs["strides"], 0, attrs["dilations"], attrs["groups"])
        return y.reshape(x.shape[0], x.shape[1], *y.shape[1:])

    def offset(self, node: Node, params: Params) -> Tensor | None:
        if "bias" not in params:
            return None
        b = params["bias"]
        return b.reshape(1, 1, -1, *[1] * (len(node.shape) - 2))

    def back(self, node: Node, a: Tensor, params: Params, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        attrs, spatial = node.attrs, shapes[0][2:]
        half = len(spatial)
        padded = [size + attrs["pads"][i] + attrs["pads"][i + half] for i, size in enumerate(spatial)]
        kernel = params["weight"].shape[2:]
        reach = [
            (out - 1) * stride + dilation * (k - 1) + 1
            for out, stride, dilation, k in zip(
                node.shape[2:], attrs["strides"], attrs["dilations"], kernel, strict=True
            )
        ]
        flat = _TRANSPOSED[half](
            a.flatten(0, 1), params["weight"], None, attrs["strides"], 0, 0, attrs["groups"], attrs["dilations"]
        )
        # inputs beyond the last window get no coefficient; pads are cut away
        flat = F.pad(flat, torch_pads([0] * half + [p - r for p, r in zip(padded, reach, strict=True)]))
        for axis, size in enumerate(spatial):
            flat = flat.narrow(axis + 2, attrs["pads"][axis], size)
        return [flat.reshape(a.shape[0], a.shape[1], *flat.shape[1:])]

    def terms(self, node: Node, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
        out, channels, *kernel = node.params["weight"].shape
        window = math.prod(kernel)
        return channels * window, out // node.attrs["groups"] * window
