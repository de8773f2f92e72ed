"""Rows that only touch their bound: what rounding would keep open for ever, decided without rounding.

A strict row is refuted where its least value is exactly its bound, which no bound with a price of rounding
can show. Two ways: from intervals, where a row is one number of the network (a ReLU or a square is at least
zero, exactly); and in fractions, where every phase of a domain is settled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from scipy.sparse import csc_matrix
from torch import Tensor

from verinn.bounds.crown import Relaxation
from verinn.exact.lp import Programme, solved
from verinn.exact.rational import MOST_PRODUCTS, Exact, Form, Leaf, TooLarge, affine, balanced
from verinn.ops.activation import Relu
from verinn.ops.program import Program
from verinn.search.spec import Spec

#: coefficients of a batch of domains that are looked at
MOST_TERMS = 1 << 21
#: settled domains and conjunctions of one batch that are weighed in fractions
MOST_LEAVES = 64
#: rows that exclude each other by about nothing, in units of their size, are a matter of exact arithmetic
NEAR = 1e-9
#: seconds for one linear programme
PATIENCE = 1.0


@dataclass(frozen=True, eq=False)
class PlainRows:
    """Rows of a spec that name outputs with exactly known coefficients and no inputs.

    ``weights``: by value the coefficients (S, R, size), those of outputs that are one value added up;
    ``plain`` bool (S, R); ``exact`` by value: whether a product with each coefficient is exact.
    """

    weights: dict[str, Tensor]
    exact: dict[str, Tensor]
    plain: Tensor
    strict: Tensor
    rhs: Tensor
    alone: bool

    @staticmethod
    def of(spec: Spec, program: Program) -> PlainRows:
        sizes = [torch.Size(program.shapes[out.value]).numel() for out in program.graph.outputs]
        weights: dict[str, Tensor] = {}
        plain = torch.ones(spec.rhs.shape, dtype=torch.bool, device=spec.rhs.device)
        for part in (spec.x, spec.x_error, spec.y_error):
            if part is not None:
                plain &= ~(part != 0).any(-1)
        for out, part in zip(program.graph.outputs, spec.y.split(sizes, -1), strict=True):
            known = weights.get(out.value)
            weights[out.value] = part if known is None else known + part
            if known is not None:  # a sum of small whole numbers is exact
                small = (part == part.round()) & (known == known.round()) & (part.abs() + known.abs() < 2.0**52)
                plain &= small.all(-1)
        exact = {name: torch.frexp(w.abs()).mantissa == 0.5 for name, w in weights.items()}
        return PlainRows(weights, exact, plain, spec.strict, spec.rhs, len(spec.cases) == 1)

    def beaten(self, relaxation: Relaxation, case: Tensor) -> Tensor:
        """bool (D, R): rows that hold nowhere in a domain, by the intervals of the values they name."""
        pick = slice(0, 1) if self.alone else case
        plain = self.plain[pick]
        if len(case) * sum(w[0].numel() for w in self.weights.values()) > MOST_TERMS:
            return torch.zeros((len(case), plain.shape[1]), dtype=torch.bool, device=plain.device)
        total = torch.zeros((1, 1), dtype=torch.float64, device=plain.device)
        count = torch.zeros_like(total)
        good = plain
        for name, weight in self.weights.items():
            low, high = (end.double().flatten(1).unsqueeze(1) for end in relaxation.intervals[name])
            w = weight[pick]
            end = torch.where(w > 0, low, torch.where(w < 0, high, 0.0))
            term = w * end
            safe = (end == 0) | (self.exact[name][pick] & (end.abs() > 1e-200) & (term.abs() > 1e-200))
            good = good & (safe & term.isfinite()).all(-1)
            total, count = total + term.sum(-1), count + (term != 0).sum(-1)
        least, rhs = total, self.rhs[pick]
        return good & (count <= 1) & ((least > rhs) | (self.strict[pick] & (least >= rhs)))


def refuted_leaves(
    program: Program, spec: Spec, relaxation: Relaxation, case: Tensor, still: Tensor, boxes: tuple[Tensor, Tensor]
) -> Tensor:
    """What stays open (D, J) when domains without an unstable neuron are weighed in fractions.

    ``boxes``: lower, upper (D, n). Only conjunctions with a strict row are tried, and those only that about
    touch their bound.
    """
    hopeful = still & _strict(spec)[case]
    if not bool(hopeful.any()) or not all(step.affine or isinstance(step.op, Relu) for step in program.steps):
        return still
    near = hopeful & _settled(program, relaxation, len(case)).unsqueeze(1)
    result = still.clone()
    known: dict[bytes, dict[str, Exact]] = {}  # forms by the phases that they hang on
    room = MOST_PRODUCTS
    for d, j in near.nonzero().tolist()[:MOST_LEAVES]:
        active = _active(program, relaxation, d)
        key = b"".join(part.tobytes() for part in active.values())
        if key not in known:
            room -= _products(program)
            if room < 0:
                break
            try:
                known[key] = affine(program, active)
            except TooLarge:
                break
        lower, upper = ([Fraction(float(end)) for end in side[d]] for side in boxes)
        forms, strict = _rows(program, spec, known[key], int(case[d]), j)
        phases = _phases(program, relaxation, known[key], d)
        rows = Leaf([*forms, *phases], 0, lower, upper)
        result[d, j] = not _refuted(rows, [*strict, *[False] * len(phases)])
    return result


def _products(program: Program) -> int:
    """About how many products of integers the forms of one choice of phases take."""
    n = sum(math.prod(value.shape) for value in program.graph.inputs)
    return (n + 1) * sum(math.prod(step.node.shape) * max(1, step.forward_terms) for step in program.steps)


def _settled(program: Program, relaxation: Relaxation, size: int) -> Tensor:
    """Domains (D,) in which no ReLU is unstable."""
    settled = torch.ones(size, dtype=torch.bool, device=program.device)
    for step in program.steps:
        if isinstance(step.op, Relu):
            low, high = relaxation.intervals[step.node.inputs[0]]
            settled &= ~((low < 0) & (high > 0)).flatten(1).any(1)
    return settled


def _strict(spec: Spec) -> Tensor:
    """bool (S, J): whether a conjunction has a strict row."""
    result = torch.zeros((len(spec.strict), spec.conjunctions), dtype=torch.float64, device=spec.rhs.device)
    return result.index_add(1, spec.owner, spec.strict.double()) > 0


def _active(program: Program, relaxation: Relaxation, d: int) -> dict[str, np.ndarray]:
    return {
        step.node.name: (relaxation.intervals[step.node.inputs[0]][0][d] >= 0).flatten().cpu().numpy()
        for step in program.steps
        if isinstance(step.op, Relu)
    }


def _rows(program: Program, spec: Spec, values: dict[str, Exact], case: int, j: int) -> tuple[list[Form], list[bool]]:
    """The rows of a conjunction, and the constraints on the inputs, as exact forms; whether each is strict."""
    outputs = [(values[out.value], i) for out in program.graph.outputs for i in range(len(values[out.value].numbers))]
    n = len(spec.lower[0])
    rows, strict = [], []
    for r in (spec.owner == j).nonzero().squeeze(1).tolist():
        if any(e is not None and bool((e[case, r] != 0).any()) for e in (spec.y_error, spec.x_error)):
            continue  # not exactly known: left out
        total = [Fraction(0)] * (n + 1)
        for weight, (value, i) in zip(spec.y[case, r].tolist(), outputs, strict=True):
            if weight:
                total = [t + Fraction(weight) * number for t, number in zip(total, value.row(i), strict=True)]
        if spec.x is not None:
            own = [*map(Fraction, spec.x[case, r].tolist()), Fraction(0)]
            total = [t + number for t, number in zip(total, own, strict=True)]
        total[-1] -= Fraction(float(spec.rhs[case, r]))
        rows.append(total)
        strict.append(bool(spec.strict[case, r]))
    for a, c in zip(spec.cut[case].tolist(), spec.cut_c[case].tolist(), strict=True):
        rows.append([*map(Fraction, a), Fraction(c)])
        strict.append(False)
    return rows, strict


def _phases(program: Program, relaxation: Relaxation, values: dict[str, Exact], d: int) -> list[Form]:
    """What phases that were chosen say: rows that are at most zero, of neurons whose interval ends at zero."""
    rows = []
    for step in program.steps:
        if isinstance(step.op, Relu):
            source = step.node.inputs[0]
            for sign, end in zip((-1, 1), relaxation.intervals[source], strict=True):
                for element in (end[d] == 0).flatten().nonzero().squeeze(1).tolist():
                    rows.append([sign * number for number in values[source].row(element)])
    return rows


def _refuted(leaf: Leaf, strict: list[bool]) -> bool:
    """Whether the rows of a leaf, those that are ``strict`` below zero, exclude each other.

    A linear programme guesses the multipliers: the strict rows as far below zero as the others allow.
    """
    if not any(strict):
        return False
    lower, upper = (np.array([float(end) for end in side]) for side in (leaf.lower, leaf.upper))
    half = np.where(upper > lower, (upper - lower) / 2, 1.0)
    rows = np.array([[float(number) for number in row] for row in leaf.rows])
    a = rows[:, :-1] * half
    c = rows[:, -1] + rows[:, :-1] @ (lower + half)
    size = np.maximum(np.abs(a).max(1, initial=0.0), np.abs(c) * 1e-3)
    size = np.where(size > 0, size, 1.0)
    matrix = np.concatenate([a / size[:, None], -np.array(strict, float)[:, None]], 1)
    ends = np.where(upper > lower, 1.0, -1.0)
    programme = Programme(
        np.array([0.0] * len(half) + [1.0]),
        csc_matrix(matrix),
        np.full(len(c), -np.inf),
        -c / size,
        np.array([-1.0] * len(half) + [-np.inf]),
        np.array([*ends, np.inf]),
    )
    answer = solved(programme, PATIENCE)
    if answer is None or answer.x[-1] < -NEAR:
        return False
    inside = np.flatnonzero((np.abs(answer.reduced[:-1]) < NEAR) & (upper > lower)).tolist()
    weights = balanced(leaf.rows, ((-answer.row_dual).clip(min=0) / size).tolist(), inside)
    if weights is None or any(weight < 0 for weight in weights):
        return False
    least = leaf.least(weights)
    return least > 0 or (least == 0 and any(w > 0 and s for w, s in zip(weights, strict, strict=True)))
