"""VNN-LIB 1.0: declarations of X_i and Y_j, and assertions over them (Demarchi et al.; SMT-LIB syntax)."""

from __future__ import annotations

import re

import numpy as np

from verinn.io.vnnlib.symbols import Symbols
from verinn.io.vnnlib.text import Source, show
from verinn.ir.query import Kind, Network, Variable

_DECLARATIONS = re.compile(
    rb"(?>\s*+\(\s*+declare-(?:const\s++[XY]_(?:0|[1-9]\d{0,8})\s++|fun\s++[XY]_(?:0|[1-9]\d{0,8})\s*+\(\s*+\)\s*+)"
    rb"Real\s*+\)){1,20000}+"
)
_TABLE = bytes.maketrans(b"()_\n\t\rXY", b"      01")
_NAME = re.compile(rb"[XY]_(?:0|[1-9]\d{0,8})")


class Declarations:
    """Collects the declared indices of X and Y; ``finish`` makes the network of them."""

    def __init__(self, source: Source, fast: bool = True):
        self.source = source
        self.fast = fast
        self.found: list[tuple[int, np.ndarray]] = []  # position; (k, 2): 0 for X or 1 for Y, index

    def run(self, position: int) -> int | None:
        """Reads the declarations that follow one another at ``position``; where they end, or None."""
        match = _DECLARATIONS.match(self.source.data, position) if self.fast else None
        if match is None:
            return None
        text = match[0].replace(b"declare-const", b"").replace(b"declare-fun", b"").replace(b"Real", b"")
        rows = np.fromstring(text.translate(_TABLE), dtype=np.float64, sep=" ").reshape(-1, 2).astype(np.int64)
        self.found.append((position, rows))
        return match.end()

    def one(self, command: bytes, position: int) -> int:
        """Reads one declaration from after its first word: the slow path, with the errors."""
        source = self.source
        name, start, end = source.token(position)
        if not _NAME.fullmatch(name):
            raise source.fail(
                start, f"bad variable name {show(name)}", "the variables of VNN-LIB 1.0 are X_0 … and Y_0 …"
            )
        if command == b"declare-fun":
            for bracket in (b"(", b")"):
                word, start, end = source.token(end)
                if word != bracket:
                    raise source.fail(start, f"{show(word)} in a declaration", "write (declare-const X_0 Real)")
        word, start, end = source.token(end)
        if word != b"Real":
            raise source.fail(start, f"unknown type {show(word)}", "variables of VNN-LIB 1.0 are of type Real")
        word, start, end = source.token(end)
        if word != b")":
            raise source.fail(start, f"{show(word)} in a declaration", "write (declare-const X_0 Real)")
        self.found.append((position, np.array([[name[:1] == b"Y", int(name[2:])]], np.int64)))
        return end

    def finish(self, position: int) -> Symbols:
        """The symbols, when all is declared. Raises InputError unless X and Y are each 0 … n-1, once."""
        rows = np.concatenate([rows for _, rows in self.found]) if self.found else np.zeros((0, 2), np.int64)
        sizes = []
        for letter, which in (("X", 0), ("Y", 1)):
            index = rows[rows[:, 0] == which, 1]
            if not len(index):
                raise self.source.fail(
                    position, f"no {letter}_0 is declared", "declare inputs X_i and outputs Y_j first"
                )
            order = np.sort(index)
            twice = np.flatnonzero(order[1:] == order[:-1])
            if len(twice):
                name = f"{letter}_{order[twice[0]]}"
                raise self.source.fail(
                    self._place(which, int(order[twice[0]])), f"{name} is declared twice", "declare it once"
                )
            gap = np.flatnonzero(order != np.arange(len(order)))
            if len(gap):
                missing, name = f"{letter}_{gap[0]}", f"{letter}_{order[gap[0]]}"
                place = self._place(which, int(order[gap[0]]))
                raise self.source.fail(
                    place, f"{name} is declared but {missing} is not", "number the variables from 0 without gaps"
                )
            sizes.append(len(order))
        x = Variable("X", Kind.INPUT, "real", (sizes[0],), 0)
        y = Variable("Y", Kind.OUTPUT, "real", (sizes[1],), sizes[0])
        return Symbols("1.0", [Network("N", (x, y))], {b"X": x, b"Y": y})

    def _place(self, which: int, index: int) -> int:
        """The position of the last declaration of a variable."""
        name = b"XY"[which : which + 1] + b"_%d" % index
        place = 0
        for match in re.finditer(rb"declare-\w+\s+" + name + rb"(?!\d)", self.source.data):
            place = match.start()
        return place
