"""Importer of ConvTranspose: a plain convolution whose output channels are interleaved.

Entries of the output that are a stride apart meet the same part of the kernel, so each phase of the
strides becomes a set of output channels (Shi et al., *Real-Time Single Image and Video
Super-Resolution*, CVPR 2016); no zeros are multiplied as when the input is spread out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from verinn.errors import InputError
from verinn.io.onnx_reader.builder import Value, limited
from verinn.io.onnx_reader.call import Call, importer
from verinn.ir import const as c
from verinn.ir.graph import Const


@importer("ConvTranspose")
def _conv_transpose(call: Call) -> Value:
    builder, x, kernel = call.builder, call.real(0), call.known(1, "the kernel")
    half = len(x.shape) - 2
    if half < 1 or len(kernel.shape) != len(x.shape):
        raise InputError(f"convolves {list(x.shape)} by a kernel of shape {list(kernel.shape)}")
    size, groups = kernel.shape[2:], int(call.attr("group", 1))
    given = call.ints("kernel_shape", None)
    if given is not None and tuple(given) != size:
        raise InputError(f"states the kernel shape {given} for a kernel of shape {list(kernel.shape)}")
    if groups < 1 or x.shape[1] % groups or kernel.shape[0] != x.shape[1]:
        raise InputError(f"convolves {list(x.shape)} by a kernel of shape {list(kernel.shape)} in {groups} groups")
    strides, dilations, extra = (
        call.ints(name, None) or [least] * half
        for name, least in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    for name, values, least in (("strides", strides, 1), ("dilations", dilations, 1), ("output_padding", extra, 0)):
        if len(values) != half or min(values) < least:
            raise InputError(f"has the {name} {values} for {half} spatial axes")
    weight = c.as_float(kernel.const)
    if max(strides) > 1 and max(dilations) > 1:
        weight, dilations = _dilated(weight, dilations), [1] * half
    full = [(x.shape[2 + i] - 1) * strides[i] + (weight.shape[2 + i] - 1) * dilations[i] + 1 for i in range(half)]
    limited(full)
    begins, ends = _cuts(call, x.shape[2:], strides, full, extra)
    result = _whole(call, x, weight, strides, dilations, groups)
    # What lies behind the last window is cut, or filled with zeros.
    tails = [full[i] - result.shape[2 + i] + extra[i] - ends[i] for i in range(half)]
    result = builder.pad(result, [0, 0, *[-begin for begin in begins], 0, 0, *tails])
    if call.has(2):
        bias = call.real(2)
        result = builder.add(result, builder.reshape(bias, (math.prod(bias.shape), *[1] * half)))
    return result


def _dilated(weight: Const, dilations: Sequence[int]) -> Const:
    """The kernel with zeros between its taps."""
    sizes = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
    places = tuple(slice(None, None, step) for step in dilations)

    def spread(array: np.ndarray) -> np.ndarray:
        wide = np.zeros((*array.shape[:2], *sizes))
        wide[(slice(None), slice(None), *places)] = array
        return wide

    limited((*weight.shape[:2], *sizes))
    return c.move(weight, spread)


def _cuts(
    call: Call, sizes: Sequence[int], strides: Sequence[int], full: Sequence[int], extra: Sequence[int]
) -> tuple[list[int], list[int]]:
    """How much of the whole output is cut at the beginning and at the end of each spatial axis."""
    half = len(sizes)
    auto = str(call.attr("auto_pad", "NOTSET") or "NOTSET")
    wanted = call.ints("output_shape", None)
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    if wanted is not None:
        wanted = wanted[-half:]
        if len(wanted) != half or min(wanted) < 1:
            raise InputError(f"has the output_shape {wanted} for {half} spatial axes")
        totals = [full[i] + extra[i] - wanted[i] for i in range(half)]
        if min(totals) < 0:
            raise InputError(f"makes {full} entries and states {wanted}", hint="the output_shape is too large")
        small = [total // 2 for total in totals]
        large = [total - less for total, less in zip(totals, small, strict=True)]
        return (small, large) if auto == "SAME_UPPER" else (large, small)
    if auto == "VALID":
        return [0] * half, [0] * half
    if auto != "NOTSET":
        raise InputError(f"has the unknown auto_pad '{auto}'")
    pads = call.ints("pads", None) or [0] * (2 * half)
    if len(pads) != 2 * half or min(pads) < 0:
        raise InputError(f"has the pads {pads} for {half} spatial axes")
    return pads[:half], pads[half:]


def _whole(call: Call, x: Value, weight: Const, strides: Sequence[int], dilations: Sequence[int], groups: int) -> Value:
    """The output without padding, a little longer where the stride doesn't divide the kernel."""
    builder, half = call.builder, len(strides)
    channels, per_group, *kernel = weight.shape
    taps = [-(-kernel[i] // strides[i]) for i in range(half)]
    axes = range(half)

    def phases(array: np.ndarray) -> np.ndarray:
        """(C, O/g, *K) → (g · O/g · s₁ · …, C/g, *taps), taps in reverse."""
        widths = [(0, 0), (0, 0), *((0, taps[i] * strides[i] - kernel[i]) for i in axes)]
        parts = [(taps[i], strides[i]) for i in axes]
        wide = np.pad(array, widths).reshape(
            groups, channels // groups, per_group, *(n for pair in parts for n in pair)
        )
        tap_axes, phase_axes = [3 + 2 * i for i in axes], [4 + 2 * i for i in axes]
        turned = np.flip(wide, tuple(tap_axes)).transpose(0, 2, *phase_axes, 1, *tap_axes)
        return np.asarray(turned).reshape(groups * per_group * math.prod(strides), channels // groups, *taps)

    around = tuple((taps[i] - 1) * dilations[i] for i in axes)
    attrs = {"strides": (1,) * half, "dilations": tuple(dilations), "groups": groups, "pads": around * 2}
    y: Value = builder.emit("conv", [builder.ref(x)], attrs, {"weight": c.move(weight, phases)})
    if max(strides) == 1:
        return y
    sizes = y.shape[2:]
    y = builder.reshape(y, (x.shape[0], groups * per_group, *strides, *sizes))
    perm = [0, 1, *(axis for i in axes for axis in (2 + half + i, 2 + i))]
    y = builder.transpose(y, perm)
    return builder.reshape(y, (x.shape[0], groups * per_group, *(sizes[i] * strides[i] for i in axes)))
