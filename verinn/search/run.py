"""The phases of a run, as its plan says: attack, then branch and bound, group by group of cases."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verinn.attack.equalities import exact_points, has_equalities
from verinn.attack.pgd import pgd
from verinn.bounds.rounding import exact_kernels
from verinn.ops.program import Program
from verinn.options import Options
from verinn.progress import Progress
from verinn.result import Result, Verdict, Witness
from verinn.search.bab import Exact, Limits, Outcome, one_by_one, search
from verinn.search.box import Refinement
from verinn.search.cells import first_jumps, search_cells
from verinn.search.explore import Task
from verinn.search.nonlinear import Effort, search_general
from verinn.search.phased import expected, search_phases
from verinn.search.plan import NONLINEAR, SMALL, facts_of, plan_of
from verinn.search.problem import Problem, corners
from verinn.search.spec import Spec, groups
from verinn.search.store import Batch, Domains

#: neurons, and cases, of a network that Z3 may be asked about: beyond some dozens its fractions grow too long
TINY = 64
#: seconds that it gets in a run without a time limit
PATIENCE = 60.0
#: multiplications of a network whose stuck domains are handed to exact solvers
HANDED = 300_000
#: part of an input's width, about float32's unit squared, below which it is not halved where somebody exact is asked
NARROW = 2.0**-44
#: multiplications and neurons of a network that linear programmes over phases are tried on
SHORT, SHORT_NEURONS = 100_000, 1000
#: seconds of the first turn of bounds there, and of networks with more neurons, whose formulas take seconds to write
TURN, LATE_TURN, FEW_NEURONS = 1.0, 20.0, 100
#: free inputs from which on phases or values get turns in a search over boxes of small networks, and up to which cases
MANY_INPUTS, FEW_CASES = 4, 16
#: seconds before the first such turn, the turns' part of the time, and domains that are expected there at most
PHASES_TURN, VALUES_TURN, PROMISING = (1.0, 0.25), (2.0, 0.5), 1000.0
#: domains of phases that are bounded at once in such a turn
PHASES_AT_ONCE = 64
#: nonlinear operators of such networks
PIECEWISE = frozenset({"relu", "leaky_relu", "prelu", "clip", "abs", "max_pool", "reduce_max"})
#: engines that read the exact formula of a case
EXACT = ("smt", "milp")


def _device_room(device: str) -> float:
    """Half of what is free on a GPU; the other half is for the bounds of a batch."""
    return torch.cuda.mem_get_info()[0] / 2 if device == "cuda" else math.inf


def solve(problem: Problem, options: Options, progress: Callable[[Progress], None] | None = None) -> Result:
    """Decide a problem. Every `sat` was replayed; `unsat` means every case was refuted by sound bounds."""
    run = Run(problem, options, progress)
    return run.decide()


@dataclass(eq=False)
class Turns:
    """Somebody else's turns in a search, each a part of the search's own before it, which grow: little is lost
    where they are of no use, and what somebody else decides in seconds is decided. An answer that more time won't
    better is the last."""

    decide: Callable[[float], Outcome]  # within so many seconds
    turn: float
    part: float = 0.25
    due: float = 0.0
    found: Outcome | None = None

    def __post_init__(self) -> None:
        self.due = time.monotonic() + self.turn

    def __call__(self) -> Outcome | None:
        """The outcome on everything, once it is known."""
        if self.found is None and time.monotonic() >= self.due:
            outcome = self.decide(self.turn * self.part)
            if outcome.verdict in (Verdict.SAT, Verdict.UNSAT):
                self.found = outcome
            self.turn *= 4
            self.due = time.monotonic() + (math.inf if outcome.verdict is Verdict.UNKNOWN else self.turn)
        return self.found


def _first_of(turns: Sequence[Turns]) -> Outcome | None:
    """The outcome of the first that has one."""
    return next((outcome for turn in turns if (outcome := turn()) is not None), None)


class Run:
    """One run: the clock, what to tell, and the witness box of each case."""

    def __init__(self, problem: Problem, options: Options, progress: Callable[[Progress], None] | None):
        self.problem = problem
        self.options = options
        self.progress = progress
        self.began = time.monotonic()
        self.facts = facts_of(problem)
        self.plan = plan_of(self.facts, options)
        self.domains = 0
        self.replays = 0
        self.attacks = 0
        self.notes: list[str] = []
        self.equal: dict[int, bool] = {}  # by spec, which all live as long as the run

    def expired(self) -> bool:
        return self.options.deadline is not None and time.monotonic() >= self.options.deadline

    def decide(self) -> Result:
        cases = self.problem.prop.cases
        if not len(cases):
            return self._result(Verdict.UNSAT, reason="no input fulfils the constraints on the inputs")
        before = torch.get_num_threads()
        torch.set_num_threads(self.plan.threads)
        try:
            with exact_kernels():
                return self._phases(list(groups(cases)))
        finally:
            torch.set_num_threads(before)

    def _phases(self, specs: Sequence[Spec]) -> Result:
        device = torch.device(self.plan.device)
        specs = [spec.to(device) for spec in specs]
        if self.options.attack:
            witness = self._attack(specs, device)
            if witness is not None:
                return self._result(Verdict.SAT, witness)
        unbounded = [spec for spec in specs if not bool((spec.lower.isfinite() & spec.upper.isfinite()).all())]
        if unbounded and self.plan.engine not in EXACT and not self._tiny():
            return self._result(Verdict.UNKNOWN, reason="an input is unbounded: no bound can be computed over it")
        return self._by_cells(device) or self._search(specs, device)

    def _by_cells(self, device: torch.device) -> Result | None:
        """The verdict on all cells that first jumps cut the inputs into; None where that is no way to do it."""
        few = len(self.problem.prop.cases) <= 64 and self.facts.free_inputs <= 32
        if self.plan.engine != "values" or not few or not first_jumps(self.problem.graph):
            return None
        until = time.monotonic() + 0.6 * self._left()
        limits = replace(self._limits(), expired=lambda: self.expired() or time.monotonic() > until)
        for problem in corners(self.problem):
            program = Program.prepare(problem.graph, torch.float32, device)
            referee = Program.prepare(problem.graph, torch.float64, device)
            for group in groups(problem.prop.cases):
                spec = group.to(device)
                attempt, effort = partial(self._confirm, spec), self._effort()
                outcome = search_cells(program, referee, spec, limits, attempt, self._search_told, effort)
                if outcome is None:
                    return None
                self.domains += outcome.domains
                if outcome.verdict is Verdict.SAT or (outcome.verdict is Verdict.TIMEOUT and self.expired()):
                    return self._result(outcome.verdict, outcome.witness, outcome.reason)
                if outcome.verdict is not Verdict.UNSAT:
                    return None
        return self._result(Verdict.UNSAT)

    def _limits(self, attack: Callable[[Batch], Witness | None] | None = None) -> Limits:
        plan, room = self.plan, _device_room(self.plan.device)
        return Limits(plan.batch, plan.helper, self.expired, attack, plan.crowd, device_store=room)

    def _effort(self) -> Effort:
        few = self.facts.free_inputs <= 32
        width, budget = min(self.plan.batch, 32), self.options.memory // 32
        return Effort(width, budget, 2 if few else 0, few, self._left, self.plan.workers)

    def _attack(self, specs: Sequence[Spec], device: torch.device) -> Witness | None:
        program = Program.prepare(self.problem.graph, torch.float32, device)
        share = max(16, self.plan.points // len(specs))
        for number, spec in enumerate(specs):
            self._tell("attack", len(specs) - number, number, None)
            witness = self._replayed(spec, pgd(program, spec, share, self.plan.steps, self._seed(), self.expired))
            if witness is not None or self.expired():
                return witness
        return None

    def _attack_domains(self, program: Program, spec: Spec, domains: Batch) -> Witness | None:
        """An attack that starts in open domains, where they are boxes."""
        points = max(16, self.plan.points // 2)
        regions = (domains.lower, domains.upper, domains.case) if isinstance(domains, Domains) else None
        found = pgd(program, spec, points, self.plan.steps, self._seed(), self.expired, regions)
        return self._replayed(spec, found)

    def _seed(self) -> int:
        """A new seed for each attack of a run."""
        self.attacks += 1
        return self.options.seed * 1_000_003 + self.attacks

    def _replayed(self, spec: Spec, found: Iterator[tuple[Tensor, Tensor]]) -> Witness | None:
        for points, cases in found:
            for point, case in zip(points[:5], cases[:5], strict=True):
                witness = self._confirm(spec, point, case)
                if witness is not None:
                    return witness
            if self._equalities(spec):
                program = Program.prepare(self.problem.graph, torch.float32, points.device)
                for some, owner in exact_points(program, spec, points[:4], cases[:4], self.options.seed):
                    witness = None if self.expired() else self._confirm(spec, some[0], owner)
                    if witness is not None:
                        return witness
        return None

    def _equalities(self, spec: Spec) -> bool:
        """Whether the spec has equalities; looked up once."""
        if id(spec) not in self.equal:
            self.equal[id(spec)] = has_equalities(spec)
        return self.equal[id(spec)]

    def _search(self, specs: Sequence[Spec], device: torch.device) -> Result:
        dtype = torch.float64 if self.plan.dtype == "float64" else torch.float32
        program = Program.prepare(self.problem.graph, dtype, device)
        attacker = Program.prepare(self.problem.graph, torch.float32, device)
        referee = program if dtype == torch.float64 else Program.prepare(self.problem.graph, torch.float64, device)
        left: list[str] = []
        for spec in specs:
            outcome = self._decided(spec, program, attacker, referee)
            self.domains += outcome.domains
            if outcome.verdict is Verdict.SAT:
                return self._result(Verdict.SAT, outcome.witness)
            if outcome.verdict is Verdict.TIMEOUT:
                return self._result(Verdict.TIMEOUT, reason=outcome.reason)
            if outcome.verdict is Verdict.UNKNOWN:
                left.append(outcome.reason)
        if left:
            return self._result(Verdict.UNKNOWN, reason="; ".join([left[0], *self.problem.prop.limits]))
        return self._result(Verdict.UNSAT)

    def _decided(self, spec: Spec, program: Program, attacker: Program, referee: Program) -> Outcome:
        """One group of cases; what bounds leave undecided of a tiny network is asked of Z3."""
        if not bool((spec.lower.isfinite() & spec.upper.isfinite()).all()):
            return self._exactly(spec)
        turns: list[Turns] = []
        if self._short():
            first = TURN if self.facts.neurons <= FEW_NEURONS else LATE_TURN
            turns.append(Turns(partial(self._exactly, spec, engine="milp"), min(first, self._left() / 4)))
        if self._many() and len(spec.cases) <= FEW_CASES:
            first, part = PHASES_TURN if self.facts.relus == self.facts.neurons else VALUES_TURN
            turns.append(Turns(partial(self._otherwise, spec, referee), first, part))
        outcome = self._searched(spec, program, attacker, referee, partial(_first_of, turns) if turns else None)
        if outcome.verdict is not Verdict.UNKNOWN or self.plan.engine in EXACT or not (self._tiny() or self._short()):
            return outcome
        patience = PATIENCE if self.options.deadline is None else math.inf
        exactly = self._exactly(spec, patience, "smt" if self._tiny() else "milp")
        if exactly.verdict in (Verdict.SAT, Verdict.UNSAT):
            return replace(exactly, domains=outcome.domains + exactly.domains)
        name = "Z3" if self._tiny() else "linear programmes"
        reason = f"{outcome.reason}; {name}: {exactly.reason}" if exactly.reason else outcome.reason
        return replace(outcome, reason=reason)

    def _short(self) -> bool:
        """Whether a formula of the network is short enough for linear programmes over its phases."""
        facts = self.facts
        fit = facts.products <= SHORT and facts.neurons <= SHORT_NEURONS and facts.cases <= TINY
        plain = all(node.op in PIECEWISE or node.op not in NONLINEAR for node in self.problem.graph.nodes)
        return fit and plain and self.options.engine == "auto" and self.plan.device == "cpu"

    def _many(self) -> bool:
        """Whether boxes are searched that have so many inputs that splitting neurons may be the better search."""
        facts = self.facts
        boxes = self.plan.engine == "boxes" and self.options.engine == "auto" and facts.products <= SMALL
        return boxes and facts.neurons > 0 and facts.free_inputs >= MANY_INPUTS and not facts.jumps

    def _otherwise(self, spec: Spec, referee: Program, seconds: float) -> Outcome:
        """One group of cases by phases, where few domains are expected, or by values where the network has other
        nonlinearities than ReLUs."""
        until = time.monotonic() + seconds
        program = Program.prepare(self.problem.graph, torch.float32, torch.device(self.plan.device))
        limits = replace(self._limits(), helper=False, expired=lambda: self._left(until) <= 0)
        attempt, told = partial(self._confirm, spec), self._search_told
        if self.facts.relus < self.facts.neurons:
            effort = replace(self._effort(), left=partial(self._left, until))
            return search_general(program, referee, spec, limits, attempt, told, effort)
        width, budget = min(PHASES_AT_ONCE, self.plan.batch), self.options.memory // 8
        if expected(program, referee, spec, limits, width, budget, PROMISING) > PROMISING:
            return Outcome(Verdict.UNKNOWN, reason="too many phases would have to be split")
        return search_phases(program, referee, spec, limits, attempt, told, width, budget)

    def _tiny(self) -> bool:
        """Whether Z3 has a chance, and the plan is free to ask it."""
        few = self.facts.neurons <= TINY and self.facts.products <= 64 * TINY and self.facts.cases <= TINY
        return few and self.options.engine == "auto"

    def _searched(
        self,
        spec: Spec,
        program: Program,
        attacker: Program,
        referee: Program,
        turns: Callable[[], Outcome | None] | None,
    ) -> Outcome:
        """One group of cases, by the plan's engine, and by others in their ``turns``."""
        plan, attempt = self.plan, partial(self._confirm, spec)
        if plan.engine in EXACT:
            return self._exactly(spec)
        attack = partial(self._attack_domains, attacker, spec) if self.options.attack else None
        limits = replace(self._limits(attack), exact=self._handover(spec), aside=turns)
        budget = self.options.memory // 8
        if plan.engine == "values":
            return search_general(program, referee, spec, limits, attempt, self._search_told, self._effort())
        base = program if plan.engine == "boxes" else referee
        task = Task(base, spec, referee, neurons=plan.neurons, depth=plan.depth, budget=budget)
        if limits.exact is not None:
            task = replace(task, narrow=NARROW)
        # where contraction decides phases from the inputs, halving them is the better search however many they are
        if plan.engine == "phases" and (task.contractor is None or self.options.engine == "phases"):
            told, workers = self._search_told, plan.workers
            kind = self.options.refine
            refinement = None if kind == "none" else Refinement(kind, self._left)
            width = plan.batch
            outcome = search_phases(program, referee, spec, limits, attempt, told, width, budget, workers, refinement)
            others = self.facts.neurons > self.facts.relus
            if outcome.verdict is not Verdict.UNKNOWN or not others:
                return outcome  # else what other nonlinearities leave open may fall to smaller boxes
        return search(task, limits, attempt, self._search_told)

    def _handover(self, spec: Spec) -> Exact | None:
        """Who is asked about domains that can't be split; nobody where a formula of fractions would be too long."""
        if self.facts.products > HANDED:
            return None
        made: list[Exact] = []

        def handed(task: Any, part: Any) -> tuple[bool, Witness | None]:
            if not made:  # few searches need it
                from verinn.search.handover import Handover

                program = Program.prepare(self.problem.graph, torch.float64)
                attempt, told, seed = partial(self._confirm, spec), self._search_told, self.options.seed
                query, over, left = self.problem.query, self.expired, self._left
                made.append(Handover(program, spec, query, over, left, attempt, told, seed))
            return made[0](task, part)

        return handed

    def _exactly(self, spec: Spec, patience: float = math.inf, engine: str = "") -> Outcome:
        """A group of cases, case by case, by Z3 or by integer programmes, within ``patience`` seconds. ``engine``: the
        plan's if none is given, and Z3 if that is no exact one."""
        from verinn.search import milp, smt

        program = Program.prepare(self.problem.graph, torch.float64)
        until = time.monotonic() + patience

        left = partial(self._left, until)

        def over() -> bool:
            return self.expired() or left() <= 0

        attempt, told, seed = partial(self._confirm, spec), self._search_told, self.options.seed

        def decided(number: int) -> Outcome:
            task = smt.Exactly(program, spec.cases[number], number, self.problem.query)
            if (engine or self.plan.engine) == "milp":
                return milp.decide(task, milp.MilpLimits(over, left, seed), attempt, told)
            return smt.decide(task, smt.SmtLimits(over, left, seed=seed), attempt, told)

        return one_by_one(decided(number) for number in range(len(spec.cases)))

    def _left(self, until: float = math.inf) -> float:
        """Seconds until the deadline, or until an earlier time of the monotonic clock."""
        end = math.inf if self.options.deadline is None else self.options.deadline
        return min(end, until) - time.monotonic()

    def _confirm(self, spec: Spec, point: Tensor, case: Tensor) -> Witness | None:
        """Round a point to float32 inside its case's witness box and replay it on the original model."""
        owner = spec.cases[int(case)]
        x = point.detach().cpu().numpy().astype(np.float32)
        x = np.minimum(np.maximum(x, owner.witness_lower), owner.witness_upper)
        self.replays += 1
        witness = self.problem.confirm(x)
        if witness is not None and not self._real(spec, case, x):
            self.notes.append("by the network's exact function the witness lies on the other side: rounding decides")
        return witness

    def _real(self, spec: Spec, case: Tensor, x: np.ndarray) -> bool:
        """Whether a replayed witness also violates as far as float64 tells, not by ONNX Runtime's rounding alone."""
        point = torch.from_numpy(x.astype(np.float64)).unsqueeze(0)
        y = Program.prepare(self.problem.graph, torch.float64).flat(point)
        rows = spec.to(torch.device("cpu")).values(case.cpu().reshape(1), point, y)[0]
        return any(bool((rows[spec.owner.cpu() == j] <= 0).all()) for j in range(spec.conjunctions))

    def _search_told(self, open_: int, closed: int, worst: float, share: float) -> None:
        self._tell("search", open_, closed, worst if math.isfinite(worst) else None, share)

    def _tell(self, phase: str, open_: int, closed: int, worst: float | None, left: float | None = None) -> None:
        if self.progress is not None:
            self.progress(Progress(phase, open_, closed, worst, time.monotonic() - self.began, left))

    def _result(self, verdict: Verdict, witness: Witness | None = None, reason: str = "") -> Result:
        if verdict is Verdict.UNKNOWN and self.problem.prop.limits and not reason:
            reason = "; ".join(self.problem.prop.limits)
        seconds = time.monotonic() - self.began
        statistics: Mapping[str, Any] = {"domains": self.domains, "replays": self.replays, "seconds": seconds}
        plan = {"facts": asdict(self.facts), "plan": asdict(self.plan)}
        return Result(verdict, witness, reason, statistics, plan, (*self.problem.warnings, *self.notes), seconds)
