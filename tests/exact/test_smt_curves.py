"""Curves and products under Z3: refined where a solution needs it, never `sat` without a replay."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import search_brute as brute
import torch
from exact_graph import Build
from onnx import TensorProto, helper, numpy_helper

from verinn.api import Options, verify
from verinn.exact.encoding import meaning
from verinn.exact.encoding.encode import encode
from verinn.exact.encoding.formula import Comparison, Curve
from verinn.exact.smt import refine
from verinn.exact.smt.refine import Refined
from verinn.exact.smt.solver import Answer, SmtSolver, Status
from verinn.ops.program import Program
from verinn.result import Verdict

F = Fraction


def most(kind: str, level: float) -> tuple[Status, Refined]:
    """Whether Σ ±f(z) reaches its greatest value plus ``level`` over a square."""
    rng = np.random.default_rng(2)
    build = Build((1, 2))
    z = build.add("linear", "x0", params={"weight": rng.integers(-8, 9, (2, 2)) / 4, "bias": [0.25, -0.5]})
    last = build.add("mul", z, z) if kind == "mul" else build.add(kind, z)
    build.add("linear", last, params={"weight": [[1.0], [-1.0]]})
    program = Program.prepare(build.graph(), torch.float64)
    axis = torch.linspace(-1, 1, 201, dtype=torch.float64)
    y = program.flat(torch.cartesian_prod(axis, axis))
    draft = encode(program, -np.ones(2), np.ones(2))
    goal = (draft.y[0] * F(-1)).shifted(F(float(y.max()) + level))
    draft.builder.conditions.append(Comparison(goal, "<="))
    asked = Refined(SmtSolver(draft.finished()))
    return asked.check(None, lambda: 60.0).status, asked


@pytest.mark.parametrize("kind", ["tanh", "exp", "mul"])
def test_a_bound_is_refuted_above_the_greatest_value_and_met_below(kind: str) -> None:
    assert most(kind, 0.05)[0] is Status.UNSAT
    assert most(kind, -0.05)[0] is Status.SAT


def test_products_are_decided_by_nlsat() -> None:
    """Z3's default solver hands polynomial constraints to nlsat: it says so in its statistics."""
    status, asked = most("mul", 0.05)
    used = {str(key): value for key, value in asked.solver._solver.statistics()}
    assert status is Status.UNSAT and used.get("nlsat stages", 0) > 0


def network() -> onnx.ModelProto:
    """y = tanh(x0 + x1) − tanh(x0 − x1)."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["z"]),
        helper.make_node("Tanh", ["z"], ["t"]),
        helper.make_node("Gemm", ["t", "v"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.array([[1, 1], [1, -1]], np.float32), "w"),
        numpy_helper.from_array(np.array([[1], [-1]], np.float32), "v"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])
    graph = helper.make_graph(nodes, "two", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def decided(level: float, tmp_path: Path) -> Verdict:
    """The greatest value over [-1, 1]² is 2·tanh(1) = 1.52318…, at (0, 1)."""
    path = brute.write(
        tmp_path / "p.vnnlib", 2, 1, [*brute.bounds([-1, -1], [1, 1]), brute.row(">=", level, (1, "Y_0"))]
    )
    return verify(network(), path, Options(engine="smt", attack=False)).verdict


def test_the_engine_decides_a_network_with_curves(tmp_path: Path) -> None:
    assert decided(1.5625, tmp_path) is Verdict.UNSAT
    assert decided(1.5, tmp_path) is Verdict.SAT


def test_enclosures_too_weak_to_decide_never_make_sat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves of which nothing is known: Z3 has solutions everywhere, none of them replays."""

    def nothing(curve: Curve, low: float, high: float, exactly: bool) -> list[Comparison]:
        return []

    monkeypatch.setattr(meaning, "curve_cell", nothing)
    monkeypatch.setattr(refine, "curve_cell", nothing)
    monkeypatch.setattr(Refined, "_off", lambda self, point: [])  # as if every solution were near its curves
    found = decided(1.5625, tmp_path)
    assert found is Verdict.UNKNOWN


def test_a_solution_off_its_curve_is_refined_before_it_is_an_answer() -> None:
    status, asked = most("tanh", -0.05)
    assert status is Status.SAT
    answer: Answer = asked.check(None, lambda: 60.0)
    for curve in asked.solver.encoding.formula.curves:
        low, high = refine.value_at(curve, answer.point[curve.x])
        assert low - 1e-8 <= float(answer.point[curve.y]) <= high + 1e-8
