"""Leaves whose bound is lost in rounding, proved in exact arithmetic.

With every phase chosen, a network is affine, and what a violation needs are linear rows over a box. That no
point fulfils them all is shown by a positive combination of the rows that is nowhere at most zero (Farkas).
Which rows have a weight, a linear programme has guessed; the weights are made exact by elimination, and
rows, weights and the combination are integers and fractions. So ties are decided: a row that must be below
zero and whose least value is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from verinn.bounds.climb import Goals
from verinn.bounds.crown import Relaxation
from verinn.bounds.dual import Columns
from verinn.bounds.relevance import relevance
from verinn.ops.base import Affine
from verinn.ops.program import Program, Step

#: products of integers for the rows of one leaf, and numbers in the matrix of one step
MOST_PRODUCTS, MOST_NUMBERS = 300_000, 4_000_000

Form = list[Fraction]


class TooLarge(Exception):
    """The network is too large, or not exactly known: leave it."""


@dataclass(frozen=True, eq=False)
class Exact:
    """A value's elements as affine forms of the inputs: numbers (S, n + 1), the constant last, times 2^−power."""

    numbers: np.ndarray  # of Python integers
    power: int

    def at(self, power: int) -> np.ndarray:
        """The numbers for another, greater power."""
        return self.numbers if power == self.power else self.numbers * (1 << (power - self.power))

    def row(self, element: int) -> Form:
        return [Fraction(int(number), 1 << self.power) for number in self.numbers[element]]


def dyadic(values: np.ndarray) -> Exact:
    """Finite floats as integers over one power of two."""
    parts = [Fraction(float(value)) for value in values.ravel()]
    power = max((part.denominator.bit_length() - 1 for part in parts), default=0)
    numbers = np.empty(len(parts), dtype=object)
    numbers[:] = [part.numerator << (power - part.denominator.bit_length() + 1) for part in parts]
    return Exact(numbers.reshape(values.shape), power)


def affine(program: Program, active: dict[str, np.ndarray]) -> dict[str, Exact]:
    """Every value as forms of the inputs, by name. ``active``: by ReLU, whether each element passes.

    Raises TooLarge.
    """
    n = sum(int(np.prod(value.shape)) for value in program.graph.inputs)
    values: dict[str, Exact] = {}
    position = 0
    for value in program.graph.inputs:
        size = int(np.prod(value.shape))
        values[value.name] = dyadic(np.eye(n + 1)[position : position + size])
        position += size
    room = MOST_PRODUCTS
    for step in program.steps:
        name = step.node.name
        if isinstance(step.op, Affine):
            values[name], spent = _stepped(step, [values[source] for source in step.node.inputs], n, room)
            room -= spent
        else:
            source = values[step.node.inputs[0]]
            values[name] = Exact(source.numbers * active[name].astype(int).astype(object)[:, None], source.power)
    return values


def _stepped(step: Step, inputs: Sequence[Exact], n: int, room: int) -> tuple[Exact, int]:
    """The forms behind one affine step, and how many products they took."""
    op, node = step.op, step.node
    assert isinstance(op, Affine)
    if step.errors is not None:
        raise TooLarge("a weight is not exactly known")
    size = int(np.prod(node.shape))
    parts, spent = [], 0
    for slot, source in enumerate(inputs):
        matrix = _matrix(step, slot, size)
        rows, columns = matrix.nonzero()
        spent += len(rows) * (n + 1)
        if spent > room:
            raise TooLarge("too many products")
        weights = dyadic(matrix[rows, columns])
        numbers = np.full((size, n + 1), 0, dtype=object)
        for row, column, weight in zip(rows, columns, weights.numbers, strict=True):
            numbers[row] += weight * source.numbers[column]
        parts.append(Exact(numbers, source.power + weights.power))
    b = op.offset(node, step.params)
    if b is not None:
        numbers = np.full((size, n + 1), 0, dtype=object)
        bias = dyadic(b.expand(1, *node.shape).flatten().cpu().numpy())
        numbers[:, n] = bias.numbers
        parts.append(Exact(numbers, bias.power))
    return _sum(parts), spent


def _matrix(step: Step, slot: int, size: int) -> np.ndarray:
    """L by one input, (size, elements of that input): each entry is one weight, or a sum of zeros and one."""
    count = int(np.prod(step.shapes[slot]))
    if count * size > MOST_NUMBERS:
        raise TooLarge("too large a matrix")
    xs = [torch.zeros((count, *shape), dtype=torch.float64) for shape in step.shapes]
    xs[slot] = torch.eye(count, dtype=torch.float64).reshape(count, *step.shapes[slot])
    params = {name: value.cpu().double() for name, value in step.params.items()}
    assert isinstance(step.op, Affine)
    made = step.op.linear(step.node, xs, params)
    return made.expand(count, *step.node.shape).flatten(1).T.numpy()


def _sum(parts: Sequence[Exact]) -> Exact:
    power = max(part.power for part in parts)
    return Exact(np.sum([part.at(power) for part in parts], axis=0), power)


@dataclass(frozen=True, eq=False)
class Leaf:
    """A domain without an open phase, exactly: ``rows`` (forms that a violation needs to be at most zero, the
    goals first), and the box."""

    rows: list[Form]
    goals: int
    lower: list[Fraction]
    upper: list[Fraction]

    def least(self, weights: Sequence[Fraction]) -> Fraction:
        """The least value over the box of the rows weighed."""
        used = [(weight, row) for weight, row in zip(weights, self.rows, strict=True) if weight]
        *mixed, constant = [sum((w * row[j] for w, row in used), Fraction(0)) for j in range(self.n + 1)]
        ends = zip(mixed, self.lower, self.upper, strict=True)
        return constant + sum((min(a * low, a * high) for a, low, high in ends), Fraction(0))

    @property
    def n(self) -> int:
        return len(self.lower)

    def refuted(self, guess: Sequence[float], inside: Sequence[int], strict: bool) -> bool:
        """Whether the rows exclude each other. ``guess`` ≥ 0: about what weighs each row; ``inside``: inputs whose
        coefficient in the combination should vanish; ``strict``: the goals must be below zero. A wrong guess
        proves nothing."""
        weights = balanced(self.rows, guess, inside)
        if weights is None or any(weight < 0 for weight in weights):
            return False
        value = self.least(weights)
        return value > 0 or (strict and value == 0 and any(weight > 0 for weight in weights[: self.goals]))


def leaf_of(
    relaxation: Relaxation, columns: Columns, goals: Goals, box: tuple[np.ndarray, np.ndarray], phase: np.ndarray
) -> Leaf:
    """The leaf of phases (U,), 1 where z ≤ 0 and −1 where z ≥ 0, none open; ``box``: (n,), (n,).

    Raises TooLarge.
    """
    if goals.y_error is not None or goals.x_error is not None:
        raise TooLarge("a row is not exactly known")
    program = relaxation.program
    active = {}
    relevant = relevance(program, _read(program, goals))
    for i, (name, source) in enumerate(zip(columns.names, columns.sources, strict=True)):
        low, high = (end.flatten().cpu().numpy() for end in relaxation.intervals[source])
        passes, shut = low >= 0, high <= 0
        chosen = columns.index[i].cpu().numpy()
        passes[chosen], shut[chosen] = phase[columns.part(i)] < 0, phase[columns.part(i)] > 0
        idle = ~relevant[source].flatten().cpu().numpy() if source in relevant else np.ones_like(passes)
        if not (passes | shut | idle).all():  # a neuron that no goal reads may be in either phase
            raise TooLarge("a phase is open")
        active[name] = passes
    values = affine(program, active)
    kept: list[Form] = []
    for i, source in enumerate(columns.sources):
        signs = phase[columns.part(i)].tolist()
        for element, sign in zip(columns.index[i].tolist(), signs, strict=True):
            kept.append([number if sign > 0 else -number for number in values[source].row(element)])
    lower, upper = ([Fraction(float(end)) for end in side] for side in box)
    return Leaf([*_goal_rows(program, goals, values), *kept], len(goals), lower, upper)


def _read(program: Program, goals: Goals) -> dict[str, torch.Tensor]:
    """The elements of outputs that some goal reads: bool (1, *shape) by value."""
    outputs = program.graph.outputs
    sizes = [torch.Size(program.shapes[out.value]).numel() for out in outputs]
    read: dict[str, torch.Tensor] = {}
    for out, part in zip(outputs, (goals.y != 0).any(0).split(sizes), strict=True):
        mask = part.reshape(1, *program.shapes[out.value])
        read[out.value] = read[out.value] | mask if out.value in read else mask
    return read


def _goal_rows(program: Program, goals: Goals, values: dict[str, Exact]) -> list[Form]:
    outputs = [(values[out.value], i) for out in program.graph.outputs for i in range(len(values[out.value].numbers))]
    rows = []
    for g in range(len(goals)):
        total = [Fraction(0)] * (values[program.graph.inputs[0].name].numbers.shape[1])
        for weight, (value, i) in zip(goals.y[g].tolist(), outputs, strict=True):
            if weight:
                total = [t + Fraction(weight) * number for t, number in zip(total, value.row(i), strict=True)]
        if goals.x is not None:
            own = [*map(Fraction, goals.x[g].tolist()), Fraction(0)]
            total = [t + number for t, number in zip(total, own, strict=True)]
        total[-1] -= Fraction(float(goals.rhs[g]))
        rows.append(total)
    return rows


def balanced(rows: Sequence[Form], guess: Sequence[float], inside: Sequence[int]) -> list[Fraction] | None:
    """Weights near the guess, zero where it is, with which the coefficients of ``inside`` vanish exactly.

    None: there are none by the elimination of that system.
    """
    most = max(guess, default=0.0)
    support = sorted((i for i, weight in enumerate(guess) if weight > 1e-9 * most), key=lambda i: guess[i])
    if not most > 0:
        return None
    system = [[rows[i][j] for i in support] for j in inside]
    pivots: list[int] = []  # column of each reduced row; the heaviest weights come last and are left free
    for column in range(len(support)):
        done = len(pivots)
        row = next((r for r in range(done, len(system)) if system[r][column]), None)
        if row is None:
            continue
        system[done], system[row] = system[row], system[done]
        head = system[done][column]
        system[done] = [number / head for number in system[done]]
        for r, other in enumerate(system):
            if r != done and other[column]:
                factor = other[column]
                system[r] = [a - factor * b for a, b in zip(other, system[done], strict=True)]
        pivots.append(column)
    found = [Fraction(guess[i]) for i in support]
    free = [column for column in range(len(support)) if column not in pivots]
    if not free:
        return None
    for row, column in enumerate(pivots):
        found[column] = -sum((system[row][f] * found[f] for f in free), Fraction(0))
    weights = [Fraction(0)] * len(rows)
    for i, weight in zip(support, found, strict=True):
        weights[i] = weight
    return weights
