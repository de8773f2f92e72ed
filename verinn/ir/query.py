"""A VNN-LIB query as written: declarations, and one formula over all declared scalars.

Every element of every declared variable has one number, its scalar id: variables in declaration
order, each row-major. Formulas are trees of And, Or, Atom and Bounds. Numbers are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction

import numpy as np


class Kind(Enum):
    INPUT = "input"
    HIDDEN = "hidden"
    OUTPUT = "output"


@dataclass(frozen=True)
class Variable:
    """A declared tensor. ``start`` is the scalar id of its first element.

    ``dtype`` is the declared type: an ONNX element type in lower case, or "real".
    """

    name: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    start: int
    onnx_name: str | None = None  # of a hidden variable, or when the file names the tensor

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Network:
    name: str
    variables: tuple[Variable, ...]  # in declaration order: inputs, hidden, outputs
    equal_to: str | None = None
    isomorphic_to: str | None = None


class Relation(Enum):
    LE = "<="
    LT = "<"
    EQ = "=="
    NE = "!="


@dataclass(frozen=True)
class Atom:
    """Polynomial REL 0. ``terms`` maps a monomial (sorted scalar ids, () for 1) to its coefficient."""

    terms: tuple[tuple[tuple[int, ...], Fraction], ...]
    relation: Relation


@dataclass(frozen=True, eq=False)
class Bounds:
    """A conjunction of many `scalar <= number` and `scalar >= number`, kept in arrays.

    ``index`` int64 (k,), ``upper`` bool (k,): True for <=. ``value`` float64 (k,) is the nearest
    float64; ``text`` the decimals as written (bytes, fixed width) when some need more than that.
    """

    index: np.ndarray
    upper: np.ndarray
    value: np.ndarray
    text: np.ndarray | None = None


@dataclass(frozen=True)
class And:
    parts: tuple[Formula, ...]


@dataclass(frozen=True)
class Or:
    parts: tuple[Formula, ...]


Formula = And | Or | Atom | Bounds


@dataclass(frozen=True, eq=False)
class Query:
    version: str  # "1.0" or "2.0"
    networks: tuple[Network, ...]
    formula: Formula
    file: str = ""
    warnings: tuple[str, ...] = field(default=())

    @property
    def variables(self) -> tuple[Variable, ...]:
        return tuple(variable for network in self.networks for variable in network.variables)
