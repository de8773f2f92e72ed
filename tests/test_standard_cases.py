"""Queries like those of the standard's conformance suite that once were undecided: each is decided, and rightly."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from verinn.api import verify
from verinn.options import Options

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model(nodes: list[onnx.NodeProto], n: int, m: int, out: int = FLOAT, **weights: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [n])],
        [helper.make_tensor_value_info("y", out, [m])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def node(op: str, inputs: str, output: str, **attrs: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attrs)


WHERE = model([node("Greater", "x t", "c"), node("Where", "c x f", "y")], 1, 1, t=np.float32(0.5), f=np.float32([10.0]))
CAST = model([node("Cast", "x", "i", to=INT64), node("Cast", "i", "y", to=FLOAT)], 1, 1)
POWER = model([node("Pow", "x e", "y")], 1, 1, e=np.float32([0.0]))
SHAPE = model([node("Shape", "x", "y")], 3, 1, INT64)
SOFTMAX = model(
    [node("Reshape", "x s", "a"), node("Softmax", "a", "b", axis=1), node("Reshape", "b r", "y")],
    4, 4, s=np.array([2, 2]), r=np.array([4]),
)  # fmt: skip


@pytest.mark.parametrize(
    "net, low, high, body, expected",
    [
        (WHERE, 0.75, 1.0, "(>= Y[0] 5.0)", "unsat"),
        (WHERE, 0.75, 1.0, "(<= Y[0] 5.0)", "sat"),
        (WHERE, 0.0, 0.25, "(<= Y[0] 5.0)", "unsat"),
        (CAST, 2.1, 2.4, "(>= Y[0] 2.1)", "unsat"),
        (CAST, 2.1, 2.4, "(and (>= Y[0] 2.0) (<= Y[0] 2.0))", "sat"),
        (CAST, -1.0, 1.0, "(>= Y[0] 1.5)", "unsat"),
        (POWER, 1.0, 4.0, "(>= Y[0] 0.99)", "sat"),
        (POWER, 1.0, 4.0, "(>= Y[0] 1.01)", "unsat"),
        (SHAPE, 0.0, 1.0, "(>= Y[0] 4)", "unsat"),
        (SHAPE, 0.0, 1.0, "(>= Y[0] 3)", "sat"),
        (SOFTMAX, -10.0, 10.0, "(> (+ Y[0] Y[1]) 1.01)", "unsat"),
        (SOFTMAX, -10.0, 10.0, "(< (+ Y[2] Y[3]) 0.99)", "unsat"),
        (SOFTMAX, -10.0, 10.0, "(> (+ Y[0] Y[2]) 1.01)", "sat"),
    ],
)
def test_decided(net: onnx.ModelProto, low: float, high: float, body: str, expected: str, tmp_path: Path) -> None:
    (x,), (y,) = net.graph.input, net.graph.output
    n, m = (int(v.type.tensor_type.shape.dim[0].dim_value) for v in (x, y))
    kind = "int64" if y.type.tensor_type.elem_type == INT64 else "float32"
    box = "".join(f"(assert (>= X[{i}] {low}))(assert (<= X[{i}] {high}))" for i in range(n))
    file = tmp_path / "p.vnnlib"
    file.write_text(
        f"(vnnlib-version <2.0>)(declare-network f (declare-input X float32 [{n}])(declare-output Y {kind} [{m}]))"
        f"{box}(assert {body})"
    )
    assert verify(net, file, Options(deadline=time.monotonic() + 20, device="cpu")).verdict.value == expected
