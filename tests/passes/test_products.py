"""Polynomial comparisons: the products as graph, and verdicts against exact truth."""

from __future__ import annotations

import time
from fractions import Fraction
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
from verinn.passes.dnf import normal_form
from verinn.result import Verdict
from verinn.search.problem import build

HEAD = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1,2]) (declare-hidden H float32 [1,3] "r")
  (declare-output Y float32 [1,2]))
"""
W = np.array([[1.0, -0.5, 0.25], [0.5, 1.0, -1.0]])
V = np.array([[1.0, 0.5], [-1.0, 1.0], [0.5, 2.0]])


def model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["p"]),
        helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("MatMul", ["r", "V"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in (("W", W), ("V", V))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def text(body: str) -> str:
    box = "".join(f"(assert (>= X[0,{i}] -1.0))(assert (<= X[0,{i}] 1.0))" for i in range(2))
    return HEAD + box + f"(assert {body})"


PRODUCTS = "(<= (+ (* X[0,0] Y[0,1]) (* X[0,0] X[0,0]) (* H[0,2] Y[0,0] X[0,1] X[0,0]) (* X[0,1] X[0,1] X[0,1])) 1.0)"


def test_products_are_outputs() -> None:
    problem = build(model(), parse_query(text(PRODUCTS).encode(), "made"))
    x = torch.from_numpy(np.random.default_rng(0).integers(-8, 9, (50, 2)) / 8.0).reshape(50, 1, 2)
    values = evaluate(problem.graph, [x])
    flat = torch.cat([values[out.value].flatten(1) for out in problem.graph.outputs], 1).numpy()
    assert problem.prop.m == flat.shape[1] == 9
    scalars = np.concatenate([x.reshape(50, 2).numpy(), flat[:, :5]], 1)  # scalar ids: X, H, Y
    for k, factors in enumerate(problem.prop.products):
        assert np.array_equal(flat[:, 5 + k], np.prod(scalars[:, list(factors)], axis=1))


def test_equal_products_are_made_once() -> None:
    query = parse_query(text("(or (<= (* X[0,0] X[0,1]) 1.0) (>= (* X[0,1] X[0,0]) 2.0))").encode(), "made")
    assert len(normal_form(query.formula, 100, 7).products) == 1


def values(x: np.ndarray) -> dict[str, np.ndarray]:
    h = np.maximum(x @ W, 0)
    return {"X": x, "H": h, "Y": h @ V}


def extreme(name: str) -> tuple[float, float]:
    """The least and greatest value on a grid, which has the corners and the axes."""
    side = np.linspace(-1, 1, 257)
    x = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    found = FORMS[name][1](**values(x))
    return float(found.min()), float(found.max())


FORMS = {
    "inputs": ("(* X[0,0] X[0,1])", lambda X, H, Y: X[:, 0] * X[:, 1]),
    "outputs": ("(* Y[0,0] Y[0,1])", lambda X, H, Y: Y[:, 0] * Y[:, 1]),
    "mixed": (
        "(+ (* X[0,0] Y[0,1]) (* -2.0 H[0,1] X[0,1]))",
        lambda X, H, Y: X[:, 0] * Y[:, 1] - 2 * H[:, 1] * X[:, 1],
    ),
    "square": ("(* (- Y[0,0] 0.1) (- Y[0,0] 0.1))", lambda X, H, Y: (Y[:, 0] - 0.1) ** 2),
    "cubic": ("(* X[0,0] X[0,1] H[0,0])", lambda X, H, Y: X[:, 0] * X[:, 1] * H[:, 0]),
    "power": ("(- (* X[0,0] X[0,0] X[0,0]) Y[0,1])", lambda X, H, Y: X[:, 0] ** 3 - Y[:, 1]),
}


@pytest.mark.parametrize("name", FORMS)
def test_verdicts(name: str, tmp_path: Path) -> None:
    low, high = extreme(name)
    file = tmp_path / "p.vnnlib"
    room = 0.02 * (high - low)
    for body, expected in (
        (f"(>= {FORMS[name][0]} {high + room:.5f})", Verdict.UNSAT),
        (f"(>= {FORMS[name][0]} {high - room:.5f})", Verdict.SAT),
        (f"(<= {FORMS[name][0]} {low - room:.5f})", Verdict.UNSAT),
        (f"(<= {FORMS[name][0]} {low + room:.5f})", Verdict.SAT),
    ):
        file.write_text(text(body))
        result = verify(model(), file, Options(deadline=time.monotonic() + 20, device="cpu"))
        assert result.verdict is expected, body


@pytest.mark.parametrize(
    "body, expected",
    [
        ("(< (* X[0,0] X[0,0]) 0.0)", "unsat"),  # touches: decided without rounding
        ("(>= (* X[0,0] X[0,1]) 1.0)", "sat"),
        ("(> (* X[0,0] X[0,1]) 1.0)", "unsat"),  # touches at two corners: no box is small enough, Z3 knows
        ("(<= (* H[0,0] H[0,0]) 0.0)", "sat"),
    ],
)
def test_products_that_touch(body: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "p.vnnlib"
    file.write_text(text(body))
    result = verify(model(), file, Options(deadline=time.monotonic() + 20, device="cpu"))
    assert result.verdict.value == expected


def test_inexact_constants_are_charged(tmp_path: Path) -> None:
    """0.1 · x² ≥ 0.1 at x = 1 only: the constants are no float64 numbers, and the one point is not lost."""
    file = tmp_path / "p.vnnlib"
    file.write_text(text("(>= (* 0.1 X[0,0] X[0,0] X[0,1]) 0.1)"))
    result = verify(model(), file, Options(deadline=time.monotonic() + 20, device="cpu"))
    assert result.verdict is Verdict.SAT and result.witness is not None
    x = [Fraction(float(v)) for v in result.witness.values["X"].ravel()]
    assert x[0] * x[0] * x[1] == 1
