"""The formula of one assertion, read without recursion: nesting may be as deep as it likes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction

from verinn.errors import InputError
from verinn.io.vnnlib import terms
from verinn.io.vnnlib.numbers import BadNumber, exact, is_number
from verinn.io.vnnlib.runs import EXPONENT, INTEGER, Runs
from verinn.io.vnnlib.symbols import FLOATS, INTEGERS, Symbols
from verinn.io.vnnlib.terms import Term
from verinn.io.vnnlib.text import Source, show
from verinn.ir.query import And, Atom, Formula, Or

MAX_DEPTH = 500_000

_CONNECTIVES = frozenset((b"and", b"or"))
_ARITHMETIC = frozenset((b"+", b"-", b"*"))
_WORD = rb"([^\s()\[\],\"]++(?:\[[\d,]*+\])?)"
# A comparison of two operands without further brackets: most comparisons there are.
_SIMPLE = re.compile(rb"\s*+\(\s*+([<>!=]=|[<>=])\s++" + _WORD + rb"\s++" + _WORD + rb"\s*+\)")


@dataclass
class _Frame:
    """An open bracket: its operator, where it stands, and the operands read so far."""

    operator: bytes
    position: int
    formulas: list[Formula] = field(default_factory=list)
    operands: list[Term] = field(default_factory=list)


Operand = tuple[Fraction | int, str, bool]  # a constant, or a scalar id; its type; written as an integer


class FormulaReader:
    """Reads formulas at given positions. ``fast`` switches the array path for runs of bounds."""

    def __init__(self, source: Source, symbols: Symbols, runs: Runs | None):
        self.source = source
        self.symbols = symbols
        self.runs = runs
        self.began = 0  # where the assertion being read begins
        self._operands: dict[bytes, Operand] = {}

    def read(self, position: int) -> tuple[Formula, int]:
        """The formula that starts at ``position``, and the position after it.

        Raises InputError at the first thing that is not a formula of this version.
        """
        stack: list[_Frame] = []
        while True:
            if not stack or stack[-1].operator in _CONNECTIVES:
                found = self._at_once(position, bool(stack) and stack[-1].operator == b"and")
                if found is not None:
                    formula, position = found
                    if not stack:
                        return formula, position
                    stack[-1].formulas.append(formula)
                    continue
            word, start, position = self.source.token(position)
            if word == b"(":
                position = self._open(stack, start, position)
            elif word == b")":
                if not stack:
                    raise self.source.fail(start, "')' where a formula is expected", "remove it")
                done = self._close(stack.pop(), start)
                if not stack:
                    assert not isinstance(done, Term)
                    return done, position
                if isinstance(done, Term):
                    stack[-1].operands.append(done)
                else:
                    stack[-1].formulas.append(done)
            else:
                position = self._operand_of(stack, word, start, position)

    def _at_once(self, position: int, conjunct: bool) -> tuple[Formula, int] | None:
        """A run of bounds (among conjuncts), or a comparison of two plain operands."""
        if conjunct and self.runs is not None:
            run = self.runs.bounds(position)
            if run is not None:
                return run
        match = _SIMPLE.match(self.source.data, position)
        if match is None:
            return None
        operator, left, right = match.groups()
        self._check_operator(operator, match.start(1))
        return self._atom(
            operator, self._plain(left, match.start(2)), self._plain(right, match.start(3)), match.start(1)
        ), match.end()

    def _open(self, stack: list[_Frame], start: int, position: int) -> int:
        operator, place, position = self.source.token(position)
        inside = stack[-1].operator if stack else b"and"
        if inside in _CONNECTIVES:
            if operator not in _CONNECTIVES:
                self._check_operator(operator, place)
        elif operator not in _ARITHMETIC:
            hint = "terms are numbers, variables, (+ …), (- …) and (* …)"
            raise self.source.fail(place, f"{show(operator)} is not an arithmetic operator", hint)
        if len(stack) >= MAX_DEPTH:
            raise self.source.fail(start, f"nested deeper than {MAX_DEPTH} brackets", "flatten the formula")
        stack.append(_Frame(operator, start))
        return position

    def unfinished(self, place: int) -> InputError:
        """The error for a file that ends before its last assertion does."""
        problem = f"the file ends inside the assertion that begins in {self.source.place(self.began)}"
        return self.source.fail(place, problem, "close every bracket")

    def _check_operator(self, operator: bytes, place: int) -> None:
        """Raises unless ``operator`` is a comparison of this version."""
        if operator in terms.COMPARISONS:
            old = self.symbols.version == "1.0"
            if old and operator in (b"==", b"!="):
                raise self.source.fail(place, f"{show(operator)} is VNN-LIB 2.0", "in 1.0 write =, or two inequalities")
            if not old and operator == b"=":
                raise self.source.fail(place, "'=' is not VNN-LIB 2.0", "write ==")
            return
        if operator == b"":
            raise self.unfinished(place)
        if operator in (b"not", b"=>", b"xor", b"ite", b"let", b"distinct"):
            raise self.source.fail(
                place, f"{show(operator)} is not part of VNN-LIB", "rewrite it with and, or and comparisons"
            )
        hint = "a formula is (and …), (or …) or a comparison such as (<= X_0 0.5)"
        raise self.source.fail(place, f"{show(operator)} is not a comparison or connective", hint)

    def _close(self, frame: _Frame, end: int) -> Formula | Term:
        operator = frame.operator
        if operator in _CONNECTIVES:
            if not frame.formulas:
                raise self.source.fail(
                    frame.position, f"{show(operator)} without parts", "give it at least one formula"
                )
            if len(frame.formulas) == 1:
                return frame.formulas[0]
            return And(tuple(frame.formulas)) if operator == b"and" else Or(tuple(frame.formulas))
        operands = frame.operands
        if operator in _ARITHMETIC:
            if not operands:
                raise self.source.fail(frame.position, f"{show(operator)} without operands", "give it at least one")
            return self._fold(operator, operands, frame.position)
        if len(operands) != 2:
            problem = f"{show(operator)} has {len(operands)} operand{'s' * (len(operands) != 1)}"
            raise self.source.fail(frame.position, problem, "a comparison has two")
        return self._atom(operator, operands[0], operands[1], frame.position)

    def _fold(self, operator: bytes, operands: list[Term], position: int) -> Term:
        total = operands[0]
        if operator == b"-" and len(operands) == 1:
            return terms.negate(total)
        for operand in operands[1:]:
            self._types(total, operand, position)
            try:
                if operator == b"*":
                    total = terms.multiply(total, operand)
                else:
                    total = terms.add(total, operand if operator == b"+" else terms.negate(operand))
            except terms.TooLarge as error:
                raise self.source.unsupported(position, str(error), "simplify the assertion") from None
        return total

    def _operand_of(self, stack: list[_Frame], word: bytes, start: int, position: int) -> int:
        """Handles a word that is not a bracket: an operand, or an error."""
        if word == b"":
            raise self.unfinished(start)
        if not stack or stack[-1].operator in _CONNECTIVES:
            hint = "a formula is (and …), (or …) or a comparison such as (<= X_0 0.5)"
            raise self.source.fail(start, f"{show(word)} where a formula is expected", hint)
        index: list[bytes] | None = None
        if not is_number(word):
            index, position = self._indices(position)
        stack[-1].operands.append(self._term(self._lookup(word, index, start)))
        return position

    def _indices(self, position: int) -> tuple[list[bytes] | None, int]:
        """The `[i,j]` after a name, if there is one."""
        word, start, end = self.source.token(position)
        if word != b"[":
            return None, position
        found: list[bytes] = []
        while True:
            word, start, end = self.source.token(end)
            if word in (b"", b"(", b")", b"[", b"]", b","):
                raise self.source.fail(start, f"{show(word)} where an index is expected", "write indices as [0,1]")
            found.append(word)
            word, start, end = self.source.token(end)
            if word == b"]":
                return found, end
            if word != b",":
                raise self.source.fail(start, f"{show(word)} after an index", "write indices as [0,1]")

    def _plain(self, word: bytes, start: int) -> Term:
        """The term of `X_3`, `X[0,1]` or `0.5`, remembered by its text."""
        known = self._operands.get(word)
        if known is None:
            index: list[bytes] | None = None
            name = word
            if word.endswith(b"]") and not is_number(word):
                name, _, rest = word[:-1].partition(b"[")
                index = rest.split(b",") if rest else []
            known = self._operands[word] = self._lookup(name, index, start)
        return self._term(known)

    def _lookup(self, word: bytes, index: list[bytes] | None, start: int) -> Operand:
        if not is_number(word):
            lowered = word.lower().lstrip(b"-+")
            if lowered in (b"nan", b"inf", b"infinity") and word not in self.symbols.by_name:
                raise self.source.fail(start, f"{show(word)} is not a number", "constants are finite decimals")
            if word in _ARITHMETIC or word[:1] in b"+-*/<>=!":
                raise self.source.fail(start, f"{show(word)} where an operand is expected", "operators follow '('")
            return (*self.symbols.element(self.source, start, word, index), False)
        try:
            value, integer, note = exact(word)
        except BadNumber as error:
            hint = "write a decimal that float64 can hold"
            raise self.source.fail(start, f"constant {show(word)} {error}", hint) from None
        if note == "exponent" and self.symbols.version != "1.0":
            self.source.warn(start, EXPONENT)
        elif note == "form":
            self.source.warn(start, f"constant {show(word)} is not written as VNN-LIB wants; read as meant")
        return value, "", integer

    def _term(self, operand: Operand) -> Term:
        value, dtype, integer = operand
        if dtype:
            assert isinstance(value, int)
            return Term({(value,): terms.ONE}, dtype)
        return Term({(): Fraction(value)} if value else {}, "", integer, not integer)

    def _atom(self, operator: bytes, left: Term, right: Term, position: int) -> Atom:
        self._types(left, right, position)
        if self.symbols.version != "1.0":
            self._constants(left, right, position)
        try:
            return terms.compare(operator, left, right)
        except terms.TooLarge as error:
            raise self.source.unsupported(position, str(error), "simplify the assertion") from None

    def _types(self, left: Term, right: Term, position: int) -> None:
        """Raises when variables of two element types meet: VNN-LIB 2.0 knows no coercion."""
        if left.dtype and right.dtype and left.dtype != right.dtype:
            problem = f"variables of type {left.dtype} and {right.dtype} in one comparison"
            raise self.source.fail(position, problem, "VNN-LIB has no conversion between types")

    def _constants(self, left: Term, right: Term, position: int) -> None:
        dtype = left.dtype or right.dtype
        if dtype in INTEGERS and (left.decimals or right.decimals):
            raise self.source.fail(position, f"decimal constant beside a variable of type {dtype}", "write an integer")
        if (dtype == "real" or dtype in FLOATS) and (left.integers or right.integers):
            self.source.warn(position, INTEGER)


def read_assertion(reader: FormulaReader, position: int) -> tuple[Formula, int]:
    """The formula of `(assert …)`, from after the word assert to after the closing bracket."""
    reader.began = position
    formula, position = reader.read(position)
    word, start, end = reader.source.token(position)
    if word == b")":
        return formula, end
    if word == b"":
        raise reader.unfinished(start)
    raise reader.source.fail(start, f"{show(word)} after the formula of an assertion", "an assertion holds one formula")
