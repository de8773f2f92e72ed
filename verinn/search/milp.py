"""The MILP engine: a case's exact formula, decided by linear programmes over its phases, all of them weighed again.

HiGHS is first asked for the integer programme as a whole, for a while: its points are candidates, and where it claims
that there is none, that is only told. The verdict comes from a tree of our own (``exact/milp/tree.py``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from verinn.errors import Unsupported
from verinn.exact.domains import Answer, Domain, Status
from verinn.exact.encoding.encode import TooLarge
from verinn.exact.milp.programme import Claim, integer_programme
from verinn.exact.milp.tree import Pace, Tree
from verinn.ir.prop import Case, SparseMatrix
from verinn.result import Verdict, Witness
from verinn.search.bab import Outcome
from verinn.search.smt import Attempt, Encoded, Exactly, Search, SmtLimits, Tell, encoded_of

#: the integer programme's part of the time that is left, and its seconds at most
SHARE, MOST_SECONDS = 0.1, 10.0
#: points whose rows are above zero by more than this part of their terms are not replayed
NEAR = 1e-6


@dataclass(frozen=True)
class MilpLimits:
    """``expired``: whether time is up; ``left``: seconds that there still are; ``learn``: whether clauses are kept;
    ``whole``: whether the integer programme is asked first."""

    expired: Callable[[], bool]
    left: Callable[[], float]
    seed: int = 0
    learn: bool = False  # measured not to pay: nearly every refutation weighs all phases of its path
    whole: bool = True


def decide(task: Exactly, limits: MilpLimits, attempt: Attempt, tell: Tell) -> Outcome:
    """Decide a case. `unsat`: every leaf of the tree was refuted by multipliers that were weighed with rounding
    counted, or by Z3. `sat`: replayed. Whatever goes wrong is `unknown`."""
    began = time.monotonic()
    try:
        decider = Decider(task, limits, attempt, tell)
    except (TooLarge, Unsupported) as error:
        verdict = Verdict.TIMEOUT if limits.expired() else Verdict.UNKNOWN
        return Outcome(verdict, reason=f"the MILP engine can't take this network: {error}")
    claim = decider.integer() if limits.whole else Claim(None, False)
    if decider.witness is None:
        answer = decider.check(Domain(), Pace(limits.left))
    else:
        answer = Answer(Status.SAT)
    counts = decider.tree.counts
    ended = Outcome(Verdict.UNKNOWN, decider.witness, answer.reason, counts.nodes, time.monotonic() - began)
    return _verdict(ended, answer, claim, limits)


def _verdict(ended: Outcome, answer: Answer, claim: Claim, limits: MilpLimits) -> Outcome:
    """The outcome's verdict; a claim of HiGHS is told where nothing better is known."""
    if ended.witness is not None:
        return replace(ended, verdict=Verdict.SAT, reason="")
    if answer.status is Status.UNSAT:
        return replace(ended, verdict=Verdict.UNSAT, reason="")
    reason = answer.reason
    if claim.none:
        reason = f"{reason}; HiGHS claims that nothing violates, which proves nothing"
    return replace(ended, verdict=Verdict.TIMEOUT if limits.expired() else Verdict.UNKNOWN, reason=reason)


class Decider:
    """One case's formula in HiGHS, and in Z3 where a leaf hangs on exact arithmetic; asked domain by domain."""

    def __init__(self, task: Exactly, limits: MilpLimits, attempt: Attempt, tell: Tell):
        self.task, self.limits, self.attempt, self.tell = task, limits, attempt, tell
        self.encoded: Encoded = encoded_of(task, limits.expired)
        self.tree = Tree(self.encoded.encoding, self._tried, self._settled, limits.learn)
        self.witness: Witness | None = None
        self._rows = _Rows.of(task.case)
        self._exact: Search | None = None

    def integer(self) -> Claim:
        """The integer programme; its point is tried."""
        seconds = min(MOST_SECONDS, SHARE * self.limits.left())
        system = self.tree.system
        claim = integer_programme(system, system.lower, system.upper, seconds, self.limits.seed)
        if claim.point is not None:
            self._tried(claim.point[system.inputs])
        return claim

    def check(self, domain: Domain, pace: Pace) -> Answer:
        """`sat`: ``witness`` was replayed."""
        return self.tree.check(domain, pace)

    def _tried(self, x: np.ndarray) -> bool:
        """Whether a point, rounded to float32, is a counterexample."""
        case = self.task.case
        x = np.minimum(np.maximum(x.astype(np.float32), case.witness_lower), case.witness_upper).astype(np.float64)
        point = torch.from_numpy(x)
        with torch.no_grad():
            y = self.task.program.flat(point.unsqueeze(0))[0].numpy()
        if case.exact and not self._rows.violated(x, y):
            return False
        self.witness = self.witness or self.attempt(point, torch.tensor(self.task.number))
        return self.witness is not None

    def _settled(self, domain: Domain) -> Answer:
        """A domain without an open phase, in fractions."""
        limits = self.limits
        if self._exact is None:
            given = SmtLimits(limits.expired, limits.left, seed=limits.seed, learn=False)
            self._exact = Search(self.task, given, self.attempt, self.tell, self.encoded)
        answer = self._exact.leaf(domain)
        self.witness = self.witness or self._exact.witness
        return answer


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a case's conjunctions over (x, y), to look whether a point about violates one."""

    ways: tuple[tuple[np.ndarray, np.ndarray], ...]
    inputs: tuple[np.ndarray, np.ndarray]

    @staticmethod
    def of(case: Case) -> _Rows:
        def dense(x: SparseMatrix, y: SparseMatrix) -> np.ndarray:
            return np.concatenate([x.dense(), y.dense()], 1)

        ways = tuple((dense(rows.x, rows.y), rows.rhs) for rows in case.conjunctions)
        return _Rows(ways, (case.input_rows.x.dense(), case.input_rows.rhs))

    def violated(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Up to rounding."""
        both = np.concatenate([x, y])
        if not np.isfinite(both).all():
            return False
        return _kept(*self.inputs, x) and any(_kept(a, rhs, both) for a, rhs in self.ways)


def _kept(a: np.ndarray, rhs: np.ndarray, at: np.ndarray) -> bool:
    slack = NEAR * (np.abs(a) @ np.abs(at) + np.abs(np.nan_to_num(rhs, posinf=0.0, neginf=0.0)))
    return bool((a @ at <= rhs + slack).all()) and not bool((rhs == -math.inf).any())


__all__ = ["Decider", "MilpLimits", "decide"]
