"""A pass must not change the function: both graphs are run in float64 on the same random inputs."""

from __future__ import annotations

import torch

from verinn.ir.check import GraphError
from verinn.ir.graph import Graph
from verinn.ops.program import Program
from verinn.passes.scatter import scatter


def same(before: Graph, after: Graph, seed: int = 0, samples: int = 4) -> None:
    """GraphError when two graphs differ on random inputs by more than float64 rounding explains."""
    if before.inputs != after.inputs or [o.name for o in before.outputs] != [o.name for o in after.outputs]:
        raise GraphError("a pass changed the inputs or outputs of the graph")
    generator = torch.Generator().manual_seed(seed)
    scales = torch.tensor([1.0, 0.1, 10.0, 0.5]).double().repeat(-(-samples // 4))[:samples]
    points = [
        torch.randn((samples, *value.shape), generator=generator, dtype=torch.float64)
        * scales.reshape(-1, *[1] * len(value.shape))
        for value in before.inputs
    ]
    programs = [Program.prepare(graph, torch.float64) for graph in (before, after)]
    values = [program.run(points) for program in programs]
    spread, other = (scatter(p, points, v, 2.0**-52, seed) for p, v in zip(programs, values, strict=True))
    shapes = [program.shapes for program in programs]
    for old, new in zip(before.outputs, after.outputs, strict=True):
        if shapes[0][old.value] != shapes[1][new.value]:
            raise GraphError(f"a pass changed the shape of output '{old.name}'")
        stray = spread[old.value] + other[new.value]
        known = stray.isfinite()
        mean = torch.where(known, stray, 0.0).sum() / known.sum().clamp(min=1)
        one, two = values[0][old.value], values[1][new.value]
        close = (one - two).abs() <= 32.0 * (stray + mean) + 1e-300
        if not bool((close | (one == two) | (one.isnan() & two.isnan())).all()):
            raise GraphError(f"a pass changed what the graph computes at output '{old.name}'")
