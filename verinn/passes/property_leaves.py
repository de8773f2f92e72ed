"""The leaves of a formula as tables: bounds on single inputs, and rows of linear constraints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import numpy as np

from verinn.ir.prop import Rows, SparseMatrix
from verinn.ir.query import Atom, Bounds, Relation
from verinn.passes.dnf import Leaf

_EXACT = 1 << 53  # whole numbers below it are float64 values


UNKNOWN = 2


def side(bounds: Bounds) -> np.ndarray:
    """On which side of its nearest float64 each decimal is, int8 (k,): -1, 0, 1 or UNKNOWN.

    Told without looking at the digits for short decimals: one of at most 15 digits whose nearest
    float64 v has v·1024 whole and |v| < 10⁴, or v whole below 10¹⁵, is v, since two decimals that
    short never share a float64 and v itself is that short. Told from the digits where v is a
    float32 value: there it decides whether that value may be shown as a witness.
    """
    value = bounds.value
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = value * 1024.0
        short = (np.abs(value) < 1e4) & (scaled == np.floor(scaled))
        short |= (np.abs(value) < 1e15) & (value == np.floor(value))
        single = value.astype(np.float32).astype(np.float64) == value
    if bounds.text is not None and short.any():
        width = bounds.text.dtype.itemsize
        characters = np.ascontiguousarray(bounds.text).view(np.uint8).reshape(-1, width)
        exponent = ((characters == ord("e")) | (characters == ord("E"))).any(axis=1)
        short &= ~exponent & (np.count_nonzero(characters, axis=1) <= 16)
    result = np.where(short, 0, UNKNOWN).astype(np.int8)
    which = np.flatnonzero(single & ~short)
    if len(which):
        numbers = value[which].tolist()
        words = map(repr, numbers) if bounds.text is None else map(bytes.decode, bounds.text[which].tolist())
        decimals = map(Decimal, words)
        result[which] = [(d > v) - (d < v) for d, v in zip(decimals, map(Decimal, numbers), strict=True)]
    return result


def decimal(bounds: Bounds, k: int) -> Fraction:
    """The k-th number of ``bounds`` exactly as written."""
    if bounds.text is not None:
        return Fraction(bounds.text[k].decode())
    return Fraction(repr(float(bounds.value[k])))


def single_bound(atom: Atom) -> tuple[int, Fraction, bool]:
    """Of an atom a·z + c REL 0 in one scalar: the scalar, -c/a, and whether it bounds z from above."""
    constant = sum((value for monomial, value in atom.terms if not monomial), Fraction(0))
    scalar, factor = next((monomial[0], value) for monomial, value in atom.terms if monomial)
    return scalar, -constant / factor, factor > 0


def nearest(value: Fraction) -> float:
    """The float64 nearest to ``value``; the largest one (with its sign) beyond its range."""
    try:
        return float(value)
    except OverflowError:
        return math.copysign(float(np.finfo(np.float64).max), value)


def round_up(value: Fraction) -> float:
    """The smallest float64 that is not below ``value``; infinity beyond the range."""
    if value.denominator == 1 and -_EXACT < value.numerator < _EXACT:
        return float(value.numerator)
    number = nearest(value)
    return number if Fraction(number) >= value else math.nextafter(number, math.inf)


def coefficient(value: Fraction) -> tuple[float, float]:
    """The nearest float64, and a bound on its distance from ``value``."""
    if value.denominator == 1 and -_EXACT < value.numerator < _EXACT:
        return float(value.numerator), 0.0
    number = nearest(value)
    return number, round_up(abs(value - Fraction(number)))


@dataclass(frozen=True, eq=False)
class BoundTable:
    """Bounds on single inputs, by leaf: those of leaf i are start[i]:start[i+1]."""

    start: np.ndarray  # int64 (leaves + 1,)
    place: np.ndarray  # int64 (k,) in x
    upper: np.ndarray  # bool (k,)
    strict: np.ndarray  # bool (k,)
    value: np.ndarray  # float64 (k,) nearest
    side: np.ndarray  # int8 (k,): the decimal is below (-1), at (0), above (1) the value, or UNKNOWN
    leaves: tuple[Leaf, ...]
    is_input: np.ndarray  # bool (ids,)

    def exact(self, entry: int) -> Fraction:
        """The bound of an entry, exactly."""
        number = int(np.searchsorted(self.start, entry, side="right")) - 1
        leaf = self.leaves[number]
        if isinstance(leaf, Atom):
            return single_bound(leaf)[1]
        which = np.flatnonzero(self.is_input[leaf.index])
        return decimal(leaf, int(which[entry - self.start[number]]))

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
        return self._select(which[self.on_inputs[which] == inputs])

    def _select(self, which: np.ndarray) -> Rows:
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

    def split(self, base: np.ndarray, groups: tuple[np.ndarray, ...]) -> tuple[Rows, ...]:
        """The rows on outputs of ``base`` and each group of leaves: made as one, and handed out in parts."""
        numbers = np.concatenate([part for group in groups for part in (base, group)])
        which, counts = ragged(self.start, numbers)
        keep = ~self.on_inputs[which]
        lengths = np.array([len(base) + len(group) for group in groups], np.int64)
        owner = np.repeat(np.repeat(np.arange(len(groups)), lengths), counts)[keep]
        ends = np.searchsorted(owner, np.arange(len(groups) + 1)).tolist()
        whole = self._select(which[keep])
        return tuple(_part(whole, a, b) for a, b in pairwise(ends))


def _select(matrix: SparseMatrix, which: np.ndarray) -> SparseMatrix:
    entries, length = ragged(matrix.indptr, which)
    indptr = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    return SparseMatrix(indptr, matrix.index[entries], matrix.value[entries], matrix.width)


def _part(rows: Rows, a: int, b: int) -> Rows:
    """Rows a … b-1 as views."""
    x_error = None if rows.x_error is None else _slice(rows.x_error, a, b)
    y_error = None if rows.y_error is None else _slice(rows.y_error, a, b)
    return Rows(_slice(rows.x, a, b), _slice(rows.y, a, b), rows.rhs[a:b], rows.strict[a:b], x_error, y_error)


def _slice(matrix: SparseMatrix, a: int, b: int) -> SparseMatrix:
    indptr = matrix.indptr[a : b + 1]
    first, last = indptr[0], indptr[-1]
    return SparseMatrix(indptr - first, matrix.index[first:last], matrix.value[first:last], matrix.width)


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
        where, index, upper, value, sides = self._bounds()
        on_x = self.is_input[index]
        place = self.place[index]
        boxes: list[tuple[int, int, bool, bool, float, int]] = []
        rows: list[_Rows] = []
        for i, leaf in enumerate(self.leaves):
            if isinstance(leaf, Atom):
                self._atom(i, leaf, boxes, rows)
        bounds = self._bound_table(where[on_x], place[on_x], upper[on_x], value[on_x], sides[on_x], boxes)
        off = ~on_x
        table = self._row_table(where[off], place[off], upper[off], value[off], sides[off], rows)
        has_rows = np.zeros(len(self.leaves), bool)
        owner = np.repeat(np.arange(len(self.leaves)), np.diff(table.start))
        has_rows[owner[table.on_inputs]] = True
        return Leaves(bounds, table, has_rows | (np.diff(bounds.start) > 0), has_rows)

    def _bounds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All Bounds leaves in one: leaf number, scalar id, upper, value, side, each (k,)."""
        found = [(i, leaf) for i, leaf in enumerate(self.leaves) if isinstance(leaf, Bounds)]
        lengths = np.array([len(leaf.index) for _, leaf in found], np.int64)
        where = np.repeat(np.array([i for i, _ in found], np.int64), lengths)
        if not found:
            none = np.zeros(0, bool)
            return where, np.zeros(0, np.int64), none, np.zeros(0), np.zeros(0, np.int8)
        texts = [leaf.text for _, leaf in found if leaf.text is not None]
        whole = Bounds(
            np.concatenate([leaf.index for _, leaf in found]),
            np.concatenate([leaf.upper for _, leaf in found]),
            np.concatenate([leaf.value for _, leaf in found]),
            np.concatenate(texts) if len(texts) == len(found) else None,
        )
        if texts and len(texts) < len(found):
            sides = np.concatenate([side(leaf) for _, leaf in found])
        else:
            sides = side(whole)
        return where, whole.index, whole.upper, whole.value, sides

    def _atom(
        self, number: int, atom: Atom, boxes: list[tuple[int, int, bool, bool, float, int]], rows: list[_Rows]
    ) -> None:
        """Files a linear atom as bounds on one input, or as rows."""
        constant = sum((value for monomial, value in atom.terms if not monomial), Fraction(0))
        terms = [(monomial[0], value) for monomial, value in atom.terms if monomial]
        strict = atom.relation is Relation.LT
        both = atom.relation is Relation.EQ
        if len(terms) == 1 and self.is_input[terms[0][0]]:
            scalar, bound, is_upper = single_bound(atom)
            number64 = nearest(bound)
            where = (bound > Fraction(number64)) - (bound < Fraction(number64))
            place = int(self.place[scalar])
            for upper in (True, False) if both else (is_upper,):
                boxes.append((number, place, upper, strict, number64, where))
            return
        rows.append(self._row(number, strict, terms, -constant))
        if both:
            rows.append(self._row(number, strict, [(scalar, -value) for scalar, value in terms], constant))

    def _row(self, leaf: int, strict: bool, terms: list[tuple[int, Fraction]], rhs: Fraction) -> _Rows:
        """Σ value·z ≤ rhs in float64 with the errors; huge and tiny rows are scaled by a power of two."""
        exponent = max(value.numerator.bit_length() - value.denominator.bit_length() for _, value in terms)
        if abs(exponent) > 900:
            scale = Fraction(2) ** -exponent
            terms = [(scalar, value * scale) for scalar, value in terms]
            rhs *= scale
        x: list[tuple[int, float, float]] = []
        y: list[tuple[int, float, float]] = []
        for scalar, value in terms:
            number, error = coefficient(value)
            (x if self.is_input[scalar] else y).append((int(self.place[scalar]), number, error))
        return _Rows(leaf, strict, round_up(rhs), x, y)

    def _bound_table(
        self,
        where: np.ndarray,
        place: np.ndarray,
        upper: np.ndarray,
        value: np.ndarray,
        sides: np.ndarray,
        boxes: list[tuple[int, int, bool, bool, float, int]],
    ) -> BoundTable:
        strict = np.zeros(len(where), bool)
        if boxes:
            columns = list(zip(*boxes, strict=True))
            where = np.concatenate([where, np.array(columns[0], np.int64)])
            place = np.concatenate([place, np.array(columns[1], np.int64)])
            upper = np.concatenate([upper, np.array(columns[2], bool)])
            strict = np.concatenate([strict, np.array(columns[3], bool)])
            value = np.concatenate([value, np.array(columns[4], np.float64)])
            sides = np.concatenate([sides, np.array(columns[5], np.int8)])
            order = np.argsort(where, kind="stable")
            where, place, upper = where[order], place[order], upper[order]
            strict, value, sides = strict[order], value[order], sides[order]
        start = np.searchsorted(where, np.arange(len(self.leaves) + 1))
        return BoundTable(start, place, upper, strict, value, sides, tuple(self.leaves), self.is_input)

    def _row_table(
        self,
        where: np.ndarray,
        place: np.ndarray,
        upper: np.ndarray,
        value: np.ndarray,
        sides: np.ndarray,
        rows: list[_Rows],
    ) -> RowTable:
        """Rows ±y ≤ ±value of bounds on outputs, and the rows of atoms, ordered by leaf."""
        k = len(where)
        sign = np.where(upper, 1.0, -1.0)
        rhs = sign * value
        rhs = np.where((sides == 0) | (sides == -sign), rhs, np.nextafter(rhs, np.inf))
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
