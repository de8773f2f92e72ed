"""A search over ReLU phases that bounds before it splits, for what splits alone are slow to close.

Each domain's intervals are tightened for itself, with what a violation of the goals needs and with multipliers for
its phases (see ``lift.py``), round after round as long as that pays, but only those that the goals' bound hangs on
most (see ``leverage.py``), in layers where rounds were found to narrow any: bounds that stay are what makes later
splits worth little. What looks as if splits alone closed it soon is left to them; the rest is split at one neuron,
and both sides go on from what their parent knows.
"""

from __future__ import annotations

import math
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verinn.bounds.climb import Pace, climb
from verinn.bounds.dual import Primal
from verinn.result import Verdict
from verinn.search.bab import Limits, Outcome, Tell, Try, search
from verinn.search.leverage import weighty
from verinn.search.lift import Memory, tightened
from verinn.search.neurons import MOST_CARRIED, PhaseTask, choose, proved, split
from verinn.search.outlook import outlook
from verinn.search.phases import Phases

#: the part of all unstable neurons that a round tightens, and the rounds for which they stay the same
PART, SAME = 0.2, 3
#: how a round climbs
ROUND = Pace(3, beta=0.4)
#: how the goals' bound climbs, after each round
CLIMB = Pace(8, beta=0.4, decay=0.93)
#: a round pays that lifts the bound by this part of what is missing
PAYS = 0.15
#: by how much hope grows for layers that a round leaves alone, and the least there is
GROWS, LEAST = 1.1, 1e-3
#: most rounds for one domain
MOST_ROUNDS = 12
#: a search expected to take fewer domains, for each unstable neuron, than this is had at once; it gets thrice as many
SOON, PURSE = 0.2, 3.0
#: where a search took more, as many are expected below to take this part of what they would have been trusted with
WARNED = 0.25
#: with so few neurons whose phase is open a search goes on to its end
FEW = 24
#: neurons that are tried where one is split
CANDIDATES = 24


@dataclass(frozen=True, eq=False)
class Node:
    """One domain, and what bounded its parent's neurons; children share that until they go on from it.

    ``hope`` (L,): the part of their widths that a round may be expected to take from the intervals of each layer.
    ``trust``: the part of what a search may be expected to take that is believed, less where searches took longer.
    """

    domain: Phases
    memories: dict[int, Memory]
    hope: Tensor
    trust: float = 1.0


@dataclass(frozen=True, eq=False)
class Visited:
    """A node, bounded: closed, to be searched over phases, or else to be split."""

    node: Node
    primal: Primal
    closed: bool = False
    soon: bool = False  # whether a search of it may be expected to be over soon


def descend(task: PhaseTask, limits: Limits, attempt: Try, tell: Tell, workers: int = 1) -> Outcome:
    """Decide a task. `unsat` only where every domain was closed; nothing that ran out of time closes one."""
    return _Descent(task, limits, attempt, tell, workers).run()


class _Descent:
    def __init__(self, task: PhaseTask, limits: Limits, attempt: Try, tell: Tell, workers: int):
        self.over = False  # what is still being visited had better end
        self.task = replace(task, expired=lambda: self.over or limits.expired())
        self.limits, self.attempt, self.tell, self.workers = limits, attempt, tell, workers
        self.waiting = [Node(task.root(), dict(task.memories), untried(task))]
        self.running: dict[Future[Visited], Node] = {}
        self.domains = self.closed = 0
        self.reasons: list[str] = []

    def run(self) -> Outcome:
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                while self.waiting or self.running:
                    end = self._advanced(pool)
                    if end is not None:
                        return replace(end, domains=self.domains)
            finally:
                self.over = True
        if self.reasons:
            return Outcome(Verdict.UNKNOWN, reason=self.reasons[0], domains=self.domains)
        return Outcome(Verdict.UNSAT, domains=self.domains)

    def _advanced(self, pool: ThreadPoolExecutor) -> Outcome | None:
        """Follows what was visited, the next nodes being visited meanwhile where there are threads for both."""
        if self.limits.expired():
            return Outcome(Verdict.TIMEOUT, reason="time is up")
        self._fill(pool)
        ready, _ = wait(self.running, timeout=0.2, return_when=FIRST_COMPLETED)
        for future in ready:
            del self.running[future]
            if self.workers > 1:
                self._fill(pool)
            self.domains += 1
            end = self._followed(future.result())
            if end is not None:
                return end
        nodes = [*self.waiting, *self.running.values()]
        share = sum(float(node.domain.share.sum()) for node in nodes)
        worst = min((float(node.domain.worst.min()) for node in nodes), default=0.0)
        self.tell(len(nodes), self.closed, worst, share)
        return None

    def _fill(self, pool: ThreadPoolExecutor) -> None:
        """Gives every idle thread a node."""

        def one(node: Node) -> Visited:
            with torch.no_grad():  # which is a matter of each thread
                return visit(self.task, node)

        while self.waiting and len(self.running) < self.workers:
            node = self.waiting.pop()
            self.running[pool.submit(one, node)] = node

    def _followed(self, visited: Visited) -> Outcome | None:
        """What comes after a node: nothing, a search, or its children, who wait. And what ends it all, if anything."""
        node = visited.node
        if visited.closed:
            self.closed += 1
            return None
        free = int(node.domain.free.sum())
        if visited.soon or free <= FEW:
            most = PURSE * soon(self.task, node) if free > FEW else math.inf
            helper = self.limits.helper and not self.running  # no process is forked while threads are at work
            limits = replace(self.limits, domains=most, helper=helper)
            outcome = search(at(self.task, node), limits, self.attempt, self.tell)
            self.domains += outcome.domains
            if outcome.verdict in (Verdict.SAT, Verdict.TIMEOUT):
                return outcome
            if not outcome.unfinished:
                self.closed += 1
                if outcome.verdict is not Verdict.UNSAT:
                    self.reasons.append(outcome.reason)
                return None
            node = replace(node, trust=WARNED * node.trust)
        with torch.no_grad():
            self.waiting.extend(children(self.task, node, visited.primal))
        return None


def untried(task: PhaseTask) -> Tensor:
    """What to hope for of each layer's intervals before any was tightened."""
    return torch.ones(len(task.columns.names), dtype=task.low.dtype, device=task.low.device)


def at(task: PhaseTask, node: Node) -> PhaseTask:
    """The task in one node alone."""
    domain, memories = node.domain, node.memories
    if task.columns.count <= MOST_CARRIED:  # else all share one
        memories = {layer: memory.copy() for layer, memory in memories.items()}
    return replace(
        task,
        low=domain.lower,
        high=domain.upper,
        alpha=domain.alpha,
        gamma=domain.gamma,
        start=domain,
        memories=memories,
    )


def soon(task: PhaseTask, node: Node) -> float:
    """How many domains a search of a node may be expected to take where it is searched at once."""
    return SOON * node.trust * task.columns.count


def visit(task: PhaseTask, node: Node) -> Visited:
    """Bounds a node, in rounds as long as they pay."""
    here = at(task, node)
    bound, domain, primal, closed = climbed(here, node.domain)
    hope = node.hope
    some: Tensor | None = None
    for number in range(MOST_ROUNDS):
        if closed or task.expired() or not bool(domain.free.any()):
            break
        if outlook(replace(here, start=domain)) <= soon(task, node):
            return Visited(replace(node, domain=domain, memories=here.memories, hope=hope), primal, soon=True)
        if number % SAME == 0 or some is None:
            some, weight = weighty(here, domain, PART, hope)
        lifted = tightened(here, ROUND, some=some)
        if lifted is None:
            closed = True
            break
        before = bound
        known, domain = domain, replace(domain, lower=lifted.low, upper=lifted.high)
        hope = learned(here, hope, some, weight, known, domain)
        bound, domain, primal, closed = climbed(here, domain)
        here = replace(here, low=domain.lower, high=domain.upper, alpha=domain.alpha, gamma=domain.gamma)
        if not closed and bound - before < PAYS * -before:
            break
    near = not closed and outlook(replace(here, start=domain)) <= soon(task, node)
    return Visited(replace(node, domain=domain, memories=here.memories, hope=hope), primal, closed, near)


def learned(task: PhaseTask, hope: Tensor, some: Tensor, weight: Tensor, before: Phases, after: Phases) -> Tensor:
    """What to hope for (L,) after a round: what layers lost, and a little more than before for what wasn't tried."""
    width = before.upper[0] - before.lower[0]
    lost = 1 - ((after.upper - after.lower)[0] / width.clamp(min=torch.finfo(width.dtype).tiny)).clamp(0, 1)
    tried = torch.where(some & before.free[0], weight, 0.0)
    hope = (hope * GROWS).clamp(max=1)
    for layer in range(len(task.columns.names)):
        part = task.columns.part(layer)
        total = tried[part].sum()
        if total > 0:
            hope[layer] = ((tried[part] * lost[part]).sum() / total).clamp(min=LEAST)
    return hope


def climbed(task: PhaseTask, domain: Phases) -> tuple[float, Phases, Primal, bool]:
    """(bound, the domain with the multipliers that gave it, the last primal, whether that is a proof)."""
    rows = domain.rows(task.allowed)
    best, found, primal = climb(task.frame, task.goals, rows, domain.multipliers, CLIMB, 0.0, task.expired)
    closed = bool(proved(task, rows, best, found)[0])
    worst = best.double().clamp(max=0)
    known = replace(domain, alpha=found.alpha, beta=found.beta, gamma=found.gamma, worst=worst)
    return float(best[0]), known, primal, closed


def children(task: PhaseTask, node: Node, primal: Primal) -> list[Node]:
    """Both sides of the best of many neurons, the one that is nearer to a proof last."""
    column = choose(replace(task, candidates=CANDIDATES), node.domain, primal, 1)
    halves = split(node.domain, column[:, 0])
    order = task.value(halves).argsort()
    return [replace(node, domain=halves.select(i.unsqueeze(0))) for i in order]
