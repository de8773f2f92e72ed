"""The branch-and-bound loop: take a batch of domains, bound and split it, try its points, put back the rest."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from verinn.result import Verdict, Witness
from verinn.search.explore import Explored
from verinn.search.helper import Helper
from verinn.search.store import Batch, Store
from verinn.search.work import Assistant, Work

Try = Callable[[Tensor, Tensor], Witness | None]
Attack = Callable[[Any], Witness | None]
#: shown a task and domains of it: whether all are refuted for certain, and a witness if one was found
Exact = Callable[[Any, Any], tuple[bool, Witness | None]]
Tell = Callable[[int, int, float, float], None]  # open, closed, worst bound, share of the search still open


@dataclass(frozen=True)
class Outcome:
    """How a search ended: the verdict on its cases, and the reason of one that decides nothing.

    ``unfinished``: it had explored as many domains as it was allowed to, and domains were left.
    """

    verdict: Verdict
    witness: Witness | None = None
    reason: str = ""
    domains: int = 0
    seconds: float = 0.0
    unfinished: bool = False


def one_by_one(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of several parts, all of which must be refuted, decided as they are asked for: the first `sat` or
    time-out is the last that is asked for; `unsat` only where every part was."""
    domains, reasons = 0, []
    for outcome in outcomes:
        domains += outcome.domains
        if outcome.verdict in (Verdict.SAT, Verdict.TIMEOUT):
            return replace(outcome, domains=domains)
        if outcome.verdict is not Verdict.UNSAT:
            reasons.append(outcome.reason)
    if reasons:
        return Outcome(Verdict.UNKNOWN, reason=reasons[0], domains=domains)
    return Outcome(Verdict.UNSAT, domains=domains)


@dataclass(frozen=True)
class Limits:
    """``batch``: domains at once. ``helper``: whether a second process may be started when it pays, once
    ``crowd`` domains wait. ``expired`` says when time is up. ``attack`` is called on open domains now and then.
    ``exact``: decides domains that can't be split any more, when nothing else is left or they are many. ``aside``:
    asked in between whether all that the search is a part of is `sat` or `unsat` by other means; what is open waits
    for that.
    ``store``: bytes that open domains may take. ``domains``: to explore at most. ``device_store``:
    bytes that they may take on a GPU before the oldest are moved to the host's memory.
    """

    batch: int
    helper: bool
    expired: Callable[[], bool]
    attack: Attack | None = None
    crowd: int = 64
    store: int = field(default_factory=lambda: room())
    domains: float = math.inf
    device_store: float = math.inf
    exact: Exact | None = None
    aside: Callable[[], Outcome | None] | None = None


def room() -> int:
    """Half of the machine's memory: more open domains than that are given up, before the system kills the run."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if hasattr(os, "sysconf") else 8 << 30


#: a search that is over sooner needs no second process (seconds)
_PATIENCE = 0.3
#: so many domains that can't be split wait until the end; more of them are handed over in between
_MOST_LEFT = 1024
_UNFINISHED = "the search was allowed so many domains and no more"
_LOOSE = "what could be kept of the query holds somewhere, but the whole query does not hold there"
#: the share of the time of a search that goes into attacks
_ATTACK_SHARE = 0.1


def search(task: Work, limits: Limits, attempt: Try, tell: Tell) -> Outcome:
    """Decide a group of cases.

    ``attempt`` replays a point and returns a witness or None;
    ``tell`` hears how it goes.
    `unsat` comes only from an empty store with nothing stuck, nothing lost and no exception.
    """
    return _Search(task, limits, attempt, tell).run()


class _Search:
    """One search: its store, its workers, and what it has counted."""

    def __init__(self, task: Work, limits: Limits, attempt: Try, tell: Tell):
        self.task, self.limits, self.attempt, self.tell = task, limits, attempt, tell
        self.began = time.monotonic()
        self.store = Store(limits.device_store)
        self.batch = limits.batch
        self.explored = self.closed = self.stuck = 0
        self.left: list[Batch] = []  # what is stuck, as far as it can be handed over
        self.loose = False
        self.helper: Helper | None = None
        self.attacked = 0.0  # seconds spent so far
        self.running: dict[Future[Explored], tuple[Batch, bool]] = {}

    def run(self) -> Outcome:
        self.store.push(self.task.root())
        pool: ThreadPoolExecutor | None = None
        threads = torch.get_num_threads()
        try:
            while len(self.store) or self.running:
                if self.limits.expired():
                    return self._outcome(Verdict.TIMEOUT, reason="time is up")
                decided = self.limits.aside() if self.limits.aside is not None else None
                if decided is not None:
                    return self._outcome(decided.verdict, witness=decided.witness)
                if self._worth_a_helper():
                    torch.set_num_threads(1)  # two processes, a core each
                    self.helper = Helper(self.task)
                    pool = ThreadPoolExecutor(2)
                found = self._renew(pool) or self._attack() or self._relieved()
                if found is None and len(self.store) + len(self.running):
                    found = self._alone() if pool is None else self._together(pool)
                if found is not None:
                    return self._outcome(Verdict.SAT, witness=found)
                inside = sum(len(part) for part, _ in self.running.values())
                self.tell(len(self.store) + inside, self.closed, self.store.worst(), self.store.share())
                if self.store.bytes() > self.limits.store:
                    return self._outcome(Verdict.UNKNOWN, reason="the open domains no longer fit into memory")
                if self.loose:
                    return self._outcome(Verdict.UNKNOWN, reason=_LOOSE)
                if self.explored >= self.limits.domains and (len(self.store) or self.running):
                    return replace(self._outcome(Verdict.UNKNOWN, reason=_UNFINISHED), unfinished=True)
        finally:
            torch.set_num_threads(threads)
            if self.helper is not None:
                self.helper.close()
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)
        if self.stuck:
            found = self._handed_over()
            if found is not None:
                return self._outcome(Verdict.SAT, witness=found)
            if not self.stuck:
                return self._outcome(Verdict.UNSAT)
            if self.limits.expired():
                return self._outcome(Verdict.TIMEOUT, reason="time is up")
            reason = f"{self.stuck} boxes can't be split any further and are still undecided"
            return self._outcome(Verdict.UNKNOWN, reason=reason)
        return self._outcome(Verdict.UNSAT)

    def _handed_over(self) -> Witness | None:
        """What is stuck, shown to exact solvers: refuted domains count as closed. One that they leave open stays stuck,
        and what can't be `unsat` any more isn't asked about: only a witness is looked for then."""
        if self.limits.exact is None:
            return None
        while self.left:
            closed, found = self.limits.exact(self.task, self.left[-1])
            if found is not None:
                return found
            if not closed:
                self.limits = replace(self.limits, exact=None)
                self.left = []
                return None
            part = self.left.pop()
            self.stuck, self.closed = self.stuck - len(part), self.closed + len(part)
        return None

    def _relieved(self) -> Witness | None:
        """Room for domains that can't be split: those that wait are decided before they are too many."""
        if self.limits.exact is None or sum(len(part) for part in self.left) < _MOST_LEFT:
            return None
        return self._handed_over()

    def _worth_a_helper(self) -> bool:
        return (
            self.limits.helper
            and self.helper is None
            and time.monotonic() - self.began > _PATIENCE
            and len(self.store) >= self.limits.crowd
            and Helper.possible()
        )

    def _attack(self) -> Witness | None:
        """An attack from open domains, whenever attacks have had less than their share of the time."""
        now = time.monotonic()
        if self.limits.attack is None or not len(self.store) or now - self.began < _PATIENCE:
            return None
        if self.attacked > _ATTACK_SHARE * (now - self.began):
            return None
        found = self.limits.attack(self.store.sample(512))
        self.attacked += time.monotonic() - now
        return found

    def _renew(self, pool: ThreadPoolExecutor | None) -> Witness | None:
        """When the search has taken long enough, more is found out about the domains that come next."""
        if self.explored < self.task.due:
            return None
        while self.running:  # both processes are needed
            found = self._collect()
            if found is not None:
                return found
        if not len(self.store):
            return None
        part = self.store.take_worst(self.task.herd)
        renewed = self.task.renewed(part, self.explored, self._assistant(pool))
        if renewed is None:  # nothing violates there
            self.closed += len(part)
            self.task = self.task.delayed(self.explored)
        else:
            self.task, part = renewed
            self.store.push(part)
        return None

    def _assistant(self, pool: ThreadPoolExecutor | None) -> Assistant | None:
        """Something to call functions of the task with, in the second process."""
        if pool is None or self.helper is None or not self.limits.helper:
            return None
        call = self.helper.call
        return lambda function, *given: pool.submit(call, function, *given)

    def _alone(self) -> Witness | None:
        """One batch, in this thread."""
        part = self.store.pop(self.batch)
        try:
            explored = _guarded(self.task, part)
        except (MemoryError, RuntimeError) as error:
            self._shrink(error, part)
            return None
        return self._take(explored, part)

    def _together(self, pool: ThreadPoolExecutor) -> Witness | None:
        """Batches for whoever is idle; waits for the first to be done."""
        assert self.helper is not None
        busy = {remote for _, remote in self.running.values()}
        for remote in (False, True) if self.limits.helper else (False,):
            if remote not in busy and len(self.store):
                part = self.store.pop(min(self.batch, max(16, len(self.store) // 2)))
                job = pool.submit(self.helper.explore, part) if remote else pool.submit(_guarded, self.task, part)
                self.running[job] = part, remote
        return self._collect()

    def _collect(self) -> Witness | None:
        """Takes in what is ready, or soon is."""
        ready, _ = wait(self.running, timeout=0.2, return_when=FIRST_COMPLETED)
        for future in ready:
            part, remote = self.running.pop(future)
            error = future.exception()
            if error is not None and remote:  # whatever it was: a true defect will show in this process, too
                self._dismiss()
                self.store.push(part)
                continue
            if error is not None:
                self._shrink(error, part)
                continue
            found = self._take(future.result(), part)
            if found is not None:
                return found
        return None

    def _dismiss(self) -> None:
        """Go on without the helper, and without another."""
        assert self.helper is not None
        self.helper.close()
        self.limits = replace(self.limits, helper=False)

    def _shrink(self, error: BaseException, part: Batch) -> None:
        """Put a batch back that ran out of memory; raise anything else."""
        if not _out_of_memory(error) or len(part) == 1:
            raise error
        self.batch = max(1, len(part) // 2)
        self.store.push(part)

    def _take(self, explored: Explored, part: Batch) -> Witness | None:
        self.explored += len(part)
        self.closed += explored.closed
        self.stuck += explored.stuck
        if explored.stuck and self.limits.exact is not None:
            if explored.left is not None and len(explored.left) == explored.stuck:
                self.left.append(explored.left)
            else:  # what can't be handed over stays stuck, so nobody needs to look at the others
                self.limits, self.left = replace(self.limits, exact=None), []
        if explored.children is not None:
            self.store.push(explored.children)
        return self._try_points(explored)

    def _try_points(self, explored: Explored) -> Witness | None:
        """Replays the points that violate by our own arithmetic, the clearest few first."""
        if not len(explored.points):
            return None
        spec = self.task.spec
        with torch.no_grad():
            points = explored.points.double()
            y = self.task.referee.flat(points)
            rows = spec.values(explored.cases, points, y)
        worst = torch.stack([rows[:, spec.owner == j].amax(1) for j in range(spec.conjunctions)], 1).amin(1)
        order = worst.argsort()[:3]
        for i in order[worst[order] <= 0].tolist():
            witness = self.attempt(explored.points[i], explored.cases[i])
            if witness is not None:
                return witness
        # constraints were left out: once the rest is violated for certain, no proof can come of this search
        self.loose = not spec.exact and bool(worst[order[0]] < -1e-6)
        return None

    def _outcome(self, verdict: Verdict, reason: str = "", witness: Witness | None = None) -> Outcome:
        return Outcome(verdict, witness, reason, self.explored, time.monotonic() - self.began)


def _guarded(task: Work, part: Batch) -> Explored:
    """``no_grad`` is per thread."""
    with torch.no_grad():
        return task.explore(part)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    # the last are CUDA's libraries, which ask for workspaces of their own
    words = ("out of memory", "can't allocate", "alloc_failed")
    return isinstance(error, MemoryError) or any(word in text for word in words)
