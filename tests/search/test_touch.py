"""Strict rows that only touch their bound are decided, either way, and never wrongly."""

from __future__ import annotations

import itertools
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
(declare-network f (declare-input X float32 [1,{n}]) (declare-output Y float32 [1,{m}]))
"""


def model(weights: list[np.ndarray]) -> onnx.ModelProto:
    nodes, name = [], "x"
    for i in range(len(weights)):
        last = i == len(weights) - 1
        nodes.append(helper.make_node("MatMul", [name, f"W{i}"], ["y" if last else f"p{i}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"p{i}"], [name := f"r{i}"]))
    n, m = weights[0].shape[0], weights[-1].shape[1]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, n])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, m])],
        [numpy_helper.from_array(w.astype(np.float32), f"W{i}") for i, w in enumerate(weights)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def verdict(weights: list[np.ndarray], body: str, path: Path, seconds: float = 10) -> Verdict:
    n, m = weights[0].shape[0], weights[-1].shape[1]
    box = "".join(f"(assert (>= X[0,{i}] -1.0))(assert (<= X[0,{i}] 1.0))" for i in range(n))
    file = path / "p.vnnlib"
    file.write_text(HEAD.format(n=n, m=m) + box + body)
    return verify(model(weights), file, Options(deadline=time.monotonic() + seconds, device="cpu")).verdict


AFFINE = [np.array([[0.5, 1.0], [0.25, -1.0]])]
ABS = [np.array([[1.0, -1.0]]), np.array([[1.0, 2.0], [1.0, 2.0]])]  # |x|, 2|x|


@pytest.mark.parametrize(
    "weights, body, expected",
    [
        (AFFINE, "(assert (> Y[0,0] 0.75))", "unsat"),
        (AFFINE, "(assert (>= Y[0,0] 0.75))", "sat"),
        (AFFINE, "(assert (< Y[0,1] -2.0))", "unsat"),
        (AFFINE, "(assert (and (> Y[0,0] Y[0,1]) (< Y[0,0] Y[0,1])))", "unsat"),
        (AFFINE, "(assert (and (>= Y[0,0] 0.5) (< Y[0,0] 0.5)))", "unsat"),
        (AFFINE, "(assert (or (> Y[0,0] 0.75) (< Y[0,1] -2.0)))", "unsat"),
        (ABS, "(assert (> (+ Y[0,0] (* -1.0 X[0,0])) 2.0))", "unsat"),
        (ABS, "(assert (and (<= Y[0,0] X[0,0]) (< X[0,0] Y[0,0])))", "unsat"),
        (AFFINE, "(assert (!= Y[0,1] (+ X[0,0] X[0,1])))", "sat"),
        (ABS, "(assert (< Y[0,0] 0.0))", "unsat"),
        (ABS, "(assert (> Y[0,0] 1.0))", "unsat"),
        (ABS, "(assert (!= Y[0,1] (* 2.0 Y[0,0])))", "unsat"),
        (ABS, "(assert (< Y[0,1] Y[0,0]))", "unsat"),
        (ABS, "(assert (!= Y[0,1] 0.0))", "sat"),
    ],
)
def test_touching(weights: list[np.ndarray], body: str, expected: str, tmp_path: Path) -> None:
    assert verdict(weights, body, tmp_path).value == expected


@pytest.mark.parametrize("seed", range(6))
def test_maxima_of_random_networks(seed: int, tmp_path: Path) -> None:
    """A convex network has its maximum at a corner, exactly known: above it nothing, at it the corner."""
    rng = np.random.default_rng(seed)
    weights = [rng.integers(-4, 5, (2, 3)) / 4.0, rng.integers(0, 4, (3, 1)) / 2.0]
    exact = [[[Fraction(float(v)) for v in row] for row in w] for w in weights]
    tops = []
    for corner in itertools.product((-1, 1), repeat=2):
        hidden = [max(Fraction(0), sum(c * exact[0][i][k] for i, c in enumerate(corner))) for k in range(3)]
        tops.append(sum(h * exact[1][k][0] for k, h in enumerate(hidden)))
    top = float(max(tops))
    assert verdict(weights, f"(assert (> Y[0,0] {top}))", tmp_path) is Verdict.UNSAT
    assert verdict(weights, f"(assert (>= Y[0,0] {top}))", tmp_path) is Verdict.SAT
