"""Contraction within a search: the rows of the one conjunction left open, and which input is worth halving.

Where the output rows force neurons into phases, the network is a set of constraints over its inputs, and
the search one of the DPLL kind (Davis, Logemann and Loveland, CACM 1962): contraction propagates, and a
domain is halved in the input that takes part in most constraints with little room left (Jeroslow and Wang,
"Solving propositional satisfiability problems", 1990, whose weight of a clause of k literals is 2^−k).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from verinn.bounds.contract import Box, Contractor, Rows, Transpose, contract, rooms
from verinn.bounds.crown import Relaxation
from verinn.bounds.domain import relax, split_inputs
from verinn.bounds.interval import propagate
from verinn.bounds.region import Region, clip
from verinn.bounds.rounding import cast_down, cast_up
from verinn.ops.base import Elementwise
from verinn.ops.program import Program, Step
from verinn.search.spec import Spec
from verinn.search.store import Domains

#: cases looked at to find out whether contraction pays
_SAMPLE = 16
#: a constraint that cuts off less than this share of a value's range is settled
_SETTLED = 1e-3
#: how much more an input counts that constraints pull at from both sides
_BOTH = 1024
#: a row that says nothing
_NOTHING = -1e300


def pays(contractor: Contractor, spec: Spec) -> bool:
    """Whether, by intervals alone, the first conjunctions decide the phases of a good part of the neurons."""
    program = contractor.program
    lower, upper = spec.lower[:_SAMPLE], spec.upper[:_SAMPLE]
    if not bool((lower.isfinite() & upper.isfinite()).all()):
        return False
    count = len(lower)
    case = torch.arange(count, device=lower.device)
    open_ = torch.zeros((count, spec.conjunctions), dtype=torch.bool, device=lower.device)
    open_[:, 0] = True
    box = relax(program, cast_down(lower, program.dtype), cast_up(upper, program.dtype), refine=False).intervals
    after, empty = contract(contractor, box, rows_of(program, spec, case, open_), 2)
    won, of = 0, 0
    for step in program.steps:
        if not isinstance(step.op, Elementwise):
            continue
        low, high = after[step.node.inputs[0]]
        old_low, old_high = box[step.node.inputs[0]]
        loose = (old_low < 0) & (old_high > 0) & ~empty.reshape(-1, *[1] * (old_low.dim() - 1))
        decided = torch.minimum(high, -low) < 0.1 * torch.minimum(old_high, -old_low)
        won += int((loose & decided).sum())
        of += int(loose.sum())
    return won > 0.2 * of


def rows_of(program: Program, spec: Spec, case: Tensor, open_: Tensor) -> Rows:
    """The rows that must hold where only one conjunction is open; none elsewhere. ``case`` (D,), ``open_`` (D, J)."""
    pick = slice(0, 1) if len(spec.cases) == 1 else case
    names = [out.value for out in program.graph.outputs]
    a, error = spec.y[pick], None if spec.y_error is None else spec.y_error[pick]
    if spec.x is not None:
        names += [value.name for value in program.graph.inputs]
        a = torch.cat([a, spec.x[pick]], -1)
        if error is not None or spec.x_error is not None:
            y_error = torch.zeros_like(spec.y[pick]) if error is None else error
            x_error = torch.zeros_like(spec.x[pick]) if spec.x_error is None else spec.x_error[pick]
            error = torch.cat([y_error, x_error], -1)
    needed = open_[:, spec.owner] & (open_.sum(1, keepdim=True) == 1)
    c = torch.where(needed, -spec.rhs[pick].expand(len(case), -1), _NOTHING)
    return Rows(tuple(names), a, c, error)


def tighten(
    contractor: Contractor, spec: Spec, domains: Domains, relaxation: Relaxation, a: Tensor, c: Tensor
) -> tuple[Domains, Relaxation, Tensor, Tensor]:
    """Domains as contraction leaves them, what is known of them, which are not empty (D,), and ``stakes`` (D, n).

    ``relaxation``: intervals of all values over domains at least as wide. ``a`` (D, R, n), ``c`` (D, R): the
    spec's rows, bounded from below by linear forms: they know how terms hang together, intervals do not.
    """
    program = contractor.program
    rows = rows_of(program, spec, domains.case, domains.open)
    clipped = clip(Region(domains.lower, domains.upper, a, torch.where(rows.c > _NOTHING, c, _NOTHING)))
    lower, upper = cast_down(clipped.lower, program.dtype), cast_up(clipped.upper, program.dtype)
    box: Box = dict(relaxation.intervals)
    lows, highs = split_inputs(program, lower), split_inputs(program, upper)
    for name, low in lows.items():
        box[name] = torch.fmax(low, box[name][0]), torch.fmin(highs[name], box[name][1])
    box, empty = contract(contractor, box, rows, 24)
    names = [value.name for value in program.graph.inputs]
    after = replace(
        domains,
        lower=torch.maximum(clipped.lower, torch.cat([box[name][0].flatten(1) for name in names], 1).double()),
        upper=torch.minimum(clipped.upper, torch.cat([box[name][1].flatten(1) for name in names], 1).double()),
        known={name: box[name] for name in domains.known},
    )
    left = ~empty & ~(after.lower > after.upper).any(1)
    relaxation = Relaxation(program, box, relaxation.alphas).select(left)
    return after.select(left), relaxation, left, stakes(contractor, relaxation.intervals)


def stakes(contractor: Contractor, box: Box) -> Tensor:
    """What halving each input would decide (D, n): how often it takes part in constraints, 2^−room each.

    The room of a constraint is counted in what the input alone can move: the number of others that may
    still give way. Inputs that matter in both directions come first. Constraints are the sums made of
    inputs, or of copies of them; those of deeper values say nothing here.
    """
    ups = {v.name: torch.zeros_like(box[v.name][0]).flatten(1) for v in contractor.program.graph.inputs}
    downs = dict(ups)
    for step in reversed(_shallow(contractor.program)):
        transpose = contractor.transposes[step.node.name]
        if step.forward_terms:
            more = _weights(transpose, box)
        elif step.node.name in ups:  # copies: what is at stake for them is at stake for the originals
            more = _copied(transpose, ups[step.node.name]), _copied(transpose, downs[step.node.name])
        else:
            continue
        for table, flat in zip((ups, downs), more, strict=True):
            sizes = [torch.Size(shape).numel() for shape in step.shapes]
            for name, part in zip(step.node.inputs, flat.split(sizes, 1), strict=True):
                table[name] = table[name] + part if name in table else part
    names = [v.name for v in contractor.program.graph.inputs]
    up = torch.cat([ups[name] for name in names], 1).double()
    down = torch.cat([downs[name] for name in names], 1).double()
    most = torch.maximum(up, down).amax(1, keepdim=True).clamp(min=1e-300)
    up, down = up / most, down / most
    return _BOTH * up * down + up + down


def _shallow(program: Program) -> list[Step]:
    """Affine steps that read inputs or copies of inputs only."""
    known = {value.name for value in program.graph.inputs}
    found = []
    for step in program.steps:
        if step.affine and step.node.inputs and known.issuperset(step.node.inputs):
            found.append(step)
            if step.forward_terms == 0:
                known.add(step.node.name)
    return found


def _copied(transpose: Transpose, flat: Tensor) -> Tensor:
    """Of a step that copies: what is known of its elements (D, O), summed for each original (D, I)."""
    picked = flat.index_select(1, transpose.index.reshape(-1)).reshape(len(flat), *transpose.index.shape)
    return (picked * transpose.inverse.isfinite()).sum(-1)


def _weights(transpose: Transpose, box: Box) -> tuple[Tensor, Tensor]:
    """Per element of a step's inputs (D, I): the weight of the constraints that a rise, that a fall tightens."""
    step, z = transpose.step, box[transpose.step.node.name]
    image = propagate(step, [box[name] for name in step.node.inputs])
    span = (image[1] - image[0]) * _SETTLED
    bites = torch.cat([(image[1] - z[1] > span).flatten(1), (z[0] - image[0] > span).flatten(1)], 1)
    room = torch.where(bites, rooms(z, image), torch.inf)
    width = torch.cat([(box[name][1] - box[name][0]).flatten(1) for name in step.node.inputs], 1).unsqueeze(-1)
    half = room.shape[1] // 2

    def total(falls: Tensor) -> Tensor:
        index = transpose.index + half * falls.long()
        steps = room.index_select(1, index.reshape(-1)).reshape(len(room), *index.shape) * transpose.inverse
        return torch.exp2(-steps / width).nan_to_num(0.0).sum(-1)

    return total(~transpose.rising), total(transpose.rising)
