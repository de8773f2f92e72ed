"""Convolution in one to three dimensions, with an explicit transpose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from verinn.ir.graph import Node
from verinn.ops.base import Affine, Params
from verinn.ops.shape import torch_pads

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
#: below so many channels on either side torch's strided transpose is slower than a detour
NARROW = 16


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
        spatial = shapes[0][2:]
        begins = node.attrs["pads"][: len(spatial)]
        flat = transposed(a.flatten(0, 1), params["weight"], node.attrs, begins, spatial)
        return [flat.contiguous().reshape(a.shape[0], a.shape[1], *flat.shape[1:])]

    def terms(self, node: Node, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
        out, channels, *kernel = node.params["weight"].shape
        met = math.prod(map(_meeting, kernel, node.attrs["strides"], node.attrs["dilations"]))
        return channels * math.prod(kernel), out // node.attrs["groups"] * met


def _meeting(taps: int, stride: int, dilation: int) -> int:
    """How many of a kernel's taps may meet one pixel of an axis, each in a window of its own.

    Tap t of window o is at pixel stride · o + dilation · t, so taps that meet are a multiple of stride / gcd apart.
    What kernels of torch add beside these are products with exact zeros, which round nothing.
    """
    return -(-taps // (stride // math.gcd(stride, dilation)))


def transposed(
    a: Tensor, weight: Tensor, attrs: Mapping[str, Any], begins: Sequence[int], sizes: Sequence[int]
) -> Tensor:
    """Lᵀ a of a convolution for a (B, C_out, *out): pixels begin … begin + size − 1 of the padded input.

    Pixels beyond the last window get zero. The memory format of the answer is whatever was quickest.
    """
    strides, dilations, kernel = attrs["strides"], attrs["dilations"], weight.shape[2:]
    if len(sizes) == 2 and max(dilations) == attrs["groups"] == 1:
        if max(a.shape[2:]) == 1:  # one place: a product of matrices
            flat: Tensor = a.flatten(1) @ weight.permute(0, 2, 3, 1).flatten(1)
            return _cut(flat.reshape(-1, *kernel, weight.shape[1]).permute(0, 3, 1, 2), begins, sizes)
        if max(strides) > max(kernel) == 1:
            return _cut(_spaced(F.conv2d(a, weight.transpose(0, 1)), strides), begins, sizes)
        if max(strides) > 1 and min(weight.shape[:2]) < NARROW:
            return _by_phase(a, weight, strides, begins, sizes)
    if len(sizes) == 2 and max(strides) > 1:
        a = a.contiguous(memory_format=torch.channels_last)
    axes = range(len(sizes))
    reach = [(a.shape[2 + i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1 for i in axes]
    extra = [sizes[i] - reach[i] + 2 * begins[i] for i in axes]
    # torch cuts as much at the end as at the beginning, and adds less than a step there
    if any(extra[i] >= max(strides[i], dilations[i]) for i in axes):
        whole = _TRANSPOSED[len(sizes)](a, weight, None, strides, 0, 0, attrs["groups"], dilations)
        return _cut(whole, begins, sizes)
    added = tuple(max(0, e) for e in extra)
    y = _TRANSPOSED[len(sizes)](a, weight, None, strides, tuple(begins), added, attrs["groups"], dilations)
    return _cut(y, [0] * len(sizes), sizes)


def _cut(y: Tensor, begins: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Pixels begin … begin + size − 1 of each axis, zero beyond the last."""
    axes = range(len(sizes))
    missing = [max(0, begins[i] + sizes[i] - y.shape[2 + i]) for i in axes]
    if any(missing):
        y = F.pad(y, torch_pads([0] * len(sizes) + missing))
    for i in axes:
        y = y.narrow(2 + i, begins[i], sizes[i])
    return y


def _spaced(y: Tensor, strides: Sequence[int]) -> Tensor:
    """Pixels moved a stride apart, zeros between them."""
    apart = y.new_zeros((*y.shape[:2], *((n - 1) * stride + 1 for n, stride in zip(y.shape[2:], strides, strict=True))))
    apart[:, :, :: strides[0], :: strides[1]] = y
    return apart


def _by_phase(a: Tensor, weight: Tensor, strides: Sequence[int], begins: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """The same for strides above one, as a plain convolution: pixels that are a stride apart meet the same
    part of the kernel, so each phase of the stride is one more output channel, and phases are interleaved
    at the end (Shi et al., CVPR 2016). Zeros that fill up the kernel add nothing, no rounding either.
    """
    out, channels = weight.shape[:2]
    lead = [-begin % stride for begin, stride in zip(begins, strides, strict=True)]
    taps = [-(-(k + more) // stride) for k, more, stride in zip(weight.shape[2:], lead, strides, strict=True)]
    tail = [taps[i] * strides[i] - weight.shape[2 + i] - lead[i] for i in range(2)]
    w = F.pad(weight, torch_pads([*lead, *tail])).reshape(out, channels, taps[0], strides[0], taps[1], strides[1])
    w = w.flip(2, 4).permute(1, 3, 5, 0, 2, 4).reshape(-1, out, *taps)
    count = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
    before = [taps[i] - 1 - (begins[i] + lead[i]) // strides[i] for i in range(2)]
    after = [count[i] - a.shape[2 + i] + taps[i] - 1 - before[i] for i in range(2)]
    around = [max(0, *pair) for pair in zip(before, after, strict=True)]
    y = F.conv2d(a, w, None, 1, around)
    y = y[:, :, around[0] - before[0] :, around[1] - before[1] :][:, :, : count[0], : count[1]]
    y = y.unflatten(1, (channels, *strides)).permute(0, 1, 4, 2, 5, 3)
    y = y.reshape(-1, channels, count[0] * strides[0], count[1] * strides[1])
    return _cut(y, (0, 0), sizes)
