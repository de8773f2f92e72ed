"""Sweeps over the cells of first jumps: verdicts are those of a table, halves cover, both roundings are looked at."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from general_nets import Net, below
from onnx import TensorProto, helper, numpy_helper

from verinn.io.vnnlib import parse_query
from verinn.ir.graph import Graph
from verinn.ops.program import Program
from verinn.options import Options
from verinn.result import Verdict, Witness
from verinn.search import cells as module
from verinn.search import run as running
from verinn.search.bab import Limits, Outcome
from verinn.search.cells import Cells, Sweep, search_cells
from verinn.search.nonlinear import Effort
from verinn.search.problem import build, corners
from verinn.search.run import solve
from verinn.search.spec import groups

torch.set_num_threads(1)

JUMPS = ("floor", "ceil", "round", "sign", "step")


def tabled(op: str, seed: int, slope: float = 0.0) -> Graph:
    """A ReLU network of op(3.1 x), and with a ``slope`` of x itself, too."""
    net = Net(np.random.default_rng(seed))
    attrs = {"strict": bool(seed % 2)} if op == "step" else {}
    wide = net.add("scale", "x", params={"factor": np.array([3.1])})
    first = net.add(op, wide, **attrs)
    last = net.dense(net.add("relu", net.dense(first, 8)), 1)
    if slope:
        net.add("sum", last, net.dense("x", 1, slope), signs=(1, 1))
    return net.graph()


def least(graph: Graph) -> float:
    """The least output over a grid that has all jumps, their neighbours and the corners."""
    line = np.unique(np.concatenate([s + np.arange(-7, 8) / 6.2 for s in (0, -1e-9, 1e-9)]).clip(-1, 1))
    x = torch.from_numpy(np.stack(np.meshgrid(line, line), -1).reshape(-1, 2))
    return float(Program.prepare(graph, torch.float64).flat(x).min())


def decided(graph: Graph, limit: float) -> Outcome | None:
    (spec,) = groups([below(limit)])
    single, double = (Program.prepare(graph, dtype) for dtype in (torch.float32, torch.float64))
    until = time.monotonic() + 20

    def attempt(point: torch.Tensor, case: torch.Tensor) -> Witness | None:
        y = double.flat(point.unsqueeze(0))
        return Witness({"x": point.numpy(), "y": y.numpy()}) if float(y[0, 0]) <= limit else None

    limits = Limits(16, False, lambda: time.monotonic() > until)
    effort = Effort(32, 16 << 20, 2, True, lambda: 20.0)
    return search_cells(single, double, spec, limits, attempt, lambda *_: None, effort)


@pytest.mark.parametrize("op", JUMPS)
@pytest.mark.parametrize("slope", [0.0, 0.05])
def test_verdicts_are_true(op: str, slope: float) -> None:
    for seed in (0, 1):
        graph = tabled(op, seed, slope)
        lowest = least(graph)
        under, over = decided(graph, lowest - 0.01), decided(graph, lowest + 0.03)
        assert under is not None and under.verdict is Verdict.UNSAT
        assert over is not None and over.verdict is Verdict.SAT


@pytest.mark.parametrize("op", JUMPS)
def test_halves_cover_their_cell(op: str) -> None:
    assert covers(op)


def test_a_half_that_loses_points_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: what lies above a jump begins a little late."""
    real = module.narrowed

    def late(interval: object, here: object, index: object, point: torch.Tensor, sign: float) -> object:
        return real(interval, here, index, point if sign > 0 else point + 0.2, sign)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "narrowed", late)
    assert not covers("floor")


def covers(op: str) -> bool:
    """Whether points at and around jumps are in one of the halves, time and again, with all their values."""
    graph = tabled(op, 3)
    program = Program.prepare(graph, torch.float64)
    (spec,) = groups([below(0.0)])
    sweep = Sweep.start(program, spec, 0)
    assert sweep is not None
    line = torch.cat(
        [
            torch.arange(-6, 7).double() / 6.2,
            torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1,
        ]
    )
    x = torch.cartesian_prod(line, line)
    values = program.run([x.unsqueeze(1)])
    parts = [sweep.root]
    for _ in range(5):
        parts = [half for part in parts for half in halves(sweep, part)]
        if not all(any_holds(parts, x, values)):
            return False
    return True


def halves(sweep: Sweep, part: Cells) -> list[Cells]:
    divided, whole = sweep.divided(part)
    return [*divided, *([whole] if len(whole) else [])]


def any_holds(parts: list[Cells], x: torch.Tensor, values: dict[str, torch.Tensor]) -> list[bool]:
    inside = torch.zeros(len(x), dtype=torch.bool)
    for part in parts:
        for i in range(len(part)):
            mine = ((x >= part.lower[i]) & (x <= part.upper[i])).all(1)
            for name, (low, high) in part.known.items():
                mine &= ((values[name] >= low[i] - 1e-12) & (values[name] <= high[i] + 1e-12)).flatten(1).all(1)
            inside |= mine
    return inside.tolist()


def test_no_first_jump_no_sweep() -> None:
    net = Net(np.random.default_rng(0))
    net.dense(net.add("floor", net.add("relu", net.dense("x", 3))), 1)
    assert decided(net.graph(), 0.0) is None


def test_too_many_cells_are_no_sweep() -> None:
    net = Net(np.random.default_rng(0))
    net.dense(net.add("floor", net.dense("x", 16, 100.0)), 1)
    assert decided(net.graph(), 0.0) is None


def picked() -> object:
    """y = x₀ · (1 + floor(x₁)² of x₁ in [0, 3)), and a second row of numbers that is fixed and not read."""
    ends = {f"i{k}": np.array([k]) for k in (0, 1, 2)}
    nodes = [
        helper.make_node("Slice", ["x", "i0", "i1"], ["a"]),
        helper.make_node("Slice", ["x", "i1", "i2"], ["b"]),
        helper.make_node("Floor", ["b"], ["f"]),
        helper.make_node("Mul", ["f", "f"], ["g"]),
        helper.make_node("Add", ["g", "one"], ["h"]),
        helper.make_node("Mul", ["a", "h"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [
            *(numpy_helper.from_array(array, name) for name, array in ends.items()),
            numpy_helper.from_array(np.ones(1, np.float32), "one"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def asked(row: str) -> bytes:
    names = [*(f"X_{i}" for i in range(4)), "Y_0"]
    text = [f"(declare-const {name} Real)" for name in names]
    text += [f"(assert ({op} X_{i} 0.1))" for i in (0, 2, 3) for op in (">=", "<=")]
    text += ["(assert (>= X_1 0.0))", "(assert (<= X_1 2.9))", f"(assert {row})"]
    return "\n".join(text).encode()


# What is None must not be refuted: only one of the roundings violates, and no replay shows it.
@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        ("(<= Y_0 0.0999)", Verdict.UNSAT),
        ("(>= Y_0 0.501)", Verdict.UNSAT),
        ("(>= Y_0 0.49)", Verdict.SAT),
        ("(>= Y_0 0.500000006)", None),  # so at the float32 next to 0.1, where ONNX Runtime rounds it away
        ("(<= Y_0 0.1000000005)", None),  # so at 0.1 itself, which no float32 is
    ],
)
def test_decimal_numbers_and_their_roundings_are_both_looked_at(row: str, verdict: Verdict | None) -> None:
    problem = build(picked(), parse_query(asked(row), "test"))  # type: ignore[arg-type]
    result = solve(problem, Options(deadline=time.monotonic() + (2 if verdict is None else 10)))
    assert result.verdict is verdict if verdict is not None else result.verdict is not Verdict.UNSAT


def test_corners_are_exact_and_only_what_is_read_is_free() -> None:
    problem = build(picked(), parse_query(asked("(<= Y_0 0.0999)"), "test"))  # type: ignore[arg-type]
    case = problem.prop.cases[0]
    assert (case.lower < case.upper).tolist() == [False, True, False, False]
    found = corners(problem)
    assert len(found) == 2
    middles = sorted(
        float(node.params["factor"].value.reshape(-1)[0])
        for corner in found
        for node in corner.graph.nodes
        if node.op == "scale"
    )
    assert middles == pytest.approx([0.1, float(np.float32(0.1))], abs=1e-16)


def test_time_that_is_up_between_roundings_refutes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first corner is refuted, then the clock stops: the second has not been looked at."""
    problem = build(picked(), parse_query(asked("(>= Y_0 0.501)"), "test"))  # type: ignore[arg-type]
    options = Options(deadline=time.monotonic() + 60, attack=False, engine="values")
    real = running.search_cells

    def late(*given: object) -> Outcome | None:
        found = real(*given)  # type: ignore[arg-type]
        monkeypatch.setattr(running.Run, "expired", lambda self: True)
        return found

    monkeypatch.setattr(running, "search_cells", late)
    assert solve(problem, options).verdict is Verdict.TIMEOUT
