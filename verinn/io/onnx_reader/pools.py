"""Importers of pooling: average, maximum and Lp over sliding windows or over all of an image."""

from __future__ import annotations

import math

import numpy as np

from verinn.errors import Unsupported
from verinn.io.onnx_reader.affine import conv_attrs, number
from verinn.io.onnx_reader.builder import Known, Value
from verinn.io.onnx_reader.call import Call, importer
from verinn.io.onnx_reader.windows import Windows, windows_of
from verinn.ir.graph import Const


def window_sums(call: Call, x: Value, frame: Windows) -> Value:
    """The sum of each window: a convolution with ones, channel by channel."""
    channels = x.shape[1]
    ones = Const(np.ones((channels, 1, *frame.kernel)))
    return call.builder.emit("conv", [call.builder.ref(x)], conv_attrs(frame, channels), {"weight": ones})


@importer("AveragePool")
def _average_pool(call: Call) -> Value:
    """Sums over windows divided by how many entries each window counts."""
    x = call.real(0)
    frame = windows_of(call, x.shape[2:], call.ints("kernel_shape", None) or [])
    sums = window_sums(call, x, frame)
    counts = frame.counts(bool(call.attr("count_include_pad", 0)))
    if np.any(counts == 0):
        raise Unsupported("averages a window that lies in the padding")
    if np.all(counts == counts.flat[0]):
        return call.builder.div(sums, number(counts.flat[0], x.dtype))
    return call.builder.div(sums, Known(Const(counts), x.dtype))


@importer("GlobalAveragePool")
def _global_average_pool(call: Call) -> Value:
    x = call.real(0)
    total = call.builder.total(x, tuple(range(2, len(x.shape))))
    return call.builder.div(total, number(math.prod(x.shape[2:]), x.dtype))


@importer("LpPool", "GlobalLpPool")
def _lp_pool(call: Call) -> Value:
    """(Σ |x|ᵖ)^(1/p) over each window, for p = 1 and 2."""
    x, order = call.real(0), int(call.attr("p", 2))
    if order not in (1, 2):
        raise Unsupported(f"takes the norm of order {order}", hint="1 and 2 are supported")
    powers = call.builder.elementwise("abs", x) if order == 1 else call.builder.square(x)
    if call.op == "GlobalLpPool":
        total = call.builder.total(powers, tuple(range(2, len(x.shape))))
    else:
        total = window_sums(call, powers, windows_of(call, x.shape[2:], call.ints("kernel_shape", None) or []))
    return total if order == 1 else call.builder.elementwise("sqrt", total)


@importer("MaxPool")
def _max_pool(call: Call) -> list[Value | None]:
    x = call.value()  # of quantised values, too: they are whole numbers here
    frame = windows_of(call, x.shape[2:], call.ints("kernel_shape", None) or [])
    if frame.empty():
        raise Unsupported("takes the maximum of a window that lies in the padding")
    attrs = {
        "kernel": frame.kernel,
        "strides": frame.strides,
        "dilations": frame.dilations,
        "pads": frame.pads,
    }
    return [call.builder.emit("max_pool", [call.builder.ref(x)], attrs), None]


@importer("GlobalMaxPool")
def _global_max_pool(call: Call) -> Value:
    x = call.real()
    spatial = x.shape[2:]
    ones = (1,) * len(spatial)
    attrs = {"kernel": spatial, "strides": ones, "dilations": ones, "pads": (0,) * (2 * len(spatial))}
    return call.builder.emit("max_pool", [call.builder.ref(x)], attrs)
