"""An incremental Z3 solver over an exact formula, asked about one domain after the other.

Only Z3's own `unsat` of a call that ended by itself counts as a refutation. A time-out, lack of memory, an
interrupt, an exception, an answer nobody knows: all of them are `unknown`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from typing import Any as Anything

import numpy as np

from verinn.exact.encoding import formula as f
from verinn.exact.encoding.formula import Comparison, Condition, Encoding, Form, Key
from verinn.exact.smt.guard import Gone, Interrupted, guarded

#: decimals to which an algebraic number of a model is approximated
DECIMALS = 40


class Status(Enum):
    SAT = "sat"
    UNSAT = "unsat"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Settings:
    """``memory``: MiB that Z3 may take; ``seed``: of its heuristics; ``weak``: whether redundant lines are added;
    ``arithmetic``: which of Z3's linear solvers (None: its default)."""

    memory: int = 2000
    seed: int = 0
    weak: bool = True
    arithmetic: int | None = None


@dataclass(frozen=True, eq=False)
class Domain:
    """A part of what is to be decided: a box of inputs (n,) float64, None for the whole, and the phases chosen."""

    lower: np.ndarray | None = None
    upper: np.ndarray | None = None
    phases: Mapping[Key, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Clause:
    """Bounds of inputs ((number, whether upper, value)) and phases that no solution has all together."""

    bounds: frozenset[tuple[int, bool, float]]
    phases: frozenset[tuple[Key, int]]

    def missing(self, domain: Domain) -> list[tuple[Key, int]] | None:
        """The phases of the clause that a domain has not chosen; None where the clause doesn't apply to it:
        it is not inside the bounds, or has another phase."""
        for number, over, value in self.bounds:
            end = domain.upper if over else domain.lower
            if end is None or (end[number] > value if over else end[number] < value):
                return None
        open_ = []
        for key, phase in self.phases:
            chosen = domain.phases.get(key)
            if chosen is None:
                open_.append((key, phase))
            elif chosen != phase:
                return None
        return open_


@dataclass(frozen=True, eq=False)
class Answer:
    """``point``: for `sat` the values of all variables, as far as Z3 gives them as numbers; ``exact``: whether
    none was approximated. ``core``: for `unsat` what of the domain was needed."""

    status: Status
    reason: str = ""
    point: tuple[Fraction, ...] = ()
    exact: bool = True
    core: Clause | None = None


class SmtSolver:
    """One formula in Z3, to which domains are pushed and from which they are popped.

    ``expired``: is looked at while Z3 runs. A solver that ever failed says `unknown` from then on
    (``broken`` tells why).
    """

    def __init__(
        self, encoding: Encoding, settings: Settings | None = None, expired: Callable[[], bool] = lambda: False
    ):
        import z3  # takes a fifth of a second

        self._z3 = z3
        self.encoding = encoding
        self.settings = settings or Settings()
        self._expired = expired
        self.broken = ""
        self.checks = 0
        self._phases: dict[Key, dict[int, Anything]] = {}
        try:
            self._context = z3.Context()
            self._names = [self._variable(v, i) for i, v in enumerate(encoding.formula.variables)]
            self._solver = self._made()
            self._assert_all()
        except z3.Z3Exception as error:
            self.broken = f"Z3 failed ({_brief(error)})"

    # -- asking -------------------------------------------------------------------------------------

    def check(self, domain: Domain | None = None, seconds: float = math.inf, extra: Sequence[Condition] = ()) -> Answer:
        """Whether the formula, with ``extra``, has a solution in a domain. Never raises what Z3 raises."""
        if self.broken:
            return Answer(Status.UNKNOWN, self.broken)
        if self._expired():
            return Answer(Status.UNKNOWN, "time is up")
        domain = domain or Domain()
        self.checks += 1
        pushed = False
        try:
            self._solver.push()
            pushed = True
            assumed = self._assume(domain)
            for condition in extra:
                self._solver.add(self._condition(condition))
            return self._asked(assumed, seconds)
        except Gone as error:
            self.broken, pushed = str(error), False
            return Answer(Status.UNKNOWN, str(error))
        except self._z3.Z3Exception as error:
            self.broken = f"Z3 failed ({_brief(error)})"
            return Answer(Status.UNKNOWN, self.broken)
        except MemoryError:
            self.broken = "Z3 ran out of memory"
            return Answer(Status.UNKNOWN, self.broken)
        finally:
            if pushed and not self.broken:
                self._pop()

    def _pop(self) -> None:
        try:
            self._solver.pop()
        except self._z3.Z3Exception as error:
            self.broken = f"Z3 failed ({_brief(error)})"

    def _asked(self, assumed: Mapping[str, Anything], seconds: float) -> Answer:
        z3 = self._z3
        self._solver.set(
            "timeout", max(1, min(int(seconds * 1000), 2**31 - 1)) if math.isfinite(seconds) else 2**31 - 1
        )
        literals = [literal for literal, _ in assumed.values()]
        try:
            found = guarded(lambda: self._solver.check(*literals), self._context.interrupt, seconds, self._expired)
        except Interrupted as error:
            return Answer(Status.UNKNOWN, str(error))
        if found == z3.unsat:
            core = [str(literal) for literal in self._solver.unsat_core()]
            return Answer(Status.UNSAT, core=_clause([assumed[name][1] for name in core if name in assumed]))
        if found == z3.sat:
            return self._modelled(self._solver.model())
        return Answer(Status.UNKNOWN, f"Z3 gave up ({_brief(self._solver.reason_unknown())})")

    def _modelled(self, model: Anything) -> Answer:
        point, exact = [], True
        for name in self._names:
            value, precise = self._number(model.eval(name, model_completion=True))
            point.append(value)
            exact &= precise
        return Answer(Status.SAT, point=tuple(point), exact=exact)

    def _number(self, value: Anything) -> tuple[Fraction, bool]:
        z3 = self._z3
        if z3.is_int_value(value):
            return Fraction(value.as_long()), True
        if z3.is_rational_value(value):
            return Fraction(value.numerator_as_long(), value.denominator_as_long()), True
        if z3.is_algebraic_value(value):
            near = value.approx(DECIMALS)
            return Fraction(near.numerator_as_long(), near.denominator_as_long()), False
        return Fraction(0), False

    def add(self, conditions: Iterable[Condition]) -> None:
        """More that must hold, from now on."""
        if self.broken:
            return
        try:
            for condition in conditions:
                self._solver.add(self._condition(condition))
        except self._z3.Z3Exception as error:
            self.broken = f"Z3 failed ({_brief(error)})"

    # -- saying it in Z3's terms ----------------------------------------------------------------------

    def _made(self) -> Anything:
        z3 = self._z3
        solver = z3.Solver(ctx=self._context)
        solver.set("random_seed", self.settings.seed)
        solver.set("max_memory", self.settings.memory)
        if self.settings.arithmetic is not None:
            solver.set("arith.solver", self.settings.arithmetic)
        return solver

    def _variable(self, variable: f.Variable, number: int) -> Anything:
        z3, name = self._z3, f"{variable.name}#{number}"
        return z3.Int(name, self._context) if variable.integer else z3.Real(name, self._context)

    def _assert_all(self) -> None:
        """The whole formula but for its curves' shape, which ``add`` refines."""
        formula, add = self.encoding.formula, self._solver.add
        for number, known in enumerate(formula.variables):
            v = f.variable(number)
            if known.lower is not None:
                add(self._comparison(Comparison((v * Fraction(-1)).shifted(known.lower), "<=")))
            if known.upper is not None:
                add(self._comparison(Comparison(v.shifted(-known.upper), "<=")))
        for fact in (*formula.facts, *(formula.weak if self.settings.weak else ())):
            add(self._comparison(fact))
        for choice in formula.choices:
            self._choose(choice)
        for condition in formula.conditions:
            add(self._condition(condition))
        for product in formula.products:
            self._product(product)

    def _product(self, product: f.Product) -> None:
        left, right, result = (self._names[v] for v in (product.left, product.right, product.result))
        self._solver.add(result == left * right)

    def _choose(self, choice: f.Choice) -> None:
        """A literal for each piece; two pieces share one and its negation."""
        z3, name = self._z3, f"{choice.key[0]}[{choice.key[1]}]"
        if len(choice.pieces) == 2:
            literal = z3.Bool(f"phase:{name}", self._context)
            literals = [z3.Not(literal), literal]
        else:
            literals = [z3.Bool(f"phase:{name}:{k}", self._context) for k in choice.phases]
            self._solver.add(z3.Or(*literals))
        self._phases[choice.key] = dict(zip(choice.phases, literals, strict=True))
        for literal, piece in zip(literals, choice.pieces, strict=True):
            self._solver.add(z3.Implies(literal, z3.And(*[self._comparison(part) for part in piece])))

    def _assume(self, domain: Domain) -> dict[str, tuple[Anything, tuple[str, Anything]]]:
        """Literals of a domain, by name: (literal, ("bound", …) or ("phase", …))."""
        z3 = self._z3
        made: dict[str, tuple[Anything, tuple[str, Anything]]] = {}
        for number, over, value in self._bounds(domain):
            literal = z3.Bool(f"end:{number}:{int(over)}", self._context)
            v = f.variable(self.encoding.inputs[number])
            form = v.shifted(-Fraction(value)) if over else (v * Fraction(-1)).shifted(Fraction(value))
            self._solver.add(z3.Implies(literal, self._comparison(Comparison(form, "<="))))
            made[str(literal)] = literal, ("bound", (number, over, value))
        for key, phase in domain.phases.items():
            known = self._phases.get(key)
            if known is None:
                continue  # the element has one phase in the whole box
            if phase not in known:
                literal = z3.Bool(f"never:{key[0]}[{key[1]}]:{phase}", self._context)
                self._solver.add(z3.Not(literal))
            else:
                literal = z3.Bool(f"chosen:{key[0]}[{key[1]}]", self._context)
                self._solver.add(z3.Implies(literal, known[phase]))
            made[str(literal)] = literal, ("phase", (key, phase))
        return made

    def _bounds(self, domain: Domain) -> Iterable[tuple[int, bool, float]]:
        """The ends of a domain's box that are inside those of the formula."""
        variables = self.encoding.formula.variables
        for number, v in enumerate(self.encoding.inputs):
            known = variables[v]
            if domain.lower is not None:
                low = float(domain.lower[number])
                if math.isfinite(low) and (known.lower is None or low > known.lower):
                    yield number, False, low
            if domain.upper is not None:
                high = float(domain.upper[number])
                if math.isfinite(high) and (known.upper is None or high < known.upper):
                    yield number, True, high

    def _condition(self, condition: Condition) -> Anything:
        z3 = self._z3
        if isinstance(condition, Comparison):
            return self._comparison(condition)
        parts = [self._condition(part) for part in condition.parts]
        if isinstance(condition, f.All):
            return z3.And(*parts) if parts else z3.BoolVal(True, self._context)
        return z3.Or(*parts) if parts else z3.BoolVal(False, self._context)

    def _comparison(self, comparison: Comparison) -> Anything:
        form = comparison.form
        if form.constant:
            return self._z3.BoolVal(comparison.holds(()), self._context)
        left, right = self._sum(form), self._value(-form.const)
        if comparison.relation == "<=":
            return left <= right
        return left < right if comparison.relation == "<" else left == right

    def _sum(self, form: Form) -> Anything:
        z3 = self._z3
        parts = []
        for v, c in form.terms.items():
            name = self._names[v]
            if z3.is_int(name):
                name = z3.ToReal(name)
            parts.append(name if c == 1 else self._value(c) * name)
        return parts[0] if len(parts) == 1 else z3.Sum(parts)

    def _value(self, number: Fraction) -> Anything:
        return self._z3.RealVal(f"{number.numerator}/{number.denominator}", self._context)


def _clause(parts: Iterable[tuple[str, Anything]]) -> Clause:
    named = list(parts)
    return Clause(
        frozenset(what for kind, what in named if kind == "bound"),
        frozenset(what for kind, what in named if kind == "phase"),
    )


def _brief(error: object) -> str:
    text = error.decode(errors="replace") if isinstance(error, bytes) else str(error)
    return " ".join(text.split())[:120]
