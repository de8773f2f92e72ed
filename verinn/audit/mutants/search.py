"""Faults in the search, the exact back end, the property and the replay."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from verinn.audit.mutants.mutant import Mutant
from verinn.audit.mutants.patch import Function, Patch
from verinn.bounds import contract
from verinn.bounds.climb import evaluate
from verinn.exact import leaves
from verinn.ir.evaluate import holds
from verinn.ir.query import Kind
from verinn.passes import property as prop
from verinn.result import Verdict, Witness
from verinn.search import bab, branch, explore, helper, neurons, problem, run, spec
from verinn.search.bab import _Search
from verinn.search.explore import Explored
from verinn.search.store import Domains, Store


def _timeout(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def searched(*given: Any) -> Any:
            outcome = original(*given)
            late = outcome.verdict is Verdict.TIMEOUT
            return replace(outcome, verdict=Verdict.UNSAT) if late else outcome

        return searched

    patch.method(run.Run, "_searched", make)


def _stuck(patch: Patch) -> None:
    def make(original: Function) -> Function:
        return lambda self, explored, part: original(self, replace(explored, stuck=0), part)

    patch.method(_Search, "_take", make)


def _last_child(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def push(self: Store, domains: Any) -> None:
            original(self, domains.part(0, len(domains) - 1) if len(domains) > 1 else domains)

        return push

    patch.method(Store, "push", make)


def _full_store(patch: Patch) -> None:
    """As if memory were short: of what waits beyond 16 domains, the rest is forgotten."""

    def make(original: Function) -> Function:
        def push(self: Store, domains: Any) -> None:
            room = max(0, 16 - len(self))
            original(self, domains.part(0, room) if len(domains) > room else domains)

        return push

    patch.method(Store, "push", make)


def _memory(patch: Patch) -> None:
    """Every third batch runs out of memory, and is not put back."""
    turn = itertools.count(1)

    def make(original: Function) -> Function:
        def guarded(task: Any, part: Any) -> Any:
            if next(turn) % 3 == 0:
                raise MemoryError
            return original(task, part)

        return guarded

    patch.here(bab, "_guarded", make)
    patch.method(_Search, "_shrink", lambda original: lambda self, error, part: None)


def _crash(patch: Patch) -> None:
    """An exception in a batch counts as done."""
    turn = itertools.count(1)

    def make(original: Function) -> Function:
        def explore_(*given: Any) -> Any:
            if next(turn) % 2 == 0:
                part = given[1]
                points = torch.zeros((0, given[0].spec.lower.shape[1]), dtype=torch.float64)
                return Explored(None, len(part), points, torch.zeros(0, dtype=torch.int64))
            return original(*given)

        return explore_

    patch.here(bab, "_guarded", make)


def _helper(patch: Patch) -> None:
    """What the second process answers never arrives, and its domains count as closed."""

    def make(original: Function) -> Function:
        def lost(self: Any, part: Any) -> Any:
            points = part.lower[:0].double()
            return Explored(None, len(part), points, torch.zeros(0, dtype=torch.int64))

        return lost

    patch.method(helper.Helper, "explore", make)
    patch.value(bab, "_PATIENCE", 0.05)


def _first_disjunct(patch: Patch) -> None:
    patch.here(run, "groups", lambda original: lambda cases: original([_one(case, 0) for case in cases]))


def _last_disjunct(patch: Patch) -> None:
    patch.here(run, "groups", lambda original: lambda cases: original([_one(case, -1) for case in cases]))


def _one(case: Any, which: int) -> Any:
    return replace(case, conjunctions=(case.conjunctions[which],)) if case.conjunctions else case


def _first_case(patch: Patch) -> None:
    patch.here(run, "groups", lambda original: lambda cases: original([cases[0]]))


def _last_case(patch: Patch) -> None:
    patch.here(run, "groups", lambda original: lambda cases: original([cases[len(cases) - 1]]))


def _strict(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def build(bucket: Any) -> Any:
            made = original(bucket)
            return replace(made, strict=torch.ones_like(made.strict))

        return build

    patch.here(spec, "_build", make)


def _any_row(patch: Patch) -> None:
    """A row of one conjunction that can't hold refutes all of them."""

    def make(original: Function) -> Function:
        def some(rows: Any, given: Any) -> Any:
            return original(rows, given).any(1, keepdim=True).expand(-1, given.conjunctions)

        return some

    patch.here(explore, "_any_by_owner", make)


def _conjunction_mixed(patch: Patch) -> None:
    """In the search over phases, goals of all conjunctions are mixed as if all had to hold."""

    def make(original: Function) -> Function:
        def climbed(box: Any, conjunctions: Any) -> Any:
            spec = box.setting.spec
            merged = replace(box.setting, spec=replace(spec, owner=torch.zeros_like(spec.owner)))
            return original(replace(box, setting=merged), conjunctions[:1] * 0)

        return climbed

    from verinn.search import box

    patch.here(box, "_climbed", make)


def _gap(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def split(task: Any, domains: Domains, score: Any) -> Any:
            halves, stuck = original(task, domains, score)
            low, high = halves
            width = 0.02 * (high.upper - high.lower)
            return [
                low,
                replace(high, lower=torch.where(high.lower > low.lower, high.lower + width, high.lower)),
            ], stuck

        return split

    patch.here(branch, "_split_input", make)


def _one_phase(patch: Patch) -> None:
    patch.here(branch, "_split_neuron", lambda original: lambda *given: original(*given)[1:])


def _one_phase_of_neurons(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def split(domains: Any, column: Any) -> Any:
            both = original(domains, column)
            kept = torch.arange(len(both)) < len(both) // 2
            # the others stay in the batch as copies of their siblings, so that it keeps its length
            return both.select(torch.where(kept, torch.arange(len(both)), torch.arange(len(both)) - len(both) // 2))

        return split

    patch.here(neurons, "split", make)


def _stale(patch: Patch) -> None:
    """Intervals stay where they were when domains are picked out of a batch."""

    def make(original: Function) -> Function:
        def select(self: Domains, index: Any) -> Domains:
            made: Domains = original(self, index)
            known = {
                name: (low[: len(made)], high[: len(made)]) if len(low) >= len(made) else made.known[name]
                for name, (low, high) in self.known.items()
            }
            return replace(made, known=known)

        return select

    patch.method(Domains, "select", make)


def _contract(patch: Patch) -> None:
    """Contraction leaves of each interval of an input a twentieth too little."""

    def make(original: Function) -> Function:
        def eager(contractor: Any, box: Any, rows: Any, rounds: int = 8) -> Any:
            made, empty = original(contractor, box, rows, rounds)
            for value in contractor.program.graph.inputs:
                low, high = made[value.name]
                room = 0.05 * (high - low).clamp(min=0)
                made = {**made, value.name: (low + room, high - room)}
            return made, empty

        return eager

    patch.function(contract, "contract", make)


def _leaf_phase(patch: Patch) -> None:
    """The programme of a leaf is that of the phases turned round."""

    def make(original: Function) -> Function:
        def duals(self: Any, forms: Any, low: Any, high: Any) -> Any:
            active = (low >= 0) & (high > 0)
            turned_low = torch.where(active, low.clamp(max=0) - high, torch.zeros_like(low))
            turned_high = torch.where(active, torch.zeros_like(high), high.clamp(min=0) - low)
            return original(self, forms, turned_low, turned_high)

        return duals

    patch.method(leaves.Refiner, "_duals", make)
    _believed(patch)


def _believed(patch: Patch) -> None:
    """What a linear programme claims is believed without weighing its multipliers."""

    def make(original: Function) -> Function:
        def settled(self: Any, lower: Any, upper: Any, allowed: Any, certified: Any, strict: bool) -> Any:
            refined = self.refine(lower, upper, allowed)
            if refined is None:
                return original(self, lower, upper, allowed, certified, strict)
            return refined.value > -1e-6, self.lower[:0]

        return settled

    patch.method(leaves.Refiner, "settled", make)


def _tolerance(patch: Patch) -> None:
    """A bound of -1e-6 counts as a proof."""
    patch.here(explore, "least", lambda original: lambda *given: original(*given) + 1e-6)


def _uncertified(patch: Patch) -> None:
    """What climbing finds in float32 is believed, without the pass in float64."""

    def make(original: Function) -> Function:
        def certified(self: Any, rows: Any, multipliers: Any) -> Any:
            value = evaluate(self.frame, self.goals, rows, multipliers, primal=False).value
            return value.double() + 1e-5

        return certified

    patch.method(neurons.PhaseTask, "certified", make)


def _shrunk(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def build(self: Any, given: Any) -> Any:
            case = original(self, given)
            room = np.nan_to_num(case.upper - case.lower, posinf=0.0) * 1e-6
            return replace(case, lower=case.lower + room, upper=case.upper - room)

        return build

    patch.method(prop.Cases, "_build", make)


def _float32_box(patch: Patch) -> None:
    """Bounds are rounded inward to the next float32 number but one: the last number itself is lost."""

    def make(original: Function) -> Function:
        def build(self: Any, given: Any) -> Any:
            case = original(self, given)
            inner = (
                np.nextafter(case.witness_lower, np.float32(np.inf)),
                np.nextafter(case.witness_upper, -np.float32(np.inf)),
            )
            lower = np.where(case.upper > case.lower, np.maximum(case.lower, inner[0].astype(np.float64)), case.lower)
            upper = np.where(case.upper > case.lower, np.minimum(case.upper, inner[1].astype(np.float64)), case.upper)
            return replace(case, lower=lower, upper=np.maximum(lower, upper))

        return build

    patch.method(prop.Cases, "_build", make)


def _rows_turned(patch: Patch) -> None:
    """Linear constraints on the inputs are taken the other way round."""

    def make(original: Function) -> Function:
        def build(self: Any, given: Any) -> Any:
            case = original(self, given)
            matrix = case.input_rows.x
            turned = replace(case.input_rows, x=replace(matrix, value=-matrix.value), rhs=-case.input_rows.rhs)
            return replace(case, input_rows=turned)

        return build

    patch.method(prop.Cases, "_build", make)


def _rhs(patch: Patch) -> None:
    """Thresholds of the output rows a millionth too far away."""

    def make(original: Function) -> Function:
        def build(bucket: Any) -> Any:
            made = original(bucket)
            return replace(made, rhs=made.rhs - made.rhs.abs() * 1e-6 - 1e-9)

        return build

    patch.here(spec, "_build", make)


def _unreplayed(patch: Patch) -> None:
    """What violates by our own arithmetic, up to a little, is shown without the assertions being checked."""
    patch.here(problem, "holds", lambda original: lambda query, values: True)
    _eager_points(patch)


def _eager_points(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def try_points(self: Any, explored: Any) -> Any:
            found = original(self, explored)
            if found is None and len(explored.points):
                found = self.attempt(explored.points[0], explored.cases[0])
            return found

        return try_points

    patch.method(_Search, "_try_points", make)


def _outside(patch: Patch) -> None:
    """A witness may lie a little outside the box: checked with the bounds loosened."""

    def make(original: Function) -> Function:
        def confirm(self: Any, x: np.ndarray) -> Any:
            step = np.float32(1e-4) * (1 + np.abs(x))
            for moved in (x + step, x - step):
                values: dict[str, np.ndarray] = {}
                start = 0
                for network in self.query.networks:
                    size = sum(v.size for v in network.variables if v.kind is Kind.INPUT)
                    self._replay(network, moved[start : start + size].astype(np.float32), values)
                    start += size
                if holds(self.query, values, assuming=(Kind.INPUT,)):
                    return Witness(values)
            return original(self, x)

        return confirm

    patch.method(problem.Problem, "confirm", make)


SEARCH = (
    Mutant("timeout", "search", "a time-out counts as `unsat`", _timeout),
    Mutant("stuck", "search", "boxes that can't be split any further are forgotten", _stuck, where=("tie", "planted")),
    Mutant("last-child", "search", "of each batch of children the last is lost", _last_child, where=("planted",)),
    Mutant("full-store", "search", "domains beyond the sixteenth are forgotten", _full_store, where=("planted",)),
    Mutant("out-of-memory", "search", "a batch that ran out of memory is not put back", _memory, where=("planted",)),
    Mutant("crash", "search", "a batch that raised an exception counts as closed", _crash, where=("planted",)),
    Mutant(
        "lost-helper",
        "search",
        "what the second process answers is lost",
        _helper,
        helper=True,
        where=("planted", "trained"),
    ),
    Mutant("split-gap", "search", "halves of a box leave a gap between them", _gap, where=("kinks",)),
    Mutant(
        "one-phase",
        "search",
        "of a split ReLU only the active phase is searched (boxes)",
        _one_phase,
        where=("planted",),
    ),
    Mutant(
        "one-phase-neurons",
        "search",
        "of a split ReLU only one phase is searched (phases)",
        _one_phase_of_neurons,
        where=("rounding+wide", "wide"),
    ),
    Mutant(
        "stale-intervals", "search", "intervals of another domain are used after a split", _stale, where=("planted",)
    ),
    Mutant("tolerance", "search", "a bound just below zero counts as a proof", _tolerance, where=("planted", "tie")),
    Mutant(
        "uncertified",
        "search",
        "multipliers found in float32 are believed",
        _uncertified,
        where=("rounding+wide", "wide"),
    ),
    Mutant(
        "contraction", "bounds", "contraction takes a twentieth too much", _contract, where=("kinks", "rounding+tie")
    ),
    Mutant(
        "leaf-phase",
        "exact",
        "leaves are decided with the phases turned round",
        _leaf_phase,
        where=("rounding+wide", "wide"),
    ),
    Mutant(
        "believed-programme",
        "exact",
        "a linear programme's optimum is believed within a tolerance",
        _believed,
        where=("rounding+wide", "wide"),
    ),
    Mutant(
        "first-disjunct",
        "property",
        "only the first disjunct is decided",
        _first_disjunct,
        where=("shapes+or-last", "shapes+or"),
    ),
    Mutant(
        "last-disjunct",
        "property",
        "only the last disjunct is decided",
        _last_disjunct,
        where=("shapes+or-first", "shapes+or"),
    ),
    Mutant(
        "first-box",
        "property",
        "of a union of boxes only the first is searched",
        _first_case,
        where=("shapes+union-last", "shapes+union"),
    ),
    Mutant(
        "last-box",
        "property",
        "of a union of boxes only the last is searched",
        _last_case,
        where=("shapes+union-first", "shapes+union"),
    ),
    Mutant("strict", "property", "`<=` is taken for `<`", _strict, where=("rounding+wide", "wide", "tie")),
    Mutant(
        "any-row",
        "property",
        "a row that can't hold refutes other disjuncts, too (boxes)",
        _any_row,
        where=("shapes+or-first", "shapes+or-last", "shapes+or"),
    ),
    Mutant(
        "mixed-disjuncts",
        "property",
        "disjuncts are refuted together (phases)",
        _conjunction_mixed,
        where=("wide+or", "shapes+or"),
    ),
    Mutant("shrunk-box", "property", "the box is a millionth too small", _shrunk, where=("tie", "corner", "rounding")),
    Mutant(
        "float32-box",
        "property",
        "the last float32 number at each end of the box is lost",
        _float32_box,
        where=("rounding", "tie"),
    ),
    Mutant(
        "input-rows",
        "property",
        "linear constraints on inputs are turned round",
        _rows_turned,
        where=("shapes+half-space", "shapes+linear-inputs", "shapes"),
    ),
    Mutant("threshold", "property", "thresholds are a millionth too far away", _rhs, where=("tie", "rounding")),
    Mutant(
        "unreplayed",
        "replay",
        "a `sat` is said without checking the assertions",
        _unreplayed,
        blind=False,
        where=("twin", "safe"),
    ),
    Mutant(
        "outside-box",
        "replay",
        "a witness may lie a little outside the box",
        _outside,
        blind=False,
        where=("rounding+tie",),
    ),
)
