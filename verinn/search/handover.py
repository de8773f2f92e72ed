"""Domains of a branch and bound that can't be split any more, handed to exact solvers one by one.

One formula and one solver serve all domains of a case: a domain is a box of inputs and the phases that its intervals
leave, assumed for one question. Linear programmes come first, Z3 where a leaf touches its bound (``exact/``). What a
refutation needed is a clause of the case's formula: later domains inside all of it are closed unasked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from verinn.errors import Unsupported
from verinn.exact.domains import Clauses, Domain, Status
from verinn.exact.encoding.encode import TooLarge
from verinn.exact.encoding.formula import Key
from verinn.exact.milp.tree import Pace
from verinn.ir.query import Query
from verinn.ops.program import Program
from verinn.result import Witness
from verinn.search.milp import Decider, MilpLimits
from verinn.search.neurons import PhaseTask
from verinn.search.phases import Phases
from verinn.search.smt import Attempt, Exactly, Tell
from verinn.search.spec import Spec
from verinn.search.store import Domains
from verinn.search.task import Task

#: seconds for one domain, and linear programmes
PATIENCE, NODES = 10.0, 5000


@dataclass(eq=False)
class Handover:
    """The exact solvers of one group of cases, made when they are first asked. ``program``: float64, on the CPU."""

    program: Program
    spec: Spec
    query: Query | None
    expired: Callable[[], bool]
    left: Callable[[], float]
    attempt: Attempt
    tell: Tell
    seed: int = 0
    made: dict[int, Decider | None] = field(default_factory=dict)
    clauses: dict[int, Clauses] = field(default_factory=dict)
    asked: int = 0
    spared: int = 0  # domains that a clause closed

    def __call__(self, task: Task | PhaseTask, part: Domains | Phases) -> tuple[bool, Witness | None]:
        """Whether all of some domains are refuted for certain; a witness if one was found.

        What fails, runs out of time, or is not known how to be asked stays open.
        """
        if isinstance(task, Task) and isinstance(part, Domains):
            every = _boxes(task, part)
        elif isinstance(task, PhaseTask) and isinstance(part, Phases):
            every = _phases(task, part)
        else:
            return False, None
        for case, domain in every:
            decider = self._decider(case)
            if decider is None or self.expired():
                return False, None
            known = self.clauses[case]
            if known.narrowed(domain).conflict is not None:
                self.spared += 1
                continue
            self.asked += 1
            answer = decider.check(domain, Pace(self._patience(), NODES))
            if decider.witness is not None:
                return False, decider.witness
            if answer.status is not Status.UNSAT:
                return False, None
            if answer.core is not None:
                known.add(answer.core)
        return True, None

    def _patience(self) -> Callable[[], float]:
        until = time.monotonic() + PATIENCE
        return lambda: min(self.left(), until - time.monotonic())

    def _decider(self, case: int) -> Decider | None:
        """None: the network is too large for exact arithmetic, or has an operator that it doesn't know."""
        if case not in self.made:
            limits = MilpLimits(self.expired, self.left, self.seed)
            task = Exactly(self.program, self.spec.cases[case], case, self.query)
            try:
                self.made[case] = Decider(task, limits, self.attempt, self.tell)
            except (TooLarge, Unsupported):
                self.made[case] = None
            decider = self.made[case]
            choices = [] if decider is None else decider.tree.system.choices
            self.clauses[case] = Clauses({fork.key: fork.phases for fork in choices})
        return self.made[case]


def _boxes(task: Task, part: Domains) -> Iterator[tuple[int, Domain]]:
    """Domains of a search over boxes, each with its case."""
    for d in range(len(part)):
        phases: dict[Key, int] = {}
        for step in task.relus:
            low, high = part.known[step.node.inputs[0]]
            phases |= _fixed(step.node.name, range(low[d].numel()), low[d].flatten(), high[d].flatten())
        yield int(part.case[d]), Domain(_array(part.lower[d]), _array(part.upper[d]), phases)


def _phases(task: PhaseTask, part: Phases) -> Iterator[tuple[int, Domain]]:
    """Domains of a search over phases. Their intervals hold where the goals do, and so refute no other conjunction."""
    lower, upper = _array(task.lower[0]), _array(task.upper[0])
    for d in range(len(part)):
        phases: dict[Key, int] = {}
        for i, name in enumerate(task.columns.names):
            own = task.columns.part(i)
            phases |= _fixed(name, task.columns.index[i].tolist(), part.lower[d, own], part.upper[d, own])
        yield task.case, Domain(lower, upper, phases)


def _fixed(name: str, elements: range | list[int], low: Tensor, high: Tensor) -> dict[Key, int]:
    """The phases that intervals leave to some elements of a ReLU."""
    ends = zip(elements, low.tolist(), high.tolist(), strict=True)
    return {(name, i): 1 if least >= 0 else 0 for i, least, most in ends if least >= 0 or most <= 0}


def _array(end: Tensor) -> np.ndarray:
    return np.asarray(end.detach().cpu().double().numpy())


__all__ = ["Handover"]
