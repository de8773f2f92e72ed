"""Splits of what step functions read: each divides their range, wherever the jumps lie in the interval."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "bounds"))
from exact_graph import Build

from verinn.bounds.crown import Relaxation
from verinn.bounds.interval import propagate
from verinn.ops.program import Program
from verinn.search.candidates import landings, options

ENDS = [
    (0, 1),
    (1, 2),
    (-1, 0),
    (-2, -1),
    (0.5, 1.5),
    (2.5, 3.5),
    (1.5, 2.75),
    (1.25, 2.5),
    (0.25, 3),
    (1, 2.125),
    (-3.5, 0),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("op", ["floor", "ceil", "round", "sign", "step"])
def test_jumps_at_the_ends_of_an_interval_are_found(op: str, dtype: torch.dtype) -> None:
    b = Build((1,))
    b.add(op, b.add("scale", "x0", params={"factor": [1.0]}), **({"strict": True} if op == "step" else {}))
    program = Program.prepare(b.graph(), dtype)
    first, last = program.steps
    low, high = torch.tensor(ENDS, dtype=dtype).unsqueeze(-1).unbind(1)
    relaxation = Relaxation(program, {program.graph.inputs[0].name: (low, high), first.node.name: (low, high)})
    least, most = relaxation.intervals[last.node.name] = propagate(last, [(low, high)])
    found = options(relaxation, {last.node.name: torch.ones_like(low)}, (first.node.name,), 1)
    split = found.value[:, 0] >= 0
    assert bool((split == (least < most)[:, 0]).all())
    below, above, real = landings(last, found.point[:, 0], least[:, 0].double())
    assert bool(((real & (below >= least[:, 0]) & (above <= most[:, 0])) | ~split).all())
