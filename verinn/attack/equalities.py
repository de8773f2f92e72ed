"""Points that fulfil equalities exactly: near a point that nearly does, float32 numbers that do.

Equalities of inputs are solved in fractions, the free inputs moved to round numbers first, so that the others
are float32 numbers too. Equalities of outputs are approached by Newton's method, then hit by chance: among many
points a few units in the last place away, the rounded output takes every value nearby.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from verinn.ops.program import Program
from verinn.search.spec import Spec

#: bits after the point that free inputs keep, in turn; None: float32 as it is
GRIDS = (None, 20, 14, 10, 7, 5, 3, 2, 1, 0)
#: points tried around one, in turn, and how far they may be in units in the last place
CROWD, REACHES = 2048, (2, 16, 128, 4096)
#: points handed out for one that is given
MOST = 32
#: rows of a conjunction among which equalities are looked for
MOST_ROWS = 2048


def has_equalities(spec: Spec) -> bool:
    """Whether the first case has two rows that say the opposite of each other."""
    return any(bool(_of(spec, 0, j)) for j in _some(spec))


def exact_points(
    program: Program, spec: Spec, points: Tensor, cases: Tensor, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """For points (P, n) with their case (P,), nearby ones (1, n) that fulfil the equalities of a conjunction as far
    as float32 execution tells; ``program`` runs in float32."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        rows = spec.values(cases, points, program.flat(points.to(program.dtype)).double())
    for point, case, values in zip(points.cpu(), cases.tolist(), rows.cpu(), strict=True):
        worst = torch.stack([values[spec.owner.cpu() == j].amax() for j in _some(spec)])
        j = int(worst.argmin())
        equal = _of(spec, case, j)
        if not equal:
            continue
        inner = [e for e in equal if not e.on_outputs]
        outer = [e for e in equal if e.on_outputs]
        for start in _solved(spec, case, point, inner) if inner else [point]:
            found = [start] if not outer else _hits(program, spec, case, j, start, inner, outer, generator)
            for x in found:
                yield x.unsqueeze(0).to(points.device), cases[:1].new_tensor([case])


@dataclass(frozen=True, eq=False)
class _Equality:
    """x·X + y·Y = rhs."""

    x: Tensor
    y: Tensor
    rhs: float

    @property
    def on_outputs(self) -> bool:
        return bool((self.y != 0).any())


def _some(spec: Spec) -> range:
    return range(min(spec.conjunctions, 64))


def _of(spec: Spec, case: int, j: int) -> list[_Equality]:
    """The equalities of a conjunction and of its case's inputs: pairs of rows that are each other's negative."""
    mine = (spec.owner == j).nonzero().squeeze(1)
    none = spec.cut.new_zeros((len(mine), spec.cut.shape[2]))
    x = torch.cat([none if spec.x is None else spec.x[case][mine], spec.cut[case]]).cpu()
    y = torch.cat([spec.y[case][mine], spec.y.new_zeros((spec.cut.shape[1], spec.y.shape[2]))]).cpu()
    rhs = torch.cat([spec.rhs[case][mine], -spec.cut_c[case]]).cpu()
    if len(rhs) > MOST_ROWS:
        return []
    # a random mix of coefficients tells candidates, which are then compared
    generator = torch.Generator().manual_seed(0)
    mix = [torch.randn(part.shape[1], generator=generator, dtype=torch.float64) for part in (x, y)]
    key = x @ mix[0] + y @ mix[1]
    opposite = (key.unsqueeze(1) + key).abs() <= 1e-9 * key.abs()
    near = (rhs.unsqueeze(1) + rhs).abs() <= 4e-16 * rhs.abs() + 1e-300
    found: list[_Equality] = []
    taken: set[int] = set()
    for a, b in (opposite & near).triu(1).nonzero().tolist():
        zero = bool((x[a] == 0).all() and (y[a] == 0).all())
        if not zero and not taken & {a, b} and bool((x[a] == -x[b]).all() and (y[a] == -y[b]).all()):
            found.append(_Equality(x[a], y[a], float(rhs[a])))
            taken |= {a, b}
    return found


def _box(spec: Spec, case: int) -> tuple[np.ndarray, np.ndarray]:
    one = spec.cases[case]
    return one.witness_lower, one.witness_upper


def _solved(spec: Spec, case: int, point: Tensor, equal: list[_Equality]) -> Iterator[Tensor]:
    """Points near the given one where all equalities of inputs hold exactly, in float32 numbers inside the box."""
    low, high = _box(spec, case)
    first = np.clip(point.numpy().astype(np.float32), low, high)
    rows = np.stack([e.x.numpy() for e in equal])
    used = np.flatnonzero(rows.any(0))
    room = np.where(np.isfinite(high - low), high - low, 1.0)
    for bits in GRIDS:
        x = first.copy()
        if bits is not None:
            moved = np.round(x[used].astype(np.float64) * 2.0**bits) / 2.0**bits
            x[used] = np.clip(moved, low[used], high[used]).astype(np.float32)
        found = _eliminated(rows, [Fraction(e.rhs) for e in equal], x, used, room)
        if found is not None and bool(((found >= low) & (found <= high)).all()):
            yield torch.from_numpy(found.astype(np.float64))


def _eliminated(
    rows: np.ndarray, rhs: list[Fraction], x: np.ndarray, used: np.ndarray, room: np.ndarray
) -> np.ndarray | None:
    """x with one input of each equality solved for exactly; None where that is no float32 number."""
    system = [{int(i): Fraction(float(row[i])) for i in np.flatnonzero(row)} for row in rows]
    limits = list(rhs)
    pivots: list[int] = []
    for r, row in enumerate(system):
        free = [i for i in row if row[i]]
        if not free:
            if limits[r]:
                return None
            continue
        pivot = max(free, key=lambda i: abs(float(row[i])) * float(room[i]))
        pivots.append(pivot)
        head = row[pivot]
        system[r] = {i: value / head for i, value in row.items()}
        limits[r] /= head
        for other in range(len(system)):
            factor = system[other].get(pivot, Fraction(0))
            if other != r and factor:
                keys = {*system[other], *system[r]}
                system[other] = {
                    i: system[other].get(i, Fraction(0)) - factor * system[r].get(i, Fraction(0)) for i in keys
                }
                limits[other] -= factor * limits[r]
    result = x.copy()
    for row, limit in zip(system, limits, strict=True):
        pivot_ = next((i for i in pivots if row.get(i) == 1), None)
        if pivot_ is None:
            continue
        value = limit - sum(c * Fraction(float(x[i])) for i, c in row.items() if i not in pivots)
        result[pivot_] = np.float32(float(value))
        if Fraction(float(result[pivot_])) != value:
            return None
    return result


def _hits(
    program: Program, spec: Spec, case: int, j: int, start: Tensor, inner: list[_Equality], outer: list[_Equality],
    generator: torch.Generator,
) -> list[Tensor]:  # fmt: skip
    """Points near ``start`` where the whole conjunction holds, equalities exactly, by the float32 program."""
    low, high = (torch.from_numpy(end) for end in _box(spec, case))
    fixed = torch.zeros(len(start), dtype=torch.bool)
    for e in inner:
        fixed |= e.x != 0
    if bool(fixed.all()):
        return []
    x = _newton(program, spec, start, outer, fixed).float()
    x = torch.minimum(torch.maximum(x, low), high)
    mine = spec.owner.cpu() == j
    device = spec.lower.device
    found: list[Tensor] = []
    for reach in REACHES:
        steps = torch.randint(-reach, reach + 1, (CROWD, len(x)), generator=generator).float()
        some = torch.rand((CROWD, len(x)), generator=generator) < torch.rand((CROWD, 1), generator=generator)
        steps = torch.where(some & ~fixed, steps, 0.0)
        steps[0] = 0.0
        tried = x * (1 + steps * 2.0**-23) + (x == 0) * steps * 2.0**-30
        tried = torch.minimum(torch.maximum(tried, low), high)
        with torch.no_grad():
            y = program.flat(tried.to(device).to(program.dtype)).double()
            rows = spec.values(torch.full((CROWD,), case, device=device), tried.to(device).double(), y).cpu()
        good = (rows[:, mine] <= 0).all(1).nonzero().squeeze(1)[:MOST]
        found.extend(tried[good].double())
        if found:
            break
    return found


def _newton(program: Program, spec: Spec, start: Tensor, outer: list[_Equality], fixed: Tensor) -> Tensor:
    """A few steps of Newton's method toward the equalities of outputs, the ``fixed`` inputs left alone."""
    x = start.double()
    device = spec.lower.device
    for _ in range(6):
        with torch.enable_grad():
            moving = x.clone().requires_grad_(True)
            y = program.flat(moving.unsqueeze(0).to(device).to(program.dtype))[0].double().cpu()
            values = [(e.y * y).sum() + (e.x * moving).sum() - e.rhs for e in outer]
            slopes = [torch.autograd.grad(value, moving, retain_graph=True, allow_unused=True)[0] for value in values]
        if any(slope is None for slope in slopes):
            return x
        jacobian = torch.stack([torch.where(fixed, 0.0, slope) for slope in slopes])
        residual = torch.stack([value.detach() for value in values])
        step = torch.linalg.lstsq(jacobian, residual.unsqueeze(1), driver="gelsd").solution.squeeze(1)
        if not bool(step.isfinite().all()):
            return x
        x = x - step
    return x


__all__ = ["exact_points", "has_equalities"]
