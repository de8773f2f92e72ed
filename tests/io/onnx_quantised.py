"""Random models of quantised operators and recurrences for comparison with ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx_cases import FLOAT, INT8, UINT8, net, scalar
from onnx_models import Rng, floats, maker, opset, pick

# -- quantised -------------------------------------------------------------------------------------


@maker("QuantizeLinear")
def _quantize(rng: Rng) -> onnx.ModelProto:
    dtype = pick(rng, np.uint8, np.int8)
    kind = UINT8 if dtype == np.uint8 else INT8
    if rng.random() < 0.4:
        scale, zero = np.array([0.02, 0.1, 0.3], np.float32), rng.integers(0, 9, 3).astype(dtype)
        return net(
            "QuantizeLinear",
            [(2, 3, 2), scale, zero],
            {"axis": pick(rng, None, 1, -2)},
            opset(rng, 13, 19, 21),
            (kind,),
        )
    zero = pick(rng, None, np.array(3, dtype))
    return net(
        "QuantizeLinear", [(2, 3), scalar(0.05), zero], None, opset(rng, 10, 13), (UINT8 if zero is None else kind,)
    )


@maker("DequantizeLinear")
def _dequantize(rng: Rng) -> onnx.ModelProto:
    """Of a quantised variable: both operators in a row."""
    axis = pick(rng, None, 0)
    first = net("QuantizeLinear", [(2, 3), scalar(0.05), np.array(3, np.int8)], None, 13, (INT8,))
    size = 2 if axis == 0 else 3
    scale = pick(rng, scalar(0.1), np.linspace(0.1, 0.3, size, dtype=np.float32))
    zero = np.full(scale.shape, 2, np.int8)
    first.graph.initializer.extend([numpy_helper.from_array(scale, "ds"), numpy_helper.from_array(zero, "dz")])
    del first.graph.node[-1]
    names = ["r0", "ds", "dz"] if rng.random() < 0.7 else ["r0", "ds"]
    attrs = {} if axis is None else {"axis": axis}
    first.graph.node.append(helper.make_node("DequantizeLinear", names, ["y0"], **attrs))
    return first


@maker("DynamicQuantizeLinear")
def _dynamic(rng: Rng) -> onnx.ModelProto:
    return net("DynamicQuantizeLinear", [(2, 3)], None, 11, (UINT8, FLOAT, UINT8))


def _after_quantised(
    model: onnx.ModelProto, op: str, extra: dict[str, np.ndarray], names: list[str], attrs: Any
) -> onnx.ModelProto:
    """Another node after QuantizeLinear, its result cast to float."""
    del model.graph.node[-1]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in extra.items())
    model.graph.node.append(helper.make_node(op, names, ["q"], **attrs))
    model.graph.node.append(helper.make_node("Cast", ["q"], ["y0"], to=FLOAT))
    return model


def _weights8(rng: Rng, *shape: int) -> np.ndarray:
    return rng.integers(-20, 20, shape).astype(np.int8)


@maker("MatMulInteger")
def _matmul_integer(rng: Rng) -> onnx.ModelProto:
    first = net("QuantizeLinear", [(2, 3), scalar(0.05), np.array(7, np.uint8)], None, 13, (UINT8,))
    extra = {"w": _weights8(rng, 3, 4), "az": np.array(7, np.uint8), "bz": np.array(1, np.int8)}
    names = pick(rng, ["r0", "w"], ["r0", "w", "az"], ["r0", "w", "az", "bz"])
    return _after_quantised(first, "MatMulInteger", extra, names, {})


@maker("QLinearMatMul")
def _qlinear_matmul(rng: Rng) -> onnx.ModelProto:
    first = net("QuantizeLinear", [(2, 3), scalar(0.05), np.array(7, np.uint8)], None, 13, (UINT8,))
    many = rng.random() < 0.4
    extra = {
        "as": scalar(0.05), "az": np.array(7, np.uint8), "w": _weights8(rng, 3, 4),
        "bs": np.linspace(0.01, 0.03, 4, dtype=np.float32) if many else scalar(0.02),
        "bz": np.zeros(4, np.int8) if many else np.array(1, np.int8), "ys": scalar(0.037),
        "yz": np.array(100, np.uint8),
    }  # fmt: skip
    return _after_quantised(first, "QLinearMatMul", extra, ["r0", "as", "az", "w", "bs", "bz", "ys", "yz"], {})


@maker("ConvInteger")
def _conv_integer(rng: Rng) -> onnx.ModelProto:
    first = net("QuantizeLinear", [(1, 2, 5, 5), scalar(0.05), np.array(7, np.uint8)], None, 13, (UINT8,))
    extra = {"w": rng.integers(0, 9, (3, 2, 3, 3)).astype(np.uint8), "az": np.array(7, np.uint8)}
    return _after_quantised(
        first, "ConvInteger", extra, pick(rng, ["r0", "w"], ["r0", "w", "az"]), {"pads": [1, 1, 1, 1]}
    )


@maker("QLinearConv")
def _qlinear_conv(rng: Rng) -> onnx.ModelProto:
    first = net("QuantizeLinear", [(1, 2, 5, 5), scalar(0.05), np.array(7, np.uint8)], None, 13, (UINT8,))
    many = rng.random() < 0.5
    extra = {
        "as": scalar(0.05), "az": np.array(7, np.uint8), "w": _weights8(rng, 3, 2, 3, 3),
        "bs": np.linspace(0.01, 0.03, 3, dtype=np.float32) if many else scalar(0.02),
        "bz": np.zeros(3, np.int8) if many else np.array(0, np.int8), "ys": scalar(0.037),
        "yz": np.array(100, np.uint8),
        "b": rng.integers(-50, 50, 3).astype(np.int32),
    }  # fmt: skip
    names = ["r0", "as", "az", "w", "bs", "bz", "ys", "yz", *pick(rng, [], ["b"])]
    return _after_quantised(first, "QLinearConv", extra, names, {"pads": [1, 0, 1, 0], "strides": [2, 1]})


# -- recurrences -----------------------------------------------------------------------------------

for _op, _gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):

    @maker(_op)
    def _recurrent(rng: Rng, op: str = _op, gates: int = _gates) -> onnx.ModelProto:
        kind = pick(rng, None, "forward", "reverse", "bidirectional")
        count, size, features, batch, times = 2 if kind == "bidirectional" else 1, 3, 2, int(rng.integers(1, 3)), 3
        sides: list[Any] = [(times, batch, features), floats(rng, count, gates * size, features)]
        sides += [floats(rng, count, gates * size, size)]
        sides += [floats(rng, count, 2 * gates * size) if rng.random() < 0.6 else None, None]
        sides += [pick(rng, None, floats(rng, count, batch, size), (count, batch, size))]
        outputs: tuple[int, ...] = (FLOAT, FLOAT)
        attrs: dict[str, Any] = {"hidden_size": size, "direction": kind}
        if op == "LSTM":
            sides += [pick(rng, None, floats(rng, count, batch, size))]
            sides += [floats(rng, count, 3 * size) if rng.random() < 0.4 else None]
            outputs = (FLOAT, FLOAT, FLOAT)
        if op == "GRU":
            attrs["linear_before_reset"] = pick(rng, None, 0, 1)
        if op == "RNN" and rng.random() < 0.5:
            attrs["activations"] = ["Relu"] * count
        while sides[-1] is None:
            sides.pop()
        return net(op, sides, attrs, opset(rng, 7, 14), outputs)
