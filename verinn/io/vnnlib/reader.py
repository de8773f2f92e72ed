"""The commands of a file in order: header, declarations, assertions."""

from __future__ import annotations

from verinn.io.vnnlib import one, two
from verinn.io.vnnlib.formula import FormulaReader, read_assertion
from verinn.io.vnnlib.runs import Runs
from verinn.io.vnnlib.symbols import Symbols
from verinn.io.vnnlib.text import Source, open_source, show
from verinn.ir.query import And, Formula, Query

_IGNORED = frozenset((b"set-logic", b"set-info", b"check-sat", b"get-model"))  # SMT-LIB commands without meaning here


def parse_query(data: bytes, name: str, fast: bool = True) -> Query:
    """The query that ``data``, the content of the file ``name``, holds.

    ``fast=False`` reads every bound one by one: same meaning, for tests. Raises InputError.
    """
    source = open_source(data, name)
    word, start, position = source.token(0)
    command, place, after = source.token(position)
    if word != b"(":
        raise source.fail(start, f"{show(word)} where '(' is expected", "a VNN-LIB file consists of (…) forms")
    if command == b"vnnlib-version":
        return _Reader(source, fast).version_2(after)
    if command == b"declare-network":
        raise source.fail(place, "no version header", "begin the file with (vnnlib-version <2.0>)")
    return _Reader(source, fast).version_1()


class _Reader:
    """The state of one reading."""

    def __init__(self, source: Source, fast: bool):
        self.source = source
        self.fast = fast
        self.parts: list[Formula | tuple[int, int]] = []  # a formula, or the offsets of a run
        self.runs: Runs | None = None
        self.formulas: FormulaReader | None = None

    def version_1(self) -> Query:
        """A file of `(declare-const …)` and `(assert …)`."""
        source = self.source
        declarations = one.Declarations(source, self.fast)
        position = 0
        while True:
            next_position = self._run(position) if self.formulas else declarations.run(position)
            if next_position is not None:
                position = next_position
                continue
            command, start, position = self._command(position)
            if command == b"":
                break
            if command in (b"declare-const", b"declare-fun"):
                if self.formulas:
                    raise source.fail(start, "declaration after an assertion", "declare every variable first")
                position = declarations.one(command, position)
            elif command == b"assert":
                if self.formulas is None:
                    self._begin(declarations.finish(start))
                position = self._assert(position)
            elif command in _IGNORED:
                source.warn(start, f"command {show(command)} has no meaning in VNN-LIB; skipped")
                position = self._skip(position)
            else:
                hint = "VNN-LIB 1.0 consists of declare-const and assert"
                raise source.fail(start, f"unknown command {show(command)}", hint)
        return self._finish("1.0")

    def version_2(self, position: int) -> Query:
        """A file with header, networks and assertions, from after the word vnnlib-version."""
        source = self.source
        version, position = two.read_header(source, position)
        symbols = Symbols(version)
        networks = two.Networks(source, symbols)
        while True:
            next_position = self._run(position) if self.formulas else None
            if next_position is not None:
                position = next_position
                continue
            command, start, position = self._command(position)
            if command == b"":
                break
            if command == b"declare-network":
                if self.formulas:
                    raise source.fail(start, "declaration after an assertion", "declare every network first")
                position = networks.read(position)
            elif command == b"assert":
                if self.formulas is None:
                    if not symbols.networks:
                        raise source.fail(start, "no network is declared", "declare one before the assertions")
                    self._begin(symbols)
                position = self._assert(position)
            else:
                hint = "VNN-LIB 2.0 consists of declare-network and assert"
                raise source.fail(start, f"unknown command {show(command)}", hint)
        return self._finish(version)

    def _command(self, position: int) -> tuple[bytes, int, int]:
        """The word after the next '('; b"" at the end of the file."""
        source = self.source
        word, start, position = source.token(position)
        if word == b"":
            return b"", start, position
        if word != b"(":
            hint = "remove one ')' too many" if word == b")" else "a VNN-LIB file consists of (…) forms"
            raise source.fail(start, f"{show(word)} where '(' is expected", hint)
        word, start, position = source.token(position)
        if word == b"":
            raise source.fail(start, "the file ends after '('", "close every bracket")
        return word, start, position

    def _begin(self, symbols: Symbols) -> None:
        self.runs = Runs(self.source, symbols) if self.fast else None
        self.formulas = FormulaReader(self.source, symbols, self.runs)

    def _run(self, position: int) -> int | None:
        """Reads assertions of single bounds in bulk; where they end, or None."""
        found = self.runs.assertions(position) if self.runs else None
        if found is None:
            return None
        start, end, position = found
        last = self.parts[-1] if self.parts else None
        if isinstance(last, tuple) and last[1] == start:
            self.parts[-1] = (last[0], end)
        else:
            self.parts.append((start, end))
        return position

    def _assert(self, position: int) -> int:
        assert self.formulas is not None
        formula, position = read_assertion(self.formulas, position)
        self.parts.append(formula)
        return position

    def _skip(self, position: int) -> int:
        """The position after the bracket that closes the current form."""
        depth = 1
        while depth:
            word, start, position = self.source.token(position)
            if word == b"":
                raise self.source.fail(start, "the file ends inside a command", "close every bracket")
            depth += (word == b"(") - (word == b")")
        return position

    def _finish(self, version: str) -> Query:
        source = self.source
        if self.formulas is None:
            raise source.fail(len(source.data.rstrip()), "no assertion", "a property asserts at least one formula")
        if self.runs:
            self.runs.fill()
        parts: list[Formula] = []
        for part in self.parts:
            if isinstance(part, tuple):
                assert self.runs is not None
                parts.append(self.runs.view(*part))
            else:
                parts.append(part)
        formula = parts[0] if len(parts) == 1 else And(tuple(parts))
        symbols = self.formulas.symbols
        return Query(version, tuple(symbols.networks), formula, source.name, source.told())
