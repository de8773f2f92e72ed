"""Inputs that the property says are equal become one input, and nodes that compute the same become one node.

So two networks that see the same input see the very same value, whatever is lost in bounding it: a
difference of their outputs is bounded as a function of one input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np

from verinn.ir.graph import Const, Graph, Input, Node, frozen
from verinn.ir.prop import Case, Property, Rows, SparseMatrix
from verinn.passes.simplify import drop_identities


def representatives(ties: Sequence[tuple[int, int]], n: int) -> np.ndarray:
    """For each of n inputs the first that it is equal to, by pairs of equal ones: int64 (n,)."""
    first = list(range(n))

    def root(place: int) -> int:
        while first[place] != place:
            first[place] = first[first[place]]
            place = first[place]
        return place

    for one, other in ties:
        a, b = sorted((root(one), root(other)))
        first[b] = a
    return np.array([root(place) for place in range(n)], np.int64)


def merge_inputs(graph: Graph, prop: Property) -> tuple[Graph, Property, np.ndarray]:
    """Graph and property over one input for each group of equal ones, and where the old inputs are now (n,)."""
    first = representatives(prop.ties, prop.n)
    kept = np.flatnonzero(first == np.arange(prop.n))
    index = np.searchsorted(kept, first)
    if len(kept) == prop.n:
        return graph, prop, index
    if not all(case.exact for case in prop.cases):  # then the whole query is asked, which knows all inputs
        return graph, replace(prop, ties=()), np.arange(prop.n)
    every = Merged(prop.cases, kept, index, range(len(prop.cases)))
    some = [which for which, case in enumerate(every) if not (case.lower > case.upper).any()]
    cases = replace(every, which=some)
    return drop_identities(_merged_graph(graph, first)), replace(prop, n=len(kept), cases=cases, ties=()), index


def _merged_graph(graph: Graph, first: np.ndarray) -> Graph:
    """Readers of an input with elements that are others' read a value made of those."""
    inputs: list[Input] = []
    nodes: list[Node] = []
    flat: list[str] = []  # the inputs kept so far, flattened
    whole: dict[tuple[int, int], str] = {}  # inputs that stay as they are, by start and size
    count = start = 0
    alias: dict[str, str] = {}
    kept = np.flatnonzero(first == np.arange(len(first)))
    for value in graph.inputs:
        size = int(np.prod(value.shape, dtype=np.int64))
        mine = first[start : start + size]
        own = int((mine == np.arange(start, start + size)).sum())
        if own:
            name = value.name if own == size else f"{value.name}*"
            inputs.append(value if own == size else Input(name, (own,), value.dtype))
            flat.append(f"{name}*flat")
            nodes.append(Node(flat[-1], "reshape", (name,), (own,), source="the property"))
            count += own
        if own == size:
            whole[start, size] = value.name
        else:
            joined, picked, alias[value.name] = f"{value.name}*all", f"{value.name}*flat*", f"{value.name}*value"
            twin = whole.get((int(mine[0]), size)) if (np.diff(mine) == 1).all() else None
            if twin is None:
                places = frozen({"axis": 0, "indices": tuple(np.searchsorted(kept, mine).tolist())})
                nodes.append(Node(joined, "concat", tuple(flat), (count,), frozen({"axis": 0})))
                nodes.append(Node(picked, "gather", (joined,), (size,), places))
            nodes.append(Node(alias[value.name], "reshape", (twin or picked,), value.shape))
        start += size
    for node in graph.nodes:
        nodes.append(replace(node, inputs=tuple(alias.get(name, name) for name in node.inputs)))
    outputs = tuple(replace(out, value=alias.get(out.value, out.value)) for out in graph.outputs)
    return Graph(tuple(inputs), tuple(nodes), outputs)


@dataclass(frozen=True, eq=False)
class Merged(Sequence[Case]):
    """Some of the cases, over merged inputs, each made when asked for."""

    cases: Sequence[Case]
    kept: np.ndarray
    target: np.ndarray
    which: Sequence[int]

    def __len__(self) -> int:
        return len(self.which)

    @overload
    def __getitem__(self, which: int) -> Case: ...
    @overload
    def __getitem__(self, which: slice) -> tuple[Case, ...]: ...
    def __getitem__(self, which: int | slice) -> Case | tuple[Case, ...]:
        if isinstance(which, slice):
            return tuple(self._merged(self.cases[i]) for i in self.which[which])
        return self._merged(self.cases[self.which[which]])

    def __iter__(self) -> Iterator[Case]:
        return (self._merged(self.cases[i]) for i in self.which)

    def _merged(self, case: Case) -> Case:
        decimal = case.decimal_lower, case.decimal_upper
        return replace(
            case,
            decimal_lower=None if decimal[0] is None else self._met(np.maximum, decimal[0]),
            decimal_upper=None if decimal[1] is None else self._met(np.minimum, decimal[1]),
            lower=self._met(np.maximum, case.lower),
            upper=self._met(np.minimum, case.upper),
            witness_lower=self._met(np.maximum, case.witness_lower),
            witness_upper=self._met(np.minimum, case.witness_upper),
            input_rows=_without_ties(self._rows(case.input_rows)),
            conjunctions=tuple(map(self._rows, case.conjunctions)),
        )

    def _met(self, meet: np.ufunc, bounds: np.ndarray) -> np.ndarray:
        result: np.ndarray = bounds[self.kept].copy()
        meet.at(result, self.target, bounds)
        return result

    def _rows(self, rows: Rows) -> Rows:
        error = rows.x_error if rows.x_error is None else self._matrix(rows.x_error)
        return replace(rows, x=self._matrix(rows.x), x_error=error)

    def _matrix(self, matrix: SparseMatrix) -> SparseMatrix:
        return SparseMatrix(matrix.indptr, self.target[matrix.index], matrix.value, len(self.kept))


def _without_ties(rows: Rows) -> Rows:
    """Without rows that say x − x ≤ 0."""
    if not len(rows):
        return rows
    errors = np.zeros(len(rows)) if rows.x_error is None else rows.x_error.dense().sum(1)
    empty = ~rows.x.dense().any(1) & (errors == 0) & (rows.rhs >= 0) & ~rows.strict
    if not empty.any():
        return rows
    left = np.flatnonzero(~empty)

    def some(matrix: SparseMatrix) -> SparseMatrix:
        parts = [np.arange(matrix.indptr[i], matrix.indptr[i + 1]) for i in left]
        entries = np.concatenate([np.zeros(0, np.int64), *parts])
        indptr = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        return SparseMatrix(indptr, matrix.index[entries], matrix.value[entries], matrix.width)

    x_error = rows.x_error if rows.x_error is None else some(rows.x_error)
    y_error = rows.y_error if rows.y_error is None else some(rows.y_error)
    return Rows(some(rows.x), some(rows.y), rows.rhs[left], rows.strict[left], x_error, y_error)


def share_nodes(graph: Graph) -> Graph:
    """The same function with one node for all that compute the same from the same (value numbering).

    Parameters are the same when their numbers are, so networks of the same weights share.
    """
    names: dict[str, str] = {}
    found: dict[tuple[Any, ...], str] = {}
    digests: dict[int, bytes] = {}
    nodes = []
    for node in graph.nodes:
        inputs = tuple(names.get(name, name) for name in node.inputs)
        attrs = tuple(sorted((name, repr(value)) for name, value in node.attrs.items()))
        params = tuple(sorted((name, _digest(const, digests)) for name, const in node.params.items()))
        known = found.setdefault((node.op, inputs, node.shape, attrs, params), node.name)
        if known == node.name:
            nodes.append(replace(node, inputs=inputs))
        else:
            names[node.name] = known
    outputs = tuple(replace(out, value=names.get(out.value, out.value)) for out in graph.outputs)
    return Graph(graph.inputs, tuple(nodes), outputs)


def _digest(const: Const, known: dict[int, bytes]) -> bytes:
    if id(const) not in known:
        made = hashlib.sha256(repr((const.value.dtype.str, const.shape)).encode())
        made.update(const.value.tobytes())
        if const.error is not None:
            made.update(const.error.tobytes())
        known[id(const)] = made.digest()
    return known[id(const)]
