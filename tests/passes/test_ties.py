"""Inputs that are equal become one, and nodes that compute the same one node: the function stays."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from verinn.api import verify
from verinn.io.vnnlib import parse_query
from verinn.ops import evaluate
from verinn.options import Options
from verinn.passes.ties import representatives
from verinn.result import Verdict
from verinn.search.problem import build

HEAD = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1,3]) (declare-output Y float32 [1,2]))
(declare-network g {kind} (declare-input U float32 [1,3]) (declare-output V float32 [1,2]))
"""


def model(seed: int) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    weights = {"A": rng.standard_normal((3, 5)), "B": rng.standard_normal((5, 2))}
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["p"]),
        helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("MatMul", ["r", "B"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def text(body: str, kind: str, tied: tuple[int, ...] = (0, 1, 2)) -> str:
    box = [f"(assert (>= {v}[0,{i}] -1.0))(assert (<= {v}[0,{i}] 1.0))" for v in "XU" for i in range(3)]
    ties = [f"(assert (== U[0,{i}] X[0,{i}]))" for i in tied]
    return "\n".join([HEAD.format(kind=kind), *box, *ties, body])


def test_representatives() -> None:
    assert representatives([(3, 4), (0, 2), (4, 2), (1, 1)], 6).tolist() == [0, 1, 0, 0, 0, 5]


@pytest.mark.parametrize("tied", [(), (0,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("kind, nodes", [("(equal-to f)", 3), ("(isomorphic-to f)", 6)])
def test_the_function_stays(kind: str, nodes: int, tied: tuple[int, ...]) -> None:
    models = {"f": model(1)} if "equal" in kind else {"f": model(1), "g": model(2)}
    body = "(assert (<= Y[0,0] (+ V[0,1] (* 2.0 X[0,0]) (* -1.0 U[0,0]))))"
    plain = build(models, parse_query(text(body, kind, ()).encode(), "made"))
    joined = build(models, parse_query(text(body, kind, tied).encode(), "made"))
    assert joined.prop.n == 6 - len(tied)
    assert (joined.index is None) or len(joined.index) == 6
    if len(tied) == 3:
        assert len(joined.graph.nodes) == nodes and len(joined.prop.cases[0].input_rows) == 0
    x = torch.randn(4, joined.prop.n, dtype=torch.float64)
    index = np.arange(6) if joined.index is None else joined.index
    apart = x[:, index]
    one = evaluate(joined.graph, split(joined.graph.inputs, x))
    two = evaluate(plain.graph, split(plain.graph.inputs, apart))
    for a, b in zip(joined.graph.outputs, plain.graph.outputs, strict=True):
        torch.testing.assert_close(one[a.value], two[b.value], rtol=1e-12, atol=1e-12)  # sums in another order
    (rows,), (other,) = joined.prop.cases[0].conjunctions, plain.prop.cases[0].conjunctions
    assert np.allclose(rows.x.dense() @ x.T.numpy(), other.x.dense() @ apart.T.numpy())


def split(inputs: tuple, x: torch.Tensor) -> list[torch.Tensor]:  # type: ignore[type-arg]
    sizes = [int(np.prod(value.shape)) for value in inputs]
    return [part.reshape(-1, *value.shape) for part, value in zip(x.split(sizes, 1), inputs, strict=True)]


def test_boxes_of_equal_inputs_meet() -> None:
    body = "(assert (<= U[0,1] 0.25))(assert (>= X[0,1] 0.25))(assert (<= Y[0,0] 9.0))"
    problem = build({"f": model(1)}, parse_query(text(body, "(equal-to f)").encode(), "made"))
    (case,) = problem.prop.cases
    assert case.lower[1] == case.upper[1] == 0.25 == case.witness_lower[1] == case.witness_upper[1]
    body = body.replace("(<= U[0,1] 0.25)", "(<= U[0,1] 0.125)")
    problem = build({"f": model(1)}, parse_query(text(body, "(equal-to f)").encode(), "made"))
    assert not len(problem.prop.cases)


@pytest.mark.parametrize("body", ["(!= Y[0,0] V[0,0])", "(> Y[0,1] V[0,1])", "(> (- Y[0,1] V[0,1]) 0.0)"])
def test_a_network_equals_itself(body: str, tmp_path: Path) -> None:
    """Decided without a bound: both outputs are one value, and a strict row of zeros holds nowhere."""
    for models in ({"f": model(3)}, {"f": model(3), "g": model(3)}):
        kind = "(equal-to f)" if len(models) == 1 else "(isomorphic-to f)"
        file = tmp_path / "p.vnnlib"
        file.write_text(text(f"(assert {body})", kind))
        assert verify(models, file, options()).verdict is Verdict.UNSAT


def test_two_networks_differ_at_one_input(tmp_path: Path) -> None:
    """A witness gives both networks the very same numbers; a bound on the difference is proved over one input."""
    file = tmp_path / "p.vnnlib"
    file.write_text(text("(assert (> (- Y[0,1] V[0,1]) 0.5))", "(isomorphic-to f)"))
    result = verify({"f": model(1), "g": model(2)}, file, options())
    assert result.verdict is Verdict.SAT and result.witness is not None
    assert np.array_equal(result.witness.values["X"], result.witness.values["U"])
    file.write_text(text("(assert (> (- Y[0,1] V[0,1]) 20.0))", "(isomorphic-to f)"))
    assert verify({"f": model(1), "g": model(2)}, file, options()).verdict is Verdict.UNSAT


def options() -> Options:
    return Options(deadline=time.monotonic() + 20, device="cpu")
