"""A property as the engines see it: a union of cases, each a box of inputs and linear constraints.

The property is *violated* (the query satisfiable) when some case holds an input x whose outputs y
fulfil one of the case's conjunctions. x is the concatenation of all input variables, y of all
output and hidden variables that the query names, each flattened row-major, and of the products of
variables that it compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """Rows of a k × n matrix in compressed form: row i has entries indptr[i]:indptr[i+1]."""

    indptr: np.ndarray  # int64 (k + 1,)
    index: np.ndarray  # int64 (nnz,)
    value: np.ndarray  # float64 (nnz,)
    width: int

    def dense(self) -> np.ndarray:
        """The matrix as a float64 array (k, width); repeated entries add up."""
        rows = len(self.indptr) - 1
        full = np.zeros((rows, self.width))
        owner = np.repeat(np.arange(rows), np.diff(self.indptr))
        np.add.at(full, (owner, self.index), self.value)
        return full

    @property
    def rows(self) -> int:
        return len(self.indptr) - 1


@dataclass(frozen=True, eq=False)
class Rows:
    """k linear constraints P x + Q y ≤ rhs (``strict``: <), all of which must hold.

    ``rhs`` is rounded up (the constraint as stored admits at least what the text admits).
    ``x_error``/``y_error`` have the layout of ``x``/``y`` and bound the distance of each stored
    coefficient from the exact decimal; None when all are exact.
    """

    x: SparseMatrix
    y: SparseMatrix
    rhs: np.ndarray  # float64 (k,)
    strict: np.ndarray  # bool (k,)
    x_error: SparseMatrix | None = None
    y_error: SparseMatrix | None = None

    def __len__(self) -> int:
        return len(self.rhs)


@dataclass(frozen=True, eq=False)
class Case:
    """One box of inputs and what counts as a violation in it.

    ``lower``/``upper`` (float64, (n,)) contain every real point of the decimal box and the
    float32 roundings of its bounds. ``witness_lower``/``witness_upper`` (float32) bound the float32
    inputs that may be shown as a witness: inside the decimal bounds, or, where no float32 value is,
    the float32 nearest to them. Infinite bounds are possible. ``input_rows`` restrict x further
    (their ``y`` part is empty). ``conjunctions``: one of them must hold; an empty Rows holds always.
    ``exact`` is False when constraints were left out: then the case admits
    more than the query does, so a proof is still a proof, but a violation must be checked.
    ``decimal_lower``/``decimal_upper`` (float64, or None): within ``lower``/``upper``, the reals of the decimal
    box alone. An input of a violation is a real point of that box, or float32 numbers as a witness has them.
    """

    lower: np.ndarray
    upper: np.ndarray
    witness_lower: np.ndarray
    witness_upper: np.ndarray
    input_rows: Rows
    conjunctions: tuple[Rows, ...]
    exact: bool = True
    decimal_lower: np.ndarray | None = None
    decimal_upper: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Property:
    """The union of cases over n inputs and m outputs. No case at all means `unsat`.

    ``limits``: why some of the query could not be kept (reported with an `unknown`), or empty.
    ``products``: of the last places of y, the factors of each by scalar id, sorted (twice for a square).
    ``ties``: pairs of inputs that every case wants to be equal (rows of the cases say so, too).
    """

    n: int
    m: int
    cases: Sequence[Case]
    limits: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    products: tuple[tuple[int, ...], ...] = ()
    ties: tuple[tuple[int, int], ...] = ()
