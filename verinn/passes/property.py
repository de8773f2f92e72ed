"""From a query to a Property: cases of an input box and linear constraints on the outputs.

Everything here rounds outward: what the property admits contains what the query admits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from verinn.errors import Unsupported
from verinn.ir.prop import Case, Property
from verinn.ir.query import Atom, Kind, Query, Relation, Variable
from verinn.passes.dnf import Conjunction, Leaf, NormalForm, normal_form
from verinn.passes.property_boxes import Base, Boxes, close_by_rows, close_witness, make_base, make_boxes
from verinn.passes.property_leaves import LeafTable, RowTable

CAP = 200_000
_EAGER = 256  # so many cases or fewer are built at once
_WIDE = ("real", "float16", "float32", "float64", "bfloat16")


@dataclass(frozen=True)
class Layout:
    """Where the variables are: ``x[slice]`` for inputs, ``y[slice]`` for hidden and outputs."""

    slots: dict[str, tuple[str, slice]]  # "x" or "y", and the part of it
    n: int
    m: int

    def x(self, name: str) -> slice:
        """The part of x that an input variable takes."""
        return self._slot(name, "x")

    def y(self, name: str) -> slice:
        """The part of y that a hidden or output variable takes."""
        return self._slot(name, "y")

    def _slot(self, name: str, part: str) -> slice:
        found, where = self.slots[name]
        if found != part:
            raise KeyError(name)
        return where


def layout(query: Query) -> Layout:
    """Variable names to slices of x (inputs) and y (hidden and outputs), in declaration order."""
    slots: dict[str, tuple[str, slice]] = {}
    sizes = {"x": 0, "y": 0}
    for variable in query.variables:
        part = "x" if variable.kind is Kind.INPUT else "y"
        slots[variable.name] = part, slice(sizes[part], sizes[part] + variable.size)
        sizes[part] += variable.size
    return Layout(slots, sizes["x"], sizes["y"])


@dataclass(frozen=True, eq=False)
class Places:
    """For each scalar id: is it an input, its place in x or y; for each input: float32 rounding."""

    is_input: np.ndarray  # bool (ids,)
    place: np.ndarray  # int64 (ids,)
    single: np.ndarray  # bool (n,): bounds are also met after rounding them to float32
    n: int
    m: int


def scalars(query: Query) -> int:
    """How many scalar ids the query's variables take."""
    return sum(variable.size for variable in query.variables)


def places_of(query: Query, products: int = 0) -> Places:
    """Where all scalars are; ``products`` more ids, after those of the variables, are the last places of y."""
    variables = query.variables
    where = layout(query)
    total = scalars(query)
    is_input = np.zeros(total + products, bool)
    place = np.zeros(total + products, np.int64)
    place[total:] = np.arange(where.m, where.m + products)
    single = np.zeros(where.n, bool)
    for variable in variables:
        ids = slice(variable.start, variable.start + variable.size)
        part, taken = where.slots[variable.name]
        is_input[ids] = part == "x"
        place[ids] = np.arange(taken.start, taken.stop)
        if part == "x":
            single[taken] = variable.dtype not in ("float64",) and variable.dtype in _WIDE
    return Places(is_input, place, single, where.n, where.m + products)


def to_property(query: Query, cap: int = CAP) -> Property:
    """The property of a query; ``Property.cases`` may be built case by case on access.

    Single-variable constraints on inputs become boxes, rounded outward and up to the float32
    rounding of the bounds (the competition compares in float32). Disjuncts over one box are one
    case. Products of variables are further outputs, so that all rows are linear. A disjunctive normal
    form beyond ``cap`` conjunctions is over-approximated: ``Case.exact`` is False and ``limits`` says why. A case whose
    lower bound is above its upper bound is dropped with a warning.

    Raises Unsupported for variables that are not numbers.
    """
    limits = _check_types(query)
    form = normal_form(query.formula, cap, scalars(query))
    places = places_of(query, len(form.products))
    if limits:
        form = replace(form, conjunctions=type(form.conjunctions)(c._replace(exact=False) for c in form.conjunctions))
    builder = _Builder(query, places, form)
    return Property(
        places.n,
        places.m,
        builder.cases(),
        limits=(*limits, *form.limits),
        warnings=(*query.warnings, *builder.warnings),
        products=form.products,
        ties=tuple(_ties(form, places)),
    )


def _ties(form: NormalForm, places: Places) -> Iterator[tuple[int, int]]:
    """Pairs of inputs that the property says are equal, whichever case."""
    for leaf in form.base:
        if isinstance(leaf, Atom) and leaf.relation is Relation.EQ and len(leaf.terms) == 2:
            (one, a), (other, b) = leaf.terms
            if one and other and a == -b and places.is_input[[*one, *other]].all():
                yield int(places.place[one[0]]), int(places.place[other[0]])


def _check_types(query: Query) -> tuple[str, ...]:
    for variable in query.variables:
        if variable.dtype in ("string", "complex64", "complex128"):
            raise Unsupported(f"variable '{variable.name}' is of type {variable.dtype}", file=query.file or None)
    inputs = (variable for variable in query.variables if variable.kind is Kind.INPUT)
    whole = sorted(
        {variable.dtype for variable in inputs if variable.dtype not in _WIDE and "float" not in variable.dtype}
    )
    return (f"inputs of type {', '.join(whole)} are treated as real numbers",) if whole else ()


class _Builder:
    """Groups the conjunctions of a normal form into cases."""

    def __init__(self, query: Query, places: Places, form: NormalForm):
        self.query = query
        self.places = places
        self.form = form
        self.warnings: list[str] = []

    def cases(self) -> Sequence[Case]:
        """All cases whose box is not empty."""
        places, form = self.places, self.form
        table = LeafTable(places.is_input, places.place, places.n, places.m)
        base_leaves = [table.number(leaf) for leaf in form.base]
        leaves = [[table.number(leaf) for leaf in conjunction.leaves()] for conjunction in form.conjunctions]
        found = table.finish()
        base = make_base(found, np.array(base_leaves, np.int64), places.single)
        if base.empty is not None:
            self._warn_empty(1, 1, base.empty)
            return ()
        if not leaves:
            self.warnings.append("the assertions contradict each other: no input can fulfil them")
            return ()
        groups = self._groups(leaves, found.touches_input)
        boxes = make_boxes(found, [np.array(key, np.int64) for key in groups], base, places.single)
        merged = self._merge(groups, boxes)
        plans = [
            _Plan(number, np.array(key, np.int64), tuple(np.array(leaves[i], np.int64) for i in members), exact)
            for (number, key, exact), members in merged.items()
        ]
        dropped = int(boxes.empty.sum())
        if dropped:
            self._warn_empty(dropped, len(boxes.empty), int(boxes.first_empty))
        cases = Cases(base, boxes, found.rows, np.array(base_leaves, np.int64), tuple(plans))
        return tuple(cases) if len(cases) <= _EAGER else cases

    def _groups(self, leaves: list[list[int]], touches_input: np.ndarray) -> dict[tuple[int, ...], list[int]]:
        """Conjunctions by the leaves that restrict the input."""
        groups: dict[tuple[int, ...], list[int]] = {}
        touches = touches_input.tolist()
        for i, numbers in enumerate(leaves):
            groups.setdefault(tuple([leaf for leaf in numbers if touches[leaf]]), []).append(i)
        return groups

    def _merge(
        self, groups: dict[tuple[int, ...], list[int]], boxes: Boxes
    ) -> dict[tuple[int, tuple[int, ...], bool], list[int]]:
        """Groups of equal content together: (box, leaves with input rows, exact) to conjunctions."""
        seen: dict[object, int] = {}
        merged: dict[tuple[int, tuple[int, ...], bool], list[int]] = {}
        conjunctions = list(self.form.conjunctions)
        for number, (key, members) in enumerate(groups.items()):
            if boxes.empty[number]:
                continue
            rows = tuple(leaf for leaf in key if boxes.has_rows[leaf])
            first = seen.setdefault((boxes.content(number), rows), number)
            for member in members:
                merged.setdefault((first, rows, conjunctions[member].exact), []).append(member)
        return merged

    def _warn_empty(self, dropped: int, total: int, place: int) -> None:
        name = element_name(self.query, place)
        what = "the property is" if total == 1 else f"{dropped} of {total} input boxes are"
        self.warnings.append(f"{what} empty: lower bound above upper bound of {name}")


def element_name(query: Query, place: int) -> str:
    """How the file writes the input at ``place`` of x: X_3 or X[0,3]."""
    for variable in query.variables:
        if variable.kind is Kind.INPUT:
            if place < variable.size:
                return _element(query.version, variable, place)
            place -= variable.size
    raise IndexError(place)


def _element(version: str, variable: Variable, offset: int) -> str:
    if version == "1.0":
        return f"{variable.name}_{offset}"
    index = np.unravel_index(offset, variable.shape) if variable.shape else ()
    return f"{variable.name}[{','.join(str(int(i)) for i in index)}]" if variable.shape else variable.name


@dataclass(frozen=True, eq=False)
class _Plan:
    """What a case consists of: its box, and leaf numbers."""

    box: int
    input_leaves: np.ndarray
    conjunctions: tuple[np.ndarray, ...]
    exact: bool


@dataclass(frozen=True, eq=False)
class Cases(Sequence[Case]):
    """The cases of a property, each built when asked for (dense boxes of all may not fit in memory)."""

    base: Base
    boxes: Boxes
    rows: RowTable
    base_leaves: np.ndarray
    plans: tuple[_Plan, ...]

    def __len__(self) -> int:
        return len(self.plans)

    @overload
    def __getitem__(self, which: int) -> Case: ...
    @overload
    def __getitem__(self, which: slice) -> tuple[Case, ...]: ...
    def __getitem__(self, which: int | slice) -> Case | tuple[Case, ...]:
        if isinstance(which, slice):
            return tuple(self._build(plan) for plan in self.plans[which])
        return self._build(self.plans[which])

    def __iter__(self) -> Iterator[Case]:
        return map(self._build, self.plans)

    def _build(self, plan: _Plan) -> Case:
        (lower, upper, witness_lower, witness_upper), near = self.boxes.dense(plan.box, self.base)
        base = self.base_leaves
        input_rows = self.rows.take(np.concatenate([base, plan.input_leaves]), inputs=True)
        closed_lower, closed_upper = close_by_rows(lower, upper, input_rows)
        if closed_lower is not lower:
            witness_lower, witness_upper = close_witness(closed_lower, closed_upper, witness_lower, witness_upper)
        lower, upper = closed_lower, closed_upper
        conjunctions = self.rows.split(base, plan.conjunctions)
        decimal = np.maximum(np.nextafter(near[0], -np.inf), lower), np.minimum(np.nextafter(near[1], np.inf), upper)
        return Case(lower, upper, witness_lower, witness_upper, input_rows, conjunctions, plan.exact, *decimal)


__all__ = [
    "CAP",
    "Cases",
    "Conjunction",
    "Layout",
    "Leaf",
    "Places",
    "element_name",
    "layout",
    "places_of",
    "to_property",
]
