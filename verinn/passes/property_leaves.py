"""The leaves of a formula as tables: bounds on single inputs, and rows of linear constraints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verinn.ir.prop import Rows, SparseMatrix
from verinn.ir.query import Atom, Bounds, Relation
from verinn.passes.dnf import Leaf


def certain(bounds: Bounds) -> np.ndarray:
    """Which decimals are exactly their float64 value, bool (k,): sure only for short ones.

    A decimal of at most 15 digits whose nearest float64 v has v·1024 whole and |v| < 10⁴, or v whole
    below 2⁵³, is v: two decimals that short never share a float64, and v itself is that short.
    """
    value = bounds.value
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = value * 1024.0
        short = (np.abs(value) < 1e4) & (scaled == np.floor(scaled))
        short |= (np.abs(value) < 1e15) & (value == np.floor(value))
    if bounds.text is not None and short.any():
        width = bounds.text.dtype.itemsize
        characters = np.ascontiguousarray(bounds.text).view(np.uint8).reshape(-1, width)
        exponent = ((characters == ord("e")) | (characters == ord("E"))).any(axis=1)
        short &= ~exponent & (np.count_nonzero(characters, axis=1) <= 16)
    return short


def decimal(bounds: Bounds, k: int) -> Fraction:
    """The k-th number of ``bounds`` exactly as written."""
    if bounds.text is not None:
        return Fraction(bounds.text[k].decode())
    return Fraction(repr(float(bounds.value[k])))


def nearest(value: Fraction) -> float:
    """The float64 nearest to ``value``; the largest one (with its sign) beyond its range."""
    try:
        return float(value)
    except OverflowError:
        return math.copysign(float(np.finfo(np.float64).max), value)


def round_up(value: Fraction) -> float:
    """The smallest float64 that is not below ``value``; infinity beyond the range."""
    number = nearest(value)
    return number if Fraction(number) >= value else math.nextafter(number, math.inf)


@dataclass(frozen=True, eq=False)
class BoundTable:
    """Bounds on single inputs, by leaf: those of leaf i are start[i]:start[i+1]."""

    start: np.ndarray  # int64 (leaves + 1,)
    place: np.ndarray  # int64 (k,) in x
    upper: np.ndarray  # bool (k,)
    strict: np.ndarray  # bool (k,)
    value: np.ndarray  # float64 (k,) nearest
    certain: np.ndarray  # bool (k,): the value is exact

    def of(self, leaves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The entries of the given leaves one after the other, and how many each leaf has."""
        return ragged(self.start, leaves)


def ragged(start: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The concatenation of the ranges start[i]:start[i+1] for i in ``which``, and their lengths."""
    first = start[which]
    length = start[which + 1] - first
    total = int(length.sum())
    if not total:
        return np.zeros(0, np.int64), length
    shift = np.repeat(first - np.concatenate([[0], np.cumsum(length)[:-1]]), length)
    return np.arange(total) + shift, length


@dataclass(frozen=True, eq=False)
class RowTable:
    """Linear constraints P x + Q y ≤ rhs of all leaves: those of leaf i are rows start[i]:start[i+1]."""

    start: np.ndarray  # int64 (leaves + 1,)
    rows: Rows
    on_inputs: np.ndarray  # bool (rows,): no output occurs

    def take(self, leaves: np.ndarray, inputs: bool) -> Rows:
        """The rows of the given leaves, in that order: those on inputs only, or the others."""
        which, _ = ragged(self.start, leaves)
        which = which[self.on_inputs[which] == inputs]
        rows = self.rows
        x_error = None if rows.x_error is None else _select(rows.x_error, which)
        y_error = None if rows.y_error is None else _select(rows.y_error, which)
        return Rows(
            _select(rows.x, which),
            _select(rows.y, which),
            rows.rhs[which],
            rows.strict[which],
            x_error if x_error is not None and x_error.value.any() else None,
            y_error if y_error is not None and y_error.value.any() else None,
        )


def _select(matrix: SparseMatrix, which: np.ndarray) -> SparseMatrix:
    entries, length = ragged(matrix.indptr, which)
    indptr = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    return SparseMatrix(indptr, matrix.index[entries], matrix.value[entries], matrix.width)


@dataclass(frozen=True, eq=False)
class Leaves:
    """All leaves as tables."""

    bounds: BoundTable
    rows: RowTable
    touches_input: np.ndarray  # bool (leaves,): it bounds an input, or has rows on inputs
    has_input_rows: np.ndarray  # bool (leaves,)


@dataclass
class _Rows:
    """Rows of atoms, being collected: entries as (leaf, strict, rhs, x entries, y entries)."""

    leaf: int
    strict: bool
    rhs: float
    x: list[tuple[int, float, float]]
    y: list[tuple[int, float, float]]


class LeafTable:
    """Numbers the leaves as they come, then turns all of them into tables at once."""

    def __init__(self, is_input: np.ndarray, place: np.ndarray, n: int, m: int):
        self.is_input = is_input
        self.place = place
        self.n = n
        self.m = m
        self.leaves: list[Leaf] = []
        self.numbers: dict[int, int] = {}

    def number(self, leaf: Leaf) -> int:
        """The number of a leaf; the same object has the same number."""
        known = self.numbers.setdefault(id(leaf), len(self.leaves))
        if known == len(self.leaves):
            self.leaves.append(leaf)
        return known

    def finish(self) -> Leaves:
        """The tables of all leaves numbered so far."""
        where, index, upper, value, exact = self._bounds()
        on_x = self.is_input[index]
        place = self.place[index]
        boxes: list[tuple[int, int, bool, bool, float, bool]] = []
        rows: list[_Rows] = []
        for i, leaf in enumerate(self.leaves):
            if isinstance(leaf, Atom):
                self._atom(i, leaf, boxes, rows)
        bounds = self._bound_table(where[on_x], place[on_x], upper[on_x], value[on_x], exact[on_x], boxes)
        off = ~on_x
        table = self._row_table(where[off], place[off], upper[off], value[off], exact[off], rows)
        has_rows = np.zeros(len(self.leaves), bool)
        owner = np.repeat(np.arange(len(self.leaves)), np.diff(table.start))
        has_rows[owner[table.on_inputs]] = True
        return Leaves(bounds, table, has_rows | (np.diff(bounds.start) > 0), has_rows)

    def _bounds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All Bounds leaves in one: leaf number, scalar id, upper, value, exact, each (k,)."""
        found = [(i, leaf) for i, leaf in enumerate(self.leaves) if isinstance(leaf, Bounds)]
        lengths = np.array([len(leaf.index) for _, leaf in found], np.int64)
        where = np.repeat(np.array([i for i, _ in found], np.int64), lengths)
        if not found:
            none = np.zeros(0, bool)
            return where, np.zeros(0, np.int64), none, np.zeros(0), none
        texts = [leaf.text for _, leaf in found if leaf.text is not None]
        whole = Bounds(
            np.concatenate([leaf.index for _, leaf in found]),
            np.concatenate([leaf.upper for _, leaf in found]),
            np.concatenate([leaf.value for _, leaf in found]),
            np.concatenate(texts) if len(texts) == len(found) else None,
        )
        if texts and len(texts) < len(found):
            exact = np.concatenate([certain(leaf) for _, leaf in found])
        else:
            exact = certain(whole)
        return where, whole.index, whole.upper, whole.value, exact

    def _atom(
        self, number: int, atom: Atom, boxes: list[tuple[int, int, bool, bool, float, bool]], rows: list[_Rows]
    ) -> None:
        """Files a linear atom as bounds on one input, or as rows."""
        constant = sum((value for monomial, value in atom.terms if not monomial), Fraction(0))
        terms = [(monomial[0], value) for monomial, value in atom.terms if monomial]
        strict = atom.relation is Relation.LT
        both = atom.relation is Relation.EQ
        if len(terms) == 1 and self.is_input[terms[0][0]]:
            scalar, factor = terms[0]
            bound = -constant / factor
            number64 = nearest(bound)
            exact = Fraction(number64) == bound
            place = int(self.place[scalar])
            for upper in (True, False) if both else (factor > 0,):
                boxes.append((number, place, upper, strict, number64, exact))
            return
        rows.append(self._row(number, strict, terms, -constant))
        if both:
            rows.append(self._row(number, strict, [(scalar, -value) for scalar, value in terms], constant))

    def _row(self, leaf: int, strict: bool, terms: list[tuple[int, Fraction]], rhs: Fraction) -> _Rows:
        """Σ value·z ≤ rhs in float64 with the errors; huge and tiny rows are scaled by a power of two."""
        largest = max(abs(value) for _, value in terms)
        exponent = largest.numerator.bit_length() - largest.denominator.bit_length()
        if abs(exponent) > 900:
            scale = Fraction(2) ** -exponent
            terms = [(scalar, value * scale) for scalar, value in terms]
            rhs *= scale
        x: list[tuple[int, float, float]] = []
        y: list[tuple[int, float, float]] = []
        for scalar, value in terms:
            number = nearest(value)
            error = round_up(abs(value - Fraction(number)))
            (x if self.is_input[scalar] else y).append((int(self.place[scalar]), number, error))
        return _Rows(leaf, strict, round_up(rhs), x, y)

    def _bound_table(
        self,
        where: np.ndarray,
        place: np.ndarray,
        upper: np.ndarray,
        value: np.ndarray,
        exact: np.ndarray,
        boxes: list[tuple[int, int, bool, bool, float, bool]],
    ) -> BoundTable:
        strict = np.zeros(len(where), bool)
        if boxes:
            columns = list(zip(*boxes, strict=True))
            where = np.concatenate([where, np.array(columns[0], np.int64)])
            place = np.concatenate([place, np.array(columns[1], np.int64)])
            upper = np.concatenate([upper, np.array(columns[2], bool)])
            strict = np.concatenate([strict, np.array(columns[3], bool)])
            value = np.concatenate([value, np.array(columns[4], np.float64)])
            exact = np.concatenate([exact, np.array(columns[5], bool)])
            order = np.argsort(where, kind="stable")
            where, place, upper = where[order], place[order], upper[order]
            strict, value, exact = strict[order], value[order], exact[order]
        start = np.searchsorted(where, np.arange(len(self.leaves) + 1))
        return BoundTable(start, place, upper, strict, value, exact)

    def _row_table(
        self,
        where: np.ndarray,
        place: np.ndarray,
        upper: np.ndarray,
        value: np.ndarray,
        exact: np.ndarray,
        rows: list[_Rows],
    ) -> RowTable:
        """Rows ±y ≤ ±value of bounds on outputs, and the rows of atoms, ordered by leaf."""
        k = len(where)
        sign = np.where(upper, 1.0, -1.0)
        rhs = sign * value
        rhs = np.where(exact, rhs, np.nextafter(rhs, np.inf))
        rhs = np.concatenate([rhs, [row.rhs for row in rows]])
        strict = np.concatenate([np.zeros(k, bool), np.array([row.strict for row in rows], bool)])
        owner = np.concatenate([where, np.array([row.leaf for row in rows], np.int64)])
        none = np.zeros(0, np.int64)
        x, x_error = _matrix(k, none, np.zeros(0), [row.x for row in rows], self.n)
        y, y_error = _matrix(k, place, sign, [row.y for row in rows], self.m)
        on_inputs = np.concatenate([np.zeros(k, bool), np.array([not row.y for row in rows], bool)])
        whole = Rows(x, y, rhs, strict, x_error, y_error)
        start = np.searchsorted(np.sort(owner), np.arange(len(self.leaves) + 1))
        if rows:
            order = np.argsort(owner, kind="stable")
            whole = Rows(
                _select(x, order),
                _select(y, order),
                rhs[order],
                strict[order],
                _select(x_error, order) if x_error is not None else None,
                _select(y_error, order) if y_error is not None else None,
            )
            on_inputs = on_inputs[order]
        return RowTable(start, whole, on_inputs)


def _matrix(
    k: int, index: np.ndarray, value: np.ndarray, rows: list[list[tuple[int, float, float]]], width: int
) -> tuple[SparseMatrix, SparseMatrix | None]:
    """k rows of one entry each (or of none, when ``index`` is empty), then ``rows``; and their errors."""
    each = 1 if len(index) else 0
    lengths = np.concatenate([np.full(k, each, np.int64), np.array([len(row) for row in rows], np.int64)])
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    entries = [entry for row in rows for entry in row]
    index = np.concatenate([index, np.array([entry[0] for entry in entries], np.int64)])
    value = np.concatenate([value, np.array([entry[1] for entry in entries], np.float64)])
    matrix = SparseMatrix(indptr, index, value, width)
    if not any(entry[2] for entry in entries):
        return matrix, None
    error = np.zeros(len(value))
    error[len(value) - len(entries) :] = [entry[2] for entry in entries]
    return matrix, SparseMatrix(indptr, index, error, width)
