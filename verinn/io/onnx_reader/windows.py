"""Sliding windows of convolution and pooling: explicit and automatic padding, ceil_mode, counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.builder import limited
from verinn.io.onnx_reader.call import Call
from verinn.ir.check import window


@dataclass(frozen=True)
class Windows:
    """Windows over spatial axes of the given sizes. ``pads`` are what the sums need: all begins, then
    all ends, ceil_mode's extra included; ``stated`` are the padding that counts as part of the input."""

    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    stated: tuple[int, ...]

    def counts(self, include_pads: bool) -> np.ndarray:
        """How many entries each window averages over, float64 of the output's spatial shape."""
        counts = np.ones(())
        for axis, taps in enumerate(self.positions()):
            half = len(self.sizes)
            low, high = 0, self.sizes[axis]
            if include_pads:
                low, high = low - self.stated[axis], high + self.stated[half + axis]
            inside = ((taps >= low) & (taps < high)).sum(axis=1).astype(np.float64)
            counts = counts[..., None] * inside
        return counts

    def positions(self) -> list[np.ndarray]:
        """For each axis the input positions that each window reads: (out, kernel)."""
        half = len(self.sizes)
        positions = []
        for axis, size in enumerate(self.sizes):
            total = self.pads[axis] + self.pads[half + axis]
            out = window(size, self.kernel[axis], self.strides[axis], self.dilations[axis], total)
            starts = np.arange(out) * self.strides[axis] - self.pads[axis]
            positions.append(starts[:, None] + np.arange(self.kernel[axis]) * self.dilations[axis])
        return positions

    def empty(self) -> bool:
        """Whether some window lies wholly in the padding."""
        return any(
            bool(np.any(~((taps >= 0) & (taps < size)).any(axis=1)))
            for taps, size in zip(self.positions(), self.sizes, strict=True)
        )


def windows_of(call: Call, sizes: Sequence[int], kernel: Sequence[int]) -> Windows:
    """The windows that a node's attributes describe. InputError when they don't fit the input."""
    half = len(sizes)
    if half == 0 or len(kernel) != half or min(kernel) < 1:
        raise InputError(f"slides a window of shape {list(kernel)} over {half} spatial axes")
    strides = call.ints("strides", None) or [1] * half
    dilations = call.ints("dilations", None) or [1] * half
    if len(strides) != half or len(dilations) != half or min(strides) < 1 or min(dilations) < 1:
        raise InputError(f"has the strides {strides} and dilations {dilations} for {half} spatial axes")
    limited(kernel)
    stated = _padding(call, sizes, kernel, strides, dilations)
    if min(stated) < 0:
        raise Unsupported(f"has negative padding {stated}")
    limited([size + stated[axis] + stated[half + axis] for axis, size in enumerate(sizes)])
    pads = list(stated)
    for axis, size in enumerate(sizes):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        total = pads[axis] + pads[half + axis]
        if size + total < reach:
            raise InputError(f"slides a window of reach {reach} over {size} entries padded by {total}")
        if call.attr("ceil_mode", 0):
            pads[half + axis] += _ceiling(size, pads[axis], total, reach, strides[axis])
    plain = [tuple(int(item) for item in items) for items in (sizes, kernel, strides, dilations, pads, stated)]
    return Windows(*plain)


def _padding(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    half = len(sizes)
    auto = call.attr("auto_pad", "NOTSET") or "NOTSET"
    if auto == "NOTSET":
        pads = call.ints("pads", None) or [0] * (2 * half)
        if len(pads) != 2 * half:
            raise InputError(f"has the pads {pads} for {half} spatial axes")
        return pads
    if auto == "VALID":
        return [0] * (2 * half)
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise InputError(f"has the unknown auto_pad '{auto}'")
    if call.op != "Conv" and max(dilations) > 1:
        raise Unsupported(
            "pads automatically and dilates, which the standard and ONNX Runtime do differently",
            hint="export it with explicit pads",
        )
    begins, ends = [], []
    for size, length, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        out = -(-size // stride)
        total = max(0, (out - 1) * stride + dilation * (length - 1) + 1 - size)
        small = total // 2
        begins.append(small if auto == "SAME_UPPER" else total - small)
        ends.append(total - small if auto == "SAME_UPPER" else small)
    return begins + ends


def _ceiling(size: int, begin: int, total: int, reach: int, stride: int) -> int:
    """The extra end padding of ceil_mode: one more window if it starts inside the input or the left padding."""
    floor = (size + total - reach) // stride + 1
    ceil = -(-(size + total - reach) // stride) + 1
    if ceil > floor and (ceil - 1) * stride < size + begin:
        return (ceil - 1) * stride + reach - (size + total)
    return 0
