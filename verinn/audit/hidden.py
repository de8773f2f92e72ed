"""Attacks on an instance of the suite, by gradients of the network as verinn evaluates it.

What is climbed is how far the property is violated: the least row of a conjunction, the best conjunction of the
disjunction. Truth doesn't depend on it, only the record that attacks found nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from verinn.audit import attacks
from verinn.audit.case import Case
from verinn.audit.query import And, Formula, Query, Row
from verinn.errors import InputError


def attacked(case: Case, seed: int, many: tuple[attacks.Attack, ...] = attacks.SHORT) -> tuple[Mapping[str, Any], ...]:
    """What attacks find on a case of one network; empty where it has several, or verinn can't evaluate it.

    The box that is attacked is the hull of the bounds that all of the property implies.
    """
    if len(case.models) != 1 or case.query.kinship:
        return ()
    from verinn.io.onnx_reader import read_graph
    from verinn.ops.program import Program
    from verinn.passes.simplify import simplify

    try:
        program = Program.prepare(simplify(read_graph(case.models["f"])), torch.float64)
    except (InputError, RuntimeError):
        return ()
    lower, upper = hull(case.query)
    names = [tensor for tensor in case.query.tensors if not tensor.output]
    sizes = [tensor.size for tensor in names]
    scale = (upper - lower).clamp(min=1e-300)

    def margin(place: Tensor) -> Tensor:
        x = lower + place * scale
        y = program.flat(x)
        values: dict[str, Tensor] = dict(zip([t.name for t in names], x.split(sizes, 1), strict=True))
        outs = [tensor for tensor in case.query.tensors if tensor.output]
        values.update(zip([t.name for t in outs], y.split([t.size for t in outs], 1), strict=True))
        return violation(And(case.query.assertions), values)

    unit = torch.zeros(len(lower), dtype=torch.float64)
    return attacks.run_all(margin, unit, unit + (upper > lower), many, seed)


def violation(formula: Formula, values: Mapping[str, Tensor]) -> Tensor:
    """How far points fulfil a formula (P,): zero or more where they do."""
    if isinstance(formula, Row):
        total = sum(float(factor) * values[name][:, index] for name, index, factor in formula.terms) - float(
            formula.bound
        )
        assert isinstance(total, Tensor)
        if formula.relation == "==":
            return -total.abs()
        return total if formula.relation in (">=", ">") else -total
    parts = torch.stack([violation(part, values) for part in formula.parts])
    return parts.amin(0) if isinstance(formula, And) else parts.amax(0)


def hull(query: Query) -> tuple[Tensor, Tensor]:
    """The least box (n,), (n,) that holds every input that the property allows, as far as bounds tell."""
    names = [tensor for tensor in query.tensors if not tensor.output]
    ends = []
    for side in (">=", "<="):
        values = [
            _bound(And(query.assertions), tensor.name, index, side) for tensor in names for index in range(tensor.size)
        ]
        ends.append(torch.tensor([float("nan") if value is None else value for value in values], dtype=torch.float64))
    assert not bool(torch.isnan(torch.cat(ends)).any()), "an input isn't bounded"
    return ends[0], ends[1]


def _bound(formula: Formula, name: str, index: int, side: str) -> float | None:
    """The bound that a formula implies for an element; None for none."""
    tighter, looser = (max, min) if side == ">=" else (min, max)
    if isinstance(formula, Row):
        if formula.relation == side and len(formula.terms) == 1 and formula.terms[0] == (name, index, Fraction(1)):
            return float(formula.bound)
        return None
    values = [_bound(part, name, index, side) for part in formula.parts]
    if isinstance(formula, And):
        known = [value for value in values if value is not None]
        return tighter(known) if known else None
    return None if None in values else looser(value for value in values if value is not None)
