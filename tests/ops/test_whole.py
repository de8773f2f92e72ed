"""Values that are whole numbers, and intervals that end at such."""

from __future__ import annotations

import numpy as np
import torch

from verinn.bounds.domain import relax
from verinn.ir.graph import Const, Graph, Input, Node, Output, frozen
from verinn.ops.program import Program
from verinn.ops.whole import whole_values


def graph(factor: Const) -> Graph:
    nodes = (
        Node("f", "floor", ("x",), (2,)),
        Node("s", "scale", ("f",), (2,), params=frozen({"factor": factor})),
        Node("t", "reduce_sum", ("s",), (1,), frozen({"axes": (0,)})),
        Node("r", "scale", ("x",), (2,), params=frozen({"factor": Const(np.array([2.0]))})),
    )
    return Graph((Input("x", (2,)),), nodes, (Output("t", "t"), Output("r", "r")))


def test_whole_values_come_of_steps_and_whole_numbers() -> None:
    assert whole_values(graph(Const(np.array([3.0, -1.0])))) == {"f", "s", "t"}
    assert whole_values(graph(Const(np.array([3.0, -0.5])))) == {"f"}
    assert whole_values(graph(Const(np.array([3.0, 1.0]), np.array([0.0, 1e-9])))) == {"f"}


def test_their_intervals_end_at_whole_numbers() -> None:
    program = Program.prepare(graph(Const(np.array([3.0, -1.0]))), torch.float32)
    found = relax(program, torch.tensor([[0.5, 1.25]]), torch.tensor([[1.5, 1.75]]), refine=False).intervals
    assert [float(end) for end in found["t"]] == [-1.0, 2.0]
    assert float(found["r"][0][0, 0]) <= 1.0
