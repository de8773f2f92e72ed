"""Affine steps as sparse matrices of exact numbers: L is found by applying it to unit vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from scipy.sparse import csr_matrix, hstack

from verinn.exact.rational import TooLarge
from verinn.ops.base import Affine
from verinn.ops.program import Step

#: non-zero numbers of one step's matrix, and elements of a block of unit vectors pushed through it
MOST_ENTRIES, MOST_BLOCK = 2_000_000, 4_000_000


@dataclass(frozen=True, eq=False)
class Map:
    """One affine step: y = Σ over inputs of matrix·x, + offset. Each entry is one weight, or a sum of zeros and one.

    ``errors`` (one per input, or None where exact) and ``offset_error`` bound how far numbers are from exact.
    ``inverse``: entries are divisors: the exact number is one over it.
    """

    matrices: tuple[csr_matrix, ...]
    offset: np.ndarray | None
    errors: tuple[csr_matrix, ...] | None
    offset_error: np.ndarray | None
    inverse: bool = False

    def weight(self, value: float) -> Fraction:
        return 1 / Fraction(value) if self.inverse else Fraction(value)


def map_of(step: Step) -> Map:
    """The map of an affine step of a float64 program. Raises TooLarge."""
    op, node = step.op, step.node
    assert isinstance(op, Affine)
    if node.op == "divide":
        return _division(step)
    size = math.prod(node.shape)
    params = {name: value.cpu().double() for name, value in step.params.items()}
    matrices = tuple(_matrix(step, slot, size, params, absolute=False) for slot in range(len(step.shapes)))
    b = op.offset(node, params)
    offset = None if b is None else _flat(b, node.shape)
    if step.errors is None:
        return Map(matrices, offset, None, None)
    known = {name: value.cpu().double() for name, value in step.errors.items()}
    errors = None
    if op.weights:  # else L has no parameters, and no error
        errors = tuple(_matrix(step, slot, size, known, absolute=True) for slot in range(len(step.shapes)))
    error = op.offset(node, known)
    return Map(matrices, offset, errors, None if error is None else _flat(error, node.shape))


def _flat(value: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(value.expand(1, *shape).flatten().cpu().numpy())


def _division(step: Step) -> Map:
    """x / d with d as the file has it, not its rounded inverse."""
    size = math.prod(step.node.shape)
    divisor = np.broadcast_to(step.node.params["divisor"].value.astype(np.float64), step.node.shape).ravel()
    return Map((csr_matrix((divisor, (np.arange(size), np.arange(size))), (size, size)),), None, None, None, True)


def _matrix(step: Step, slot: int, size: int, params: dict[str, torch.Tensor], absolute: bool) -> csr_matrix:
    """L by one input, (size, elements of that input), in blocks of its columns."""
    op, node = step.op, step.node
    assert isinstance(op, Affine)
    count = math.prod(step.shapes[slot])
    largest = max(size, *(math.prod(shape) for shape in step.shapes))
    width = max(1, MOST_BLOCK // max(1, largest))
    blocks, entries = [], 0
    for start in range(0, count, width):
        part = min(width, count - start)
        xs = [torch.zeros((part, *shape), dtype=torch.float64) for shape in step.shapes]
        unit = torch.zeros((part, count), dtype=torch.float64)
        unit[torch.arange(part), torch.arange(start, start + part)] = 1.0
        xs[slot] = unit.reshape(part, *step.shapes[slot])
        made = op.linear(node, xs, params, absolute=absolute).expand(part, *node.shape).flatten(1)
        blocks.append(csr_matrix(made.T.numpy()))
        entries += blocks[-1].nnz
        if entries > MOST_ENTRIES:
            raise TooLarge(f"'{node.source or node.name}' has too many weights")
    return hstack(blocks, format="csr") if blocks else csr_matrix((size, 0))
