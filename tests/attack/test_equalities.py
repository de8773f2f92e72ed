"""Equalities: witnesses that fulfil them exactly are found, replayed without tolerance."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from verinn.api import verify
from verinn.options import Options
from verinn.result import Verdict

HEAD = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1,3]) (declare-output Y float32 [1,2]))
"""
RNG = np.random.default_rng(11)
W, V = RNG.standard_normal((3, 8)), RNG.standard_normal((8, 2))


def model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["p"]),
        helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("MatMul", ["r", "V"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in (("W", W), ("V", V))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize(
    "body",
    [
        "(== Y[0,0] 0.25)",
        "(== (+ Y[0,0] (* -2.0 Y[0,1])) 0.5)",
        "(== (+ X[0,0] (* 3.0 X[0,1]) (* -0.5 X[0,2])) 0.375)",
        "(and (== (+ X[0,0] X[0,1]) 0.25) (== (- X[0,0] X[0,2]) 0.125) (<= Y[0,0] 3.0))",
        "(and (== (+ X[0,0] X[0,1]) 0.25) (== Y[0,0] -1.125))",
        "(and (== X[0,0] 0.1) (== Y[0,1] -1.0625))",
        "(== (* Y[0,0] Y[0,0]) 0.25)",
        "(== Y[0,0] X[0,1])",
    ],
)
def test_a_witness_is_found(body: str, tmp_path: Path) -> None:
    box = "".join(f"(assert (>= X[0,{i}] -1.0))(assert (<= X[0,{i}] 1.0))" for i in range(3))
    file = tmp_path / "p.vnnlib"
    file.write_text(HEAD + box + f"(assert {body})")
    result = verify(model(), file, Options(deadline=time.monotonic() + 20, device="cpu"))
    assert result.verdict is Verdict.SAT and result.witness is not None
    if body.startswith("(== Y[0,0] 0.25"):
        assert Fraction(float(result.witness.values["Y"].ravel()[0])) == Fraction(1, 4)


def test_no_witness_where_none_is(tmp_path: Path) -> None:
    """Y = 0.1 holds somewhere, but no float32 output is 0.1: whatever is said, it is not `sat`."""
    box = "".join(f"(assert (>= X[0,{i}] -1.0))(assert (<= X[0,{i}] 1.0))" for i in range(3))
    file = tmp_path / "p.vnnlib"
    file.write_text(HEAD + box + "(assert (== Y[0,0] 0.1))")
    result = verify(model(), file, Options(deadline=time.monotonic() + 2, device="cpu"))
    assert result.verdict in (Verdict.UNKNOWN, Verdict.TIMEOUT)
