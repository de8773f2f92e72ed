"""The branch-and-bound loop: take a batch of domains, bound and split it, try its points, put back the rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch
from torch import Tensor

from verinn.ops.program import Program
from verinn.result import Verdict, Witness
from verinn.search.explore import Explored, Task, explore
from verinn.search.store import Domains, Store

Try = Callable[[Tensor, Tensor], Witness | None]


@dataclass(frozen=True)
class Outcome:
    """How a search ended. ``stuck``: open domains too small to split, which make `unsat` impossible."""

    verdict: Verdict
    witness: Witness | None = None
    reason: str = ""
    domains: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Limits:
    """``batch``: domains at once per worker. ``workers``: threads. ``expired`` says when time is up."""

    batch: int
    workers: int
    expired: Callable[[], bool]


def search(
    task: Task, referee: Program, limits: Limits, attempt: Try, tell: Callable[[int, int, float], None]
) -> Outcome:
    """Decide a group of cases.

    ``referee`` evaluates points in float64; ``attempt`` replays one and returns a witness or None;
    ``tell`` hears of open and closed domains and the share of the search that is still open.
    `unsat` comes only from an empty store with nothing stuck, nothing lost and no exception.
    """
    began = time.monotonic()
    store = Store()
    store.push(task.root())
    state = _State()
    batch = limits.batch
    with ThreadPoolExecutor(limits.workers) as pool:
        running: dict[Future[Explored], Domains] = {}
        try:
            while len(store) or running:
                if limits.expired():
                    return state.outcome(Verdict.TIMEOUT, began, reason="time is up")
                while len(store) and len(running) < limits.workers:
                    size = min(batch, max(16, -(-len(store) // limits.workers)))
                    part = store.pop(size)
                    running[pool.submit(_guarded, task, part)] = part
                ready, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in ready:
                    part = running.pop(future)
                    error = future.exception()
                    if error is not None:
                        if not _out_of_memory(error) or len(part) == 1:
                            raise error
                        batch = max(1, len(part) // 2)
                        store.push(part)
                        continue
                    found = state.take(future.result(), part, store, task, referee, attempt)
                    if found is not None:
                        return state.outcome(Verdict.SAT, began, witness=found)
                tell(len(store) + sum(map(len, running.values())), state.closed, store.share())
        finally:
            for future in running:
                future.cancel()
    if state.stuck:
        reason = f"{state.stuck} boxes can't be split any further and are still undecided"
        return state.outcome(Verdict.UNKNOWN, began, reason=reason)
    return state.outcome(Verdict.UNSAT, began)


class _State:
    """What a search has counted so far."""

    def __init__(self) -> None:
        self.explored = 0
        self.closed = 0
        self.stuck = 0

    def take(
        self, explored: Explored, part: Domains, store: Store, task: Task, referee: Program, attempt: Try
    ) -> Witness | None:
        self.explored += len(part)
        self.closed += explored.closed
        self.stuck += explored.stuck
        if explored.children is not None:
            store.push(explored.children)
        return _try_points(explored, task, referee, attempt)

    def outcome(self, verdict: Verdict, began: float, reason: str = "", witness: Witness | None = None) -> Outcome:
        return Outcome(verdict, witness, reason, self.explored, time.monotonic() - began)


def _guarded(task: Task, part: Domains) -> Explored:
    """``no_grad`` is per thread."""
    with torch.no_grad():
        return explore(task, part)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text


def _try_points(explored: Explored, task: Task, referee: Program, attempt: Try) -> Witness | None:
    """Replays the points that violate by our own arithmetic, the clearest few first."""
    if not len(explored.points):
        return None
    spec = task.spec
    with torch.no_grad():
        y = referee.flat(explored.points)
        rows = spec.values(explored.cases, explored.points, y)
    worst = torch.stack([rows[:, spec.owner == j].amax(1) for j in range(spec.conjunctions)], 1).amin(1)
    order = worst.argsort()[:3]
    for i in order[worst[order] <= 0].tolist():
        witness = attempt(explored.points[i], explored.cases[i])
        if witness is not None:
            return witness
    return None
