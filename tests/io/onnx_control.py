"""Random models with TopK, If, Loop and Scan, for comparison with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx_cases import FLOAT, INT64, Typed, net
from onnx_models import Rng, floats, maker, opset, pick

BOOL = TensorProto.BOOL


@maker("TopK")
def _top_k(rng: Rng) -> onnx.ModelProto:
    shape = tuple(int(k) for k in rng.integers(1, 7, rng.integers(1, 4)))
    axis = int(rng.integers(-len(shape), len(shape)))
    k = int(rng.integers(1, shape[axis] + 1))
    outputs = pick(rng, (FLOAT,), (FLOAT,), (None, INT64), (FLOAT, INT64))
    version = opset(rng, 9, 10, 11, 13)
    x = shape if rng.random() < 0.8 else Typed(shape, FLOAT, 0.1)
    if version < 10:
        return net("TopK", [x], {"axis": axis, "k": k}, version, outputs)
    attrs = {"axis": axis} if version == 10 else {"axis": axis, "largest": int(rng.random() < 0.6)}
    return net("TopK", [x, np.array([k], np.int64)], attrs, version, outputs)


def value(name: str, kind: int = FLOAT, shape: tuple[int, ...] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def body(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    **weights: np.ndarray,
) -> onnx.GraphProto:
    kept = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    return helper.make_graph(list(nodes), "body", list(inputs), list(outputs), kept)


def around(rng: Rng, nodes: Sequence[onnx.NodeProto], **weights: np.ndarray) -> onnx.ModelProto:
    """A model of x (2, 3), whose nodes make y."""
    x = helper.make_tensor_value_info("x", FLOAT, (2, 3))
    kept = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "net", [x], [value("y")], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset(rng, 13, 16))], ir_version=8)


@maker("If")
def _if(rng: Rng) -> onnx.ModelProto:
    """By a constant, by shapes, or by the input; branches read what stands around them, and one another If."""
    node = helper.make_node
    inner = [body([node(op, ["x"], ["b"])], [], [value("b")]) for op in ("Tanh", "Neg")]
    nested = [node("If", ["no"], ["t"], then_branch=inner[0], else_branch=inner[1]), node("Mul", ["t", "w"], ["z"])]
    weights = {"no": np.array(False), "w": floats(rng, 3)}
    other = body([node("Add", ["x", "v"], ["z"])], [], [value("z")], v=floats(rng, 3))
    branches = [body(nested, [], [value("z")]), other]
    branches = branches if rng.random() < 0.5 else branches[::-1]
    kind = pick(rng, "constant", "shape", "input")
    before = []
    if kind == "constant":
        weights["c"] = np.array(bool(rng.random() < 0.5))
    elif kind == "shape":
        weights["s"] = np.array([2, int(rng.integers(2, 5))], np.int64)
        before = [node("Shape", ["x"], ["n"]), node("Equal", ["n", "s"], ["e"])]
        before += [node("Cast", ["e"], ["i"], to=INT64), node("ReduceMin", ["i"], ["m"], keepdims=0)]
        before += [node("Cast", ["m"], ["c"], to=BOOL)]
    else:
        weights["zero"] = np.array(0.0, np.float32)
        before = [node("ReduceSum", ["x"], ["n"], keepdims=0), node("Greater", ["n", "zero"], ["c"])]
    choose = node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    return around(rng, [*before, choose], **weights)


@maker("Loop")
def _loop(rng: Rng) -> onnx.ModelProto:
    """x = relu(w·x + turn) some times, or until the turn is the second; what it was after each is stacked."""
    node = helper.make_node
    nodes = [node("Cast", ["turn"], ["r"], to=FLOAT), node("Mul", ["before", "w"], ["p"])]
    nodes += [node("Add", ["p", "r"], ["q"]), node("Relu", ["q"], ["after"])]
    nodes += [node("Less", ["turn", "last"], ["again"]), node("Identity", ["q"], ["row"])]
    inputs = [value("turn", INT64, ()), value("go", BOOL, ()), value("before", FLOAT, (2, 3))]
    outputs = [value("again", BOOL, ()), value("after", FLOAT, (2, 3)), value("row", FLOAT, (2, 3))]
    inner = body(nodes, inputs, outputs, w=floats(rng, 3))
    trips = pick(rng, "", "m")
    weights = {"m": np.array(int(rng.integers(1, 5)), np.int64), "last": np.array(2, np.int64), "yes": np.array(True)}
    loop = node("Loop", [trips, pick(rng, "", "yes"), "x"], ["last_x", "rows"], body=inner)
    total = [node("ReduceSum", ["rows"], ["total"], keepdims=0), node("Add", ["last_x", "total"], ["y"])]
    return around(rng, [loop, *total], **weights)


@maker("Scan")
def _scan(rng: Rng) -> onnx.ModelProto:
    """A running sum along either axis, in either direction."""
    node = helper.make_node
    nodes = [
        node("Mul", ["state", "w"], ["p"]),
        node("Add", ["p", "entry"], ["after"]),
        node("Tanh", ["after"], ["row"]),
    ]
    inner = body(nodes, [value("state"), value("entry")], [value("after"), value("row")])
    axis = int(rng.integers(2))
    attrs = {"scan_input_axes": [axis], "scan_input_directions": [int(rng.integers(2))]}
    attrs |= {"scan_output_axes": [int(rng.integers(2))], "scan_output_directions": [int(rng.integers(2))]}
    scan = node("Scan", ["start", "x"], ["end", "rows"], body=inner, num_scan_inputs=1, **attrs)
    join = [node("ReduceSum", ["rows"], ["total"], keepdims=0), node("Add", ["end", "total"], ["y"])]
    size = (3, 2)[axis]
    return around(rng, [scan, *join], start=floats(rng, size), w=np.array(0.5, np.float32))
