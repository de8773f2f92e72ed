"""Activations mapped back to inputs, exactly: does an input of η_0 lead to them, and change the class?

Every neuron's phase is a case (a ReLU two, a max pool's window one for each entry), split by verinn's own search over
η_0 with the activations as constraints beside the class; what that leaves open is asked of Z3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import torch

from verinn.errors import Unsupported
from verinn.exact.domains import Status
from verinn.exact.encoding.encode import TooLarge
from verinn.exact.encoding.formula import Any, at_most
from verinn.exact.encoding.formula import below as strictly
from verinn.exact.smt.preimage import Preimages
from verinn.ir.graph import Output
from verinn.ir.prop import Case, Property, Rows, SparseMatrix
from verinn.ir.query import Kind
from verinn.ops.program import Program
from verinn.options import Options
from verinn.region.grid import below
from verinn.region.layers import Layer, Region
from verinn.result import Result, Verdict, Witness
from verinn.search.problem import Problem
from verinn.search.run import solve


@dataclass(eq=False)
class Back:
    """ψ from layer k to the input: asked for one point of η_k after another.

    ``case``: η_0's box and what violates. A point is mapped back as the cell of half a span around it in the chosen
    dimensions; all other dimensions are what the network makes them. What is found is replayed as float32; ``proved``
    counts points that no input of η_0 leads to with another class, ``open`` those that time or size left undecided.
    """

    problem: Problem
    case: Case
    layer: Layer
    region: Region
    label: int
    ties: str
    expired: Callable[[], bool]
    options: Options
    seconds: float = 10.0
    tries: int = 50
    proved: int = 0
    open: int = 0
    found: np.ndarray | None = None
    reason: str = ""
    _asked: Preimages | None = None
    _known: set[bytes] = field(default_factory=set)

    def __call__(self, point: np.ndarray) -> Witness | None:
        """A replayed witness of the class change near an activation (n_k,), or None."""
        key = point.tobytes()
        if key in self._known or self.tries <= len(self._known) or self.expired():
            return None
        self._known.add(key)
        try:
            return self._find(point, *self._cell(point))
        except (TooLarge, Unsupported) as error:
            self.open, self.tries = self.open + 1, 0
            self.reason = f"the network can't be mapped back ({error})"
            return None

    def _cell(self, point: np.ndarray) -> tuple[list[Fraction | float], list[Fraction | float]]:
        low: list[Fraction | float] = [-np.inf] * self.layer.size
        high: list[Fraction | float] = [np.inf] * self.layer.size
        for p in self.region.dims:
            half = self.region.grid.step[p] / 2
            low[p], high[p] = Fraction(float(point[p])) - half, Fraction(float(point[p])) + half
        return low, high

    def _find(self, point: np.ndarray, low: list[Fraction | float], high: list[Fraction | float]) -> Witness | None:
        """By the search, then by Z3."""
        result = self._searched(low, high)
        if result.verdict is Verdict.UNSAT:
            self.proved += 1
            return None
        if result.witness is not None:
            inputs = [v for network in self.problem.query.networks for v in network.variables if v.kind is Kind.INPUT]
            self.found = np.concatenate([result.witness.values[v.name].ravel() for v in inputs])
            return result.witness
        return self._asked_exactly(low, high)

    def _searched(self, low: list[Fraction | float], high: list[Fraction | float]) -> Result:
        """η_0 with the class's rows and the cell's, decided by branch and bound."""
        graph = self.problem.graph
        layer = Output(self.layer.value, self.layer.value)
        rows = []
        m = self.problem.prop.m
        for p in self.region.dims:
            rows += [(m + p, 1.0, -below(-Fraction(high[p]))), (m + p, -1.0, -below(Fraction(low[p])))]
        width = m + self.layer.size
        conjunctions = tuple(_with(part, rows, width) for part in self.case.conjunctions)
        prop = Property(self.problem.prop.n, width, (replace(self.case, conjunctions=conjunctions),))
        problem = replace(self.problem, graph=replace(graph, outputs=(*graph.outputs, layer)), prop=prop)
        until = time.monotonic() + self.seconds / 2
        return solve(problem, replace(self.options, deadline=min(until, self.options.deadline or until)))

    def _asked_exactly(self, low: list[Fraction | float], high: list[Fraction | float]) -> Witness | None:
        asked, out = self._preimages(), self._output()
        y = asked.value(out)
        own = y[self.label]
        others = [j for j in range(len(y)) if j != self.label]
        strict = {j: self.ties == "allow" or (self.ties == "first" and j > self.label) for j in others}
        change = Any(tuple((strictly if strict[j] else at_most)(own, y[j]) for j in others))
        seconds = self.seconds / 2
        until = time.monotonic() + seconds
        answer = asked.find({self.layer.value: (low, high)}, seconds, also=[change])
        if answer.status is Status.UNSAT:
            self.proved += 1
            return None
        if answer.status is Status.SAT:
            witness = self._replayed([float(value) for value in answer.x])
            if witness is not None:
                return witness
        self.open += 1
        self.reason = answer.reason or "what was mapped back does not change the class as float32"
        if time.monotonic() > until:
            self.reason = "mapping back took too long"
        return None

    def _replayed(self, x: Sequence[float]) -> Witness | None:
        near = np.array(x).astype(np.float32)
        rng = np.random.default_rng(0)
        for attempt in range(32):
            moved = near if attempt == 0 else near + rng.normal(size=len(near)) * 1e-6 * (1 + np.abs(near)) * attempt
            inside = np.clip(moved.astype(np.float32), self.case.witness_lower, self.case.witness_upper)
            witness = self.problem.confirm(inside)
            if witness is not None:
                self.found = inside
                return witness
        return None

    def _output(self) -> str:
        return self.problem.graph.outputs[0].value

    def _preimages(self) -> Preimages:
        if self._asked is None:
            program = Program.prepare(self.problem.graph, torch.float64)
            names = list(dict.fromkeys([self.layer.value, self._output()]))
            self._asked = Preimages(program, self.case.lower, self.case.upper, names, expired=self.expired)
        return self._asked


def _with(part: Rows, rows: list[tuple[int, float, float]], width: int) -> Rows:
    """A conjunction's rows, and one row coefficient · y[at] ≤ rhs for each (at, coefficient, rhs)."""
    count = len(rows)
    index = np.concatenate([part.y.index, [at for at, _, _ in rows]]).astype(np.int64)
    value = np.concatenate([part.y.value, [coefficient for _, coefficient, _ in rows]])
    ends = np.concatenate([part.y.indptr, part.y.indptr[-1] + 1 + np.arange(count)]).astype(np.int64)
    x_ends = np.concatenate([part.x.indptr, np.repeat(part.x.indptr[-1], count)]).astype(np.int64)
    x = SparseMatrix(x_ends, part.x.index, part.x.value, part.x.width)
    error = part.y_error
    if error is not None:
        error = SparseMatrix(ends, index, np.concatenate([error.value, np.zeros(count)]), width)
    x_error = part.x_error
    if x_error is not None:
        x_error = SparseMatrix(x_ends, x_error.index, x_error.value, x_error.width)
    return Rows(
        x,
        SparseMatrix(ends, index, value, width),
        np.concatenate([part.rhs, [rhs for _, _, rhs in rows]]),
        np.concatenate([part.strict, np.zeros(count, bool)]),
        x_error,
        error,
    )
