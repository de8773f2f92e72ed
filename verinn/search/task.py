"""What one search works on, and where it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from verinn.bounds.contract import Contractor
from verinn.ops.program import Program, Step
from verinn.search.spec import Spec
from verinn.search.store import Domains
from verinn.search.tighten import pays
from verinn.search.touch import PlainRows

if TYPE_CHECKING:
    from verinn.search.explore import Explored


@dataclass(frozen=True, eq=False)
class Task:
    """What a search works on. A domain is split on a ReLU where at most ``neurons`` of them are unstable,
    and anyhow after ``depth`` splits: halving boxes gets trapped in thin ones along a neuron's boundary.

    ``referee`` is the same network in float64: where only the price of rounding keeps a domain open, and
    the search runs in float32, it is bounded again by it. ``polytope_inputs``: up to so many inputs are
    rows weighed against each other. ``budget``: bytes for one block of coefficients. ``narrow``: inputs are not
    halved below this part of their first width: such boxes are handed over, where there is somebody exact.
    """

    program: Program
    spec: Spec
    referee: Program
    neurons: int = 60
    depth: int = 12
    polytope_inputs: int = 32
    budget: int = 256 << 20
    narrow: float = 0.0

    @cached_property
    def relus(self) -> tuple[Step, ...]:
        return tuple(step for step in self.program.steps if step.node.op == "relu")

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The number of the first neuron of each ReLU step, and at the end the count of all."""
        sizes = [torch.Size(step.node.shape).numel() for step in self.relus]
        return tuple(accumulate(sizes, initial=0))

    @cached_property
    def plain(self) -> PlainRows:
        return PlainRows.of(self.spec, self.program)

    @cached_property
    def careful(self) -> Task | None:
        """The same task in float64, where the search itself is not."""
        return None if self.program is self.referee else replace(self, program=self.referee)

    @cached_property
    def contractor(self) -> Contractor | None:
        """Where contraction from the output rows is worth its time: the network is small, and it pays at the root."""
        contractor = Contractor.prepare(self.program)
        return contractor if contractor is not None and pays(contractor, self.spec) else None

    @property
    def kept(self) -> tuple[str, ...]:
        """Values whose intervals are handed down: inputs of nonlinear steps."""
        return tuple(dict.fromkeys(source for s in self.program.steps if not s.affine for source in s.node.inputs))

    @property
    def due(self) -> float:
        return math.inf

    @property
    def herd(self) -> int:
        return 0

    def renewed(self, part: Domains, explored: int, assistant: object) -> tuple[Task, Domains] | None:
        """Nothing is learned of several domains at once."""
        return self, part

    def delayed(self, explored: int) -> Task:
        return self

    def explore(self, domains: Domains) -> Explored:
        """One step of the search on a batch."""
        from verinn.search.explore import explore  # which works on tasks

        return explore(self, domains)

    def root(self) -> Domains:
        """One domain for each case."""
        spec, dtype = self.spec, self.program.dtype
        count = len(spec.cases)
        device = spec.lower.device
        known = {}
        for name in self.kept:
            shape = (count, *self.program.shapes[name])
            low = torch.full(shape, -torch.inf, dtype=dtype, device=device)
            known[name] = low, -low
        return Domains(
            spec.lower,
            spec.upper,
            torch.zeros((count, 0), dtype=torch.int64, device=device),
            spec.lower.new_zeros((count, 0, spec.lower.shape[1])),
            spec.lower.new_zeros((count, 0)),
            torch.arange(count, device=device),
            torch.ones((count, spec.conjunctions), dtype=torch.bool, device=device),
            known,
            torch.full((count,), 1.0 / max(1, count), dtype=torch.float64, device=device),
            torch.full((count,), -torch.inf, dtype=torch.float64, device=device),
        )
