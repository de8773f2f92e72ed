"""VNN-LIB 2.0: the version header and the networks with their variables."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from verinn.io.vnnlib.symbols import TYPES, Symbols
from verinn.io.vnnlib.text import Source, show
from verinn.ir.query import Kind, Network, Variable

_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_]*+")
_VERSION = re.compile(rb"<(\d+)\.(\d+)>")
_KINDS = {b"declare-input": Kind.INPUT, b"declare-hidden": Kind.HIDDEN, b"declare-output": Kind.OUTPUT}
_ORDER = (Kind.INPUT, Kind.HIDDEN, Kind.OUTPUT)
MAX_ELEMENTS = 1 << 26  # of all variables together


def read_header(source: Source, position: int) -> tuple[str, int]:
    """The version, from after the word vnnlib-version to after its bracket: "2.0" (or another 2.x)."""
    word, start, end = source.token(position)
    match = _VERSION.fullmatch(word)
    if match is None:
        raise source.fail(start, f"bad version {show(word)}", "write (vnnlib-version <2.0>)")
    version = f"{int(match[1])}.{int(match[2])}"
    if match[1] != b"2":
        raise source.fail(
            start, f"version {version} is not supported", "verinn reads VNN-LIB 1.0 (without this line) and 2.0"
        )
    if version != "2.0":
        source.warn(start, f"version {version} is read as 2.0")
    return "2.0", _bracket(source, end)


def _bracket(source: Source, position: int, where: str = "here") -> int:
    word, start, end = source.token(position)
    if word == b"":
        raise source.fail(start, "the file ends inside a declaration", "close every bracket")
    if word != b")":
        raise source.fail(start, f"{show(word)} where ')' is expected", "see the VNN-LIB 2.0 syntax of declarations")
    return end


@dataclass
class _Open:
    """A network being read."""

    name: str
    equal_to: str | None = None
    isomorphic_to: str | None = None
    variables: list[Variable] = field(default_factory=list)


class Networks:
    """Reads declare-network forms into ``symbols``."""

    def __init__(self, source: Source, symbols: Symbols):
        self.source = source
        self.symbols = symbols
        self.size = 0
        self.names: set[tuple[bytes, str]] = set()

    def read(self, position: int) -> int:
        """One network, from after the word declare-network to after its bracket."""
        source = self.source
        name, start, position = self._name(position, "network")
        network = _Open(name.decode())
        while True:
            word, place, end = source.token(position)
            if word == b")":
                break
            if word == b"":
                raise source.fail(place, "the file ends inside a network", "close every bracket")
            if word != b"(":
                raise source.fail(place, f"{show(word)} in a network", "a network holds declarations in brackets")
            word, place, end = source.token(end)
            if word in (b"equal-to", b"isomorphic-to"):
                position = self._equivalence(network, word, place, end)
            elif word in _KINDS:
                position = self._variable(network, _KINDS[word], place, end)
            else:
                raise source.fail(
                    place, f"{show(word)} in a network", "expected declare-input, declare-hidden or declare-output"
                )
        self._finish(network, start)
        return end

    def _name(self, position: int, what: str) -> tuple[bytes, int, int]:
        """A new name. Raises for a bad or a known one: names are unique over the whole file."""
        word, start, end = self.source.token(position)
        if not _NAME.fullmatch(word) or word in (b"assert", b"and", b"or"):
            hint = "a name is a letter followed by letters, digits and _"
            raise self.source.fail(start, f"bad {what} name {show(word)}", hint)
        if (word, what) in self.names:
            raise self.source.fail(
                start, f"{what} {show(word)} is declared twice", "names are unique in the whole file"
            )
        if any(name == word for name, _ in self.names):
            self.source.warn(start, f"{show(word)} names a network and a variable; read as meant")
        self.names.add((word, what))
        return word, start, end

    def _equivalence(self, network: _Open, kind: bytes, place: int, position: int) -> int:
        source = self.source
        word, start, end = source.token(position)
        if network.equal_to or network.isomorphic_to:
            raise source.fail(place, f"network '{network.name}' has two equivalences", "at most one is allowed")
        if network.variables:
            raise source.fail(place, f"{show(kind)} after a declaration", "it comes first in its network")
        other = next((known for known in self.symbols.networks if known.name.encode() == word), None)
        if other is None:
            raise source.fail(
                start, f"network {show(word)} is not declared", "declare it before the network that refers to it"
            )
        if other.equal_to or other.isomorphic_to:
            hint = f"refer to '{other.equal_to or other.isomorphic_to}' instead"
            raise source.fail(start, f"chained equivalence: {show(word)} itself refers to another network", hint)
        if kind == b"equal-to":
            network.equal_to = other.name
        else:
            network.isomorphic_to = other.name
        return _bracket(source, end)

    def _variable(self, network: _Open, kind: Kind, place: int, position: int) -> int:
        source = self.source
        name, _, position = self._name(position, "variable")
        if network.variables and _ORDER.index(kind) < _ORDER.index(network.variables[-1].kind):
            raise source.fail(
                place, f"{kind.value} {show(name)} out of order", "declare inputs, then hidden, then outputs"
            )
        dtype, position = self._type(position)
        shape, position = self._shape(name, position)
        onnx_name: str | None = None
        if kind is Kind.HIDDEN:
            word, start, position = source.token(position)
            if not word.startswith(b'"'):
                raise source.fail(
                    start, f"hidden {show(name)} names no tensor", 'end its declaration with "tensor name"'
                )
            onnx_name = word[1:-1].decode("utf-8")
        position = _bracket(source, position)
        variable = Variable(name.decode(), kind, dtype, shape, self.size, onnx_name)
        self.size += variable.size
        network.variables.append(variable)
        self.symbols.by_name[name] = variable
        return position

    def _type(self, position: int) -> tuple[str, int]:
        word, start, end = self.source.token(position)
        if word == b"Real":
            self.source.warn(start, "the type is written 'real' in VNN-LIB 2.0, not 'Real'")
            return "real", end
        dtype = word.decode("utf-8", "replace")
        if dtype not in TYPES:
            raise self.source.fail(
                start, f"unknown type {show(word)}", "types are real, float32, int64, … in lower case"
            )
        return dtype, end

    def _shape(self, name: bytes, position: int) -> tuple[tuple[int, ...], int]:
        source = self.source
        word, start, end = source.token(position)
        if word != b"[":
            raise source.fail(start, f"{show(name)} has no shape", "write its shape as [2,3], or [] for a scalar")
        extents: list[int] = []
        word, start, end = source.token(end)
        while word != b"]":
            if not word.isdigit() or len(word) > 12 or int(word) == 0:
                raise source.fail(
                    start, f"bad dimension {show(word)} of {show(name)}", "dimensions are whole numbers above 0"
                )
            extents.append(int(word))
            word, start, end = source.token(end)
            if word == b",":
                word, start, end = source.token(end)
                if word == b"]":
                    raise source.fail(start, f"a dimension of {show(name)} is missing", "write its shape as [2,3]")
            elif word != b"]":
                raise source.fail(start, f"{show(word)} in the shape of {show(name)}", "write its shape as [2,3]")
        elements = math.prod(extents)
        if self.size + elements > MAX_ELEMENTS:
            problem = f"{show(name)} with its {elements} elements is too large"
            raise source.unsupported(start, problem, f"verinn takes {MAX_ELEMENTS} elements in all")
        return tuple(extents), end

    def _finish(self, network: _Open, start: int) -> None:
        source = self.source
        for kind in (Kind.INPUT, Kind.OUTPUT):
            if not any(variable.kind is kind for variable in network.variables):
                raise source.fail(start, f"network '{network.name}' declares no {kind.value}", "declare all of them")
        variables = tuple(network.variables)
        other_name = network.equal_to or network.isomorphic_to
        if other_name:
            other = next(known for known in self.symbols.networks if known.name == other_name)
            for kind in (Kind.INPUT, Kind.OUTPUT):
                mine = [(v.dtype, v.shape) for v in variables if v.kind is kind]
                theirs = [(v.dtype, v.shape) for v in other.variables if v.kind is kind]
                if mine != theirs:
                    problem = (
                        f"the {kind.value}s of '{network.name}' differ from those of '{other_name}' in type or shape"
                    )
                    raise source.fail(start, problem, "equivalent networks have the same inputs and outputs")
        self.symbols.networks.append(Network(network.name, variables, network.equal_to, network.isomorphic_to))
