"""A formula in the making: variables, definitions, products, and what is known of ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from verinn.exact.encoding.formula import (
    ONE,
    Choice,
    Comparison,
    Condition,
    Curve,
    Form,
    Formula,
    Product,
    Range,
    Variable,
    equal,
    mixed,
    variable,
)
from verinn.exact.rational import TooLarge

#: variables of one formula
MOST_VARIABLES = 60_000


@dataclass(eq=False)
class Builder:
    """Collects the parts of a formula. Only the encoder writes to one."""

    variables: list[Variable] = field(default_factory=list)
    facts: list[Comparison] = field(default_factory=list)
    weak: list[Comparison] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)

    def formula(self) -> Formula:
        return Formula(
            tuple(self.variables),
            tuple(self.facts),
            tuple(self.weak),
            tuple(self.choices),
            tuple(self.conditions),
            tuple(self.products),
            tuple(self.curves),
        )

    def fresh(self, name: str, ends: Range = (None, None), integer: bool = False) -> Form:
        """A new variable. Raises TooLarge."""
        if len(self.variables) >= MOST_VARIABLES:
            raise TooLarge("the network is too large for an exact formula")
        self.variables.append(Variable(name, *ends, integer))
        return variable(len(self.variables) - 1)

    def define(self, name: str, form: Form, ends: Range = (None, None)) -> Form:
        """The form as one variable: a fresh one that equals it, unless it is one already."""
        if form.single and not form.constant:
            return form
        made = self.fresh(name, ends)
        self.facts.append(equal(made, form))
        return made

    def range_of(self, form: Form) -> Range:
        """Ends of a form, from those of its variables."""
        low: Fraction | None = form.const
        high: Fraction | None = form.const
        for v, c in form.terms.items():
            known = self.variables[v]
            least, most = (known.lower, known.upper) if c > 0 else (known.upper, known.lower)
            low = None if low is None or least is None else low + c * least
            high = None if high is None or most is None else high + c * most
        return low, high

    def product(self, name: str, left: Form, right: Form, ends: Range = (None, None)) -> Form:
        """left · right as a form: a scaled one where either is a number, else a fresh variable."""
        if left.constant:
            return right * left.const
        if right.constant:
            return left * right.const
        same = left == right
        a = self.define(f"{name}.l", left, self.range_of(left))
        b = a if same else self.define(f"{name}.r", right, self.range_of(right))
        (u,), (v,) = a.terms, b.terms
        same = u == v
        made = self.fresh(name, meet(ends, _product_range(self.range_of(a), self.range_of(b), same)))
        (r,) = made.terms
        self.products.append(Product(r, u, v))
        self.weak.extend(_envelope(made, a, b, self.range_of(a), self.range_of(b), same))
        return made

    def choose(self, name: str, element: int, pieces: Sequence[tuple[int, tuple[Comparison, ...]]]) -> None:
        """One of the pieces (phase, comparisons) holds."""
        self.choices.append(Choice((name, element), tuple(k for k, _ in pieces), tuple(p for _, p in pieces)))


def meet(one: Range, other: Range) -> Range:
    lows = [end for end in (one[0], other[0]) if end is not None]
    highs = [end for end in (one[1], other[1]) if end is not None]
    return (max(lows) if lows else None), (min(highs) if highs else None)


def _product_range(a: Range, b: Range, same: bool) -> Range:
    if None in a or None in b:
        return (Fraction(0), None) if same else (None, None)
    corners = [x * y for x in a for y in b if x is not None and y is not None]
    if not same:
        return min(corners), max(corners)
    low, high = a
    assert low is not None and high is not None
    inside = low <= 0 <= high
    return (Fraction(0) if inside else min(low * low, high * high)), max(low * low, high * high)


def _envelope(p: Form, a: Form, b: Form, ra: Range, rb: Range, same: bool) -> list[Comparison]:
    """Planes around p = a·b over ranges (McCormick, Mathematical Programming 1976); tangents of a square."""
    (la, ua), (lb, ub) = ra, rb
    if la is None or ua is None or lb is None or ub is None:
        return []

    def plane(x: Fraction, y: Fraction, sign: int) -> Comparison:
        # (a − x)(b − y) has this sign in the corner: p − y·a − x·b + x·y is ≥ 0 or ≤ 0
        form = mixed([(ONE, p), (-y, a), (-x, b)], x * y)
        return Comparison(form * Fraction(-sign), "<=")

    if same:
        middle = (la + ua) / 2
        return [plane(la, la, 1), plane(ua, ua, 1), plane(middle, middle, 1), plane(la, ua, -1)]
    return [plane(la, lb, 1), plane(ua, ub, 1), plane(la, ub, -1), plane(ua, lb, -1)]
