"""An incremental Z3 solver over an exact formula, asked about one domain after the other.

Only Z3's own `unsat` of a call that ended by itself counts as a refutation. A time-out, lack of memory, an
interrupt, an exception, an answer nobody knows: all of them are `unknown`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any as Anything

from verinn.exact.domains import Answer, Clause, Domain, Status
from verinn.exact.encoding import formula as f
from verinn.exact.encoding.formula import Comparison, Condition, Encoding, Form, Key
from verinn.exact.smt.guard import Gone, Interrupted, guarded

#: what a literal of a domain says: ("bound", (input, whether upper, value)) or ("phase", (key, phase))
Part = tuple[str, Anything]

#: calls that may be cut off before a solver is given up
MOST_REMAKES = 50
#: ends of inputs that a solver is told of before it is made anew
MOST_ENDS = 4000
#: decimals to which an algebraic number of a model is approximated
DECIMALS = 40


@dataclass(frozen=True)
class Settings:
    """``memory``: MiB that Z3 may take; ``seed``: of its heuristics; ``weak``: whether redundant lines are added;
    ``arithmetic``: which of Z3's linear solvers (None: the older one where all is linear, which was measured to be
    a little faster on networks, else Z3's default)."""

    memory: int = 2000
    seed: int = 0
    weak: bool = True
    arithmetic: int | None = None


class SmtSolver:
    """One formula in Z3, asked about domain after domain; what it learns of one serves the others.

    A domain's phases and ends are assumptions of one call, so a refutation tells which of them it needed. All
    that Z3 does happens inside ``guarded``. After a call that was cut off the solver is made anew; once that
    happened too often, or a call did not come back at all, it says `unknown` for good (``broken`` tells why).
    ``expired``: is looked at while Z3 runs.
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
        self.remakes = 0
        self._ready = False
        self._known = 0  # of what was added
        self._added: list[Condition] = []
        self._context = z3.Context()

    # -- asking -------------------------------------------------------------------------------------

    def check(self, domain: Domain | None = None, seconds: float = math.inf, extra: Sequence[Condition] = ()) -> Answer:
        """Whether the formula, with ``extra``, has a solution in a domain. Never raises what Z3 raises.

        The core of a refutation speaks of the domain only: it holds as far as ``extra`` does.
        """
        if self.broken:
            return Answer(Status.UNKNOWN, self.broken)
        if self._expired():
            return Answer(Status.UNKNOWN, "time is up")
        self.checks += 1
        until = time.monotonic() + seconds
        try:
            answer = guarded(
                lambda: self._asked(domain or Domain(), until, extra), self._context.interrupt, seconds, self._expired
            )
        except Interrupted as error:
            return self._cut_off(str(error), remake=True)
        except (Gone, MemoryError) as error:
            return self._cut_off(str(error) or "Z3 ran out of memory", remake=False)
        except self._z3.Z3Exception as error:
            return self._cut_off(f"Z3 failed ({_brief(error)})", remake=True)
        assert isinstance(answer, Answer)
        return answer

    def _cut_off(self, reason: str, remake: bool) -> Answer:
        self._ready = False
        self.remakes += 1
        if not remake or self.remakes > MOST_REMAKES:
            self.broken = reason
        return Answer(Status.UNKNOWN, reason)

    def add(self, conditions: Iterable[Condition]) -> None:
        """More that must hold, from the next call on."""
        self._added.extend(conditions)

    def _asked(self, domain: Domain, until: float, extra: Sequence[Condition]) -> Answer:
        """The call itself, in the guard's thread."""
        if not self._ready or len(self._ends) > MOST_ENDS:
            self._make()
        for condition in self._added[self._known :]:
            self._solver.add(self._condition(condition))
        self._known = len(self._added)
        assumed = self._assume(domain)
        left = until - time.monotonic()
        self._solver.set("timeout", int(min(max(1.0, left * 1000), 2.0**31 - 1)))
        if not extra:
            return self._checked(assumed)
        self._solver.push()
        for condition in extra:
            self._solver.add(self._condition(condition))
        answer = self._checked(assumed)
        self._solver.pop()
        return answer

    def _checked(self, assumed: Mapping[int, tuple[Anything, Part]]) -> Answer:
        z3 = self._z3
        found = self._solver.check(*[literal for literal, _ in assumed.values()])
        if found == z3.unsat:
            core = [assumed[literal.get_id()][1] for literal in self._solver.unsat_core()]
            return Answer(Status.UNSAT, core=_clause(core))
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

    # -- saying it in Z3's terms ----------------------------------------------------------------------

    def _make(self) -> None:
        z3 = self._z3
        solver = z3.Solver(ctx=self._context)
        solver.set("random_seed", self.settings.seed)
        solver.set("max_memory", self.settings.memory)
        kind = self.settings.arithmetic
        if kind is None and not self.encoding.formula.products:
            kind = 2
        if kind is not None:
            solver.set("arith.solver", kind)
        self._solver = solver
        self._phases: dict[Key, dict[int, Anything]] = {}
        self._ends: dict[tuple[int, bool, float], Anything] = {}
        self._names = [self._variable(v, i) for i, v in enumerate(self.encoding.formula.variables)]
        self._assert_all()
        self._known = 0
        self._ready = True

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

    def _assume(self, domain: Domain) -> dict[int, tuple[Anything, Part]]:
        """Literals of a domain, by Z3's number of them, each with what it says."""
        z3 = self._z3
        made: dict[int, tuple[Anything, Part]] = {}
        for end in self._bounds(domain):
            literal = self._end(*end)
            made[literal.get_id()] = literal, ("bound", end)
        for key, phase in domain.phases.items():
            known = self._phases.get(key)
            if known is None:
                continue  # the element has one phase in the whole box
            if phase in known:
                literal = known[phase]
            else:
                literal = z3.Bool(f"never:{key[0]}[{key[1]}]:{phase}", self._context)
                self._solver.add(z3.Not(literal))
            made[literal.get_id()] = literal, ("phase", (key, phase))
        return made

    def _end(self, number: int, over: bool, value: float) -> Anything:
        """A literal that stands for an end of an input."""
        z3 = self._z3
        if (number, over, value) not in self._ends:
            literal = z3.Bool(f"end{len(self._ends)}", self._context)
            v = f.variable(self.encoding.inputs[number])
            form = v.shifted(-Fraction(value)) if over else (v * Fraction(-1)).shifted(Fraction(value))
            self._solver.add(z3.Implies(literal, self._comparison(Comparison(form, "<="))))
            self._ends[number, over, value] = literal
        return self._ends[number, over, value]

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


def _clause(parts: Iterable[Part]) -> Clause:
    named = list(parts)
    return Clause(
        frozenset(what for kind, what in named if kind == "bound"),
        frozenset(what for kind, what in named if kind == "phase"),
    )


def _brief(error: object) -> str:
    text = error.decode(errors="replace") if isinstance(error, bytes) else str(error)
    return " ".join(text.split())[:120]


__all__ = ["Answer", "Clause", "Domain", "Settings", "SmtSolver", "Status"]
