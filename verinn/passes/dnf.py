"""Disjunctive normal form of a query's formula, capped, without recursion.

A conjunction is kept as a rope: None, a leaf, or a pair of ropes. A product of conjunctions is then
one pair, and shares its parts with all the others.

Products of variables become variables of their own: a polynomial atom is a linear one over them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from verinn.ir.query import And, Atom, Bounds, Formula, Or, Relation

Leaf = Atom | Bounds
Monomial = tuple[int, ...]
Rope = Any  # None | Leaf | tuple[Rope, Rope]

LARGE = "the disjunctive normal form is larger than {cap} conjunctions; some disjunctions are left out"
NONLINEAR = "the property has more than {most} different products of variables; some are left out"
#: different products of variables that are kept
MOST_PRODUCTS = 20_000


class Conjunction(NamedTuple):
    """Leaves that must all hold; ``exact`` is False when further constraints were left out."""

    rope: Rope
    exact: bool

    def leaves(self) -> Iterator[Leaf]:
        """The leaves in the order of the file."""
        stack = [self.rope]
        while stack:
            top = stack.pop()
            if isinstance(top, tuple):
                stack.append(top[1])
                stack.append(top[0])
            elif top is not None:
                yield top


Conjunctions = deque[Conjunction]


@dataclass
class _Budget:
    """How many conjunctions may stand side by side, how many may be made in all, and the products so far."""

    cap: int
    work: int
    scalars: int
    limits: dict[str, None] = field(default_factory=dict)
    products: dict[Monomial, int] = field(default_factory=dict)  # to scalar ids

    def scalar(self, monomial: Monomial) -> int:
        """The scalar id that stands for a product."""
        return self.products.setdefault(monomial, self.scalars + len(self.products))


@dataclass(frozen=True)
class NormalForm:
    """``base`` leaves that hold in all cases, and the conjunctions of which one must hold besides.

    ``products``: sorted scalar ids of the factors of what the scalar ids from ``scalars`` on stand for.
    """

    base: tuple[Leaf, ...]
    conjunctions: Conjunctions
    limits: tuple[str, ...]
    products: tuple[Monomial, ...] = ()


def normal_form(formula: Formula, cap: int, scalars: int) -> NormalForm:
    """The normal form of ``formula`` over ``scalars`` ids. Constant atoms are folded, `!=` is split, `==` stays a leaf.

    A product of variables becomes a scalar with an id from ``scalars`` on, so all atoms are linear.
    Where a product of disjunctions exceeds ``cap`` conjunctions a factor is left out, and so are
    atoms beyond MOST_PRODUCTS products of variables: the result admits more, its conjunctions are not
    ``exact``, and ``limits`` says so. A disjunct is never left out. A formula that is written as a disjunction of
    more than ``cap`` parts is kept, since it is no larger than the file.
    """
    budget = _Budget(cap, 10 * cap, scalars)
    base: list[Leaf] = []
    product: Conjunctions = deque([Conjunction(None, True)])
    for part in _conjuncts(formula):
        for found in [_expand(part, budget)]:
            if len(found) == 1 and isinstance(part, Atom | Bounds) and found[0].exact:
                base.extend(found[0].leaves())
            else:
                product = _product(product, found, budget)
    limits = tuple(text.format(cap=cap, most=MOST_PRODUCTS) for text in budget.limits)
    return NormalForm(tuple(base), product, limits, tuple(budget.products))


def _conjuncts(formula: Formula) -> Iterator[Formula]:
    """The parts of nested Ands at the top, in order."""
    stack = [formula]
    while stack:
        top = stack.pop()
        if isinstance(top, And):
            stack.extend(reversed(top.parts))
        else:
            yield top


def _expand(formula: Formula, budget: _Budget) -> Conjunctions:
    """The conjunctions of a formula, by a post-order walk with a stack of its own."""
    todo: list[tuple[Formula, bool]] = [(formula, False)]
    done: list[Conjunctions] = []
    while todo:
        node, children_done = todo.pop()
        if isinstance(node, Atom | Bounds):
            done.append(_leaf(node, budget))
        elif not children_done:
            todo.append((node, True))
            todo.extend((part, False) for part in reversed(node.parts))
        else:
            parts = done[-len(node.parts) :]
            del done[-len(node.parts) :]
            done.append(_sum(parts) if isinstance(node, Or) else _product_of_all(parts, budget))
    return done[0]


def _leaf(leaf: Leaf, budget: _Budget) -> Conjunctions:
    if isinstance(leaf, Bounds):
        return deque([Conjunction(leaf, True)])
    if max((len(monomial) for monomial, _ in leaf.terms), default=0) > 1:
        if len(budget.products) + len(leaf.terms) > MOST_PRODUCTS:
            budget.limits.setdefault(NONLINEAR)
            return deque([Conjunction(None, False)])
        leaf = _linear(leaf, budget)
    if all(not monomial for monomial, _ in leaf.terms):
        return deque([Conjunction(None, True)] if _constant_holds(leaf) else [])
    if leaf.relation is Relation.NE:
        less = Atom(leaf.terms, Relation.LT)
        more = Atom(tuple((monomial, -value) for monomial, value in leaf.terms), Relation.LT)
        return deque([Conjunction(less, True), Conjunction(more, True)])
    return deque([Conjunction(leaf, True)])


def _linear(atom: Atom, budget: _Budget) -> Atom:
    """The same atom over products as scalars."""
    terms = [(m if len(m) < 2 else (budget.scalar(m),), value) for m, value in atom.terms]
    return Atom(tuple(sorted(terms)), atom.relation)


def _constant_holds(atom: Atom) -> bool:
    value = sum(value for _, value in atom.terms)
    holds = {
        Relation.LE: value <= 0,
        Relation.LT: value < 0,
        Relation.EQ: value == 0,
        Relation.NE: value != 0,
    }
    return holds[atom.relation]


def _sum(parts: list[Conjunctions]) -> Conjunctions:
    """All conjunctions one after the other; the largest part is extended at both ends."""
    middle = max(range(len(parts)), key=lambda i: len(parts[i]))
    result = parts[middle]
    for part in reversed(parts[:middle]):
        result.extendleft(reversed(part))
    for part in parts[middle + 1 :]:
        result.extend(part)
    return result


def _product_of_all(parts: list[Conjunctions], budget: _Budget) -> Conjunctions:
    result = parts[0]
    for part in parts[1:]:
        result = _product(result, part, budget)
    return result


def _product(left: Conjunctions, right: Conjunctions, budget: _Budget) -> Conjunctions:
    """Each conjunction of the one with each of the other, or less when that is too many."""
    if not left or not right:
        return deque()
    size = len(left) * len(right)
    if size > 1:
        if len(left) == 1 and left[0].rope is None and left[0].exact:
            return right
        if len(right) == 1 and right[0].rope is None and right[0].exact:
            return left
        too_many = len(left) > 1 and len(right) > 1 and size > budget.cap
        if too_many or budget.work < 0:
            budget.limits.setdefault(LARGE)
            kept = left if len(left) <= len(right) else right
            return deque(Conjunction(one.rope, False) for one in kept)
        budget.work -= size
    return deque(Conjunction(_join(a.rope, b.rope), a.exact and b.exact) for a in left for b in right)


def _join(left: Rope, right: Rope) -> Rope:
    if left is None:
        return right
    if right is None:
        return left
    return (left, right)
