"""Faults in the exact solvers: formulas, Z3's answers, clauses, linear programmes, and what is handed over."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from verinn.audit.mutants.mutant import Mutant
from verinn.audit.mutants.patch import Function, Patch
from verinn.exact.domains import Answer, Clause, Domain, Status
from verinn.exact.encoding import meaning
from verinn.exact.milp import system
from verinn.exact.milp.tree import Tree
from verinn.exact.smt import solver
from verinn.exact.smt.solver import SmtSolver
from verinn.search.handover import Handover
from verinn.search.smt import Search

_NOTHING = Clause(frozenset(), frozenset())


def _smt_unknown(patch: Patch) -> None:
    """Interrupts, time-outs and Z3's own `unknown` alike."""

    def make(original: Function) -> Function:
        def answered(*given: Any) -> Answer:
            answer: Answer = original(*given)
            return Answer(Status.UNSAT, core=_NOTHING) if answer.status is Status.UNKNOWN else answer

        return answered

    patch.method(SmtSolver, "_cut_off", make)
    patch.method(SmtSolver, "_checked", make)


def _piece_lost(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def possible(pieces: Any, ends: Any) -> Any:
            left = original(pieces, ends)
            return left[:-1] if len(left) > 1 else left

        return possible

    patch.here(meaning, "_possible", make)


def _rounded_weights(patch: Patch) -> None:
    """Numbers reach Z3 with six digits."""

    def make(original: Function) -> Function:
        return lambda self, number: original(self, Fraction(f"{float(number):.6g}") if abs(number) < 1e30 else number)

    patch.method(SmtSolver, "_value", make)


def _smt_strict(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def comparison(self: Any, one: Any) -> Any:
            return original(self, replace(one, relation="<") if one.relation == "<=" else one)

        return comparison

    patch.method(SmtSolver, "_comparison", make)


def _short_slices(patch: Patch) -> None:
    """Domains are split soon, so that there are clauses of small networks, too. This is no fault."""
    original = Search.__init__

    def made(self: Search, task: Any, limits: Any, *given: Any, **named: Any) -> None:
        original(self, task, replace(limits, slice=0.05, later=0.05), *given, **named)

    patch.value(Search, "__init__", made)


def _clause_bounds(patch: Patch) -> None:
    _short_slices(patch)
    patch.here(solver, "_clause", lambda original: lambda parts: replace(original(parts), bounds=frozenset()))


def _implied_forgotten(patch: Patch) -> None:
    """What bounds said of phases in a domain goes from its clause, and nothing takes its place."""

    def make(original: Function) -> Function:
        def learn(self: Any, node: Any, answer: Answer) -> None:
            if answer.core is not None:
                kept = frozenset(part for part in answer.core.phases if part[0] in node.domain.phases)
                answer = replace(answer, core=Clause(frozenset(), kept))
            original(self, node, answer)

        return learn

    _short_slices(patch)
    patch.method(Search, "_learn", make)


def _other_side(patch: Patch) -> None:
    """The phase that was split on is always taken for superfluous in the first side's clause."""

    def make(original: Function) -> Function:
        def refuted(self: Any, node: Any) -> Clause | None:
            clause: Clause | None = original(self, node)
            if clause is None or not node.depth:
                return clause
            newest = next(reversed(node.domain.phases.items()), None)
            return replace(clause, phases=clause.phases - {newest})

        return refuted

    patch.method(Tree, "_refuted", make)


def _programme_tolerance(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def least(*given: Any) -> Any:
            found = original(*given)
            return replace(found, value=found.value + 1e-6) if len(found.below) else found

        return least

    patch.method(system.System, "least", make)


def _all_rows(patch: Patch) -> None:
    """Multipliers count whatever phase their rows belong to, and the programme has all of these rows."""
    patch.method(system.System, "active", lambda original: lambda self, phases: original(self, phases) | ~self.always)


def _whole_gap(patch: Patch) -> None:
    """Of a whole number's range the upper half begins one too late."""

    def make(original: Function) -> Function:
        def halved(self: Any, node: Any, lower: Any, upper: Any, at: int, cut: float) -> Any:
            less = np.array(lower)
            less[at] = cut + 2
            return (
                original(self, node, lower, upper, at, cut)
                if cut + 2 > upper[at]
                else self._refuted(replace(node, lower=less, upper=upper, depth=node.depth + 1))
            )

        return halved

    patch.method(Tree, "_halved", make)


def _handed_first(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def handed(self: Any, task: Any, part: Any) -> Any:
            return original(self, task, part.part(0, 0))

        return handed

    patch.method(Handover, "__call__", make)


def _handed_phases(patch: Patch) -> None:
    """Every domain is handed over with the last phase of the first open choice, the others forgotten."""

    def make(original: Function) -> Function:
        def check(self: Any, domain: Domain, pace: Any) -> Answer:
            fork = next((one for one in self.system.choices if one.key not in domain.phases), None)
            phases = dict(domain.phases) if fork is None else {**domain.phases, fork.key: next(reversed(fork.phases))}
            answer: Answer = original(self, replace(domain, phases=phases), pace)
            return answer

        return check

    patch.method(Tree, "check", make)


SMALL = ("rounding+tie", "kinks+Relu", "shapes", "planted")

EXACT = (
    Mutant(
        "smt-unknown", "exact", "what Z3 doesn't know, or had no time for, is refuted", _smt_unknown, engine="smt",
        where=("planted", "clean"),
    ),
    Mutant(
        "smt-piece", "exact", "the last piece of every function is left out of formulas", _piece_lost, engine="smt",
        where=SMALL,
    ),
    Mutant("smt-digits", "exact", "Z3 gets six digits of every number", _rounded_weights, engine="smt", where=SMALL),
    Mutant("smt-strict", "exact", "Z3 gets `<` for every `<=`", _smt_strict, engine="smt", where=SMALL),
    Mutant(
        "clause-bounds", "exact", "clauses forget the boxes that they hold in", _clause_bounds, engine="smt",
        where=("provable",),
    ),
    Mutant(
        "clause-phases", "exact", "clauses forget the phases that bounds left", _implied_forgotten, engine="smt",
        where=("planted",),
    ),
    Mutant("other-side", "exact", "the other side of a choice is never looked at", _other_side, engine="milp"),
    Mutant(
        "weighed-tolerance", "exact", "multipliers that leave a leaf open by a hair refute it", _programme_tolerance,
        engine="milp", where=SMALL,
    ),
    Mutant("all-rows", "exact", "rows of phases that are not chosen are weighed, too", _all_rows, engine="milp"),
    Mutant(
        "whole-gap", "exact", "halves of a whole number's range leave a gap", _whole_gap, engine="milp",
        where=("kinks+Floor", "operators+Floor", "Floor", "Round", "Ceil"),
    ),
    Mutant("handed-first", "exact", "of domains handed over none is looked at", _handed_first, guided=True,
           where=("kinks+tie", "rounding+tie")),
    Mutant("handed-side", "exact", "domains are handed over with a phase chosen", _handed_phases, guided=True,
           where=("kinks+tie", "rounding+tie")),
)  # fmt: skip
