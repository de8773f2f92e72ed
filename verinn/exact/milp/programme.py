"""A formula's rows in HiGHS: one linear programme, asked about domain after domain; and the integer programme.

In a domain the rows of its phases are switched on, all others have no ends. How far the property's rows have to be
exceeded (t) is minimised; from one domain to the next only ends change, so the dual simplex goes on from the last
basis. Whatever HiGHS says is a guess: multipliers to be weighed, points to be tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any as Anything

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix, hstack, vstack

from verinn.exact.milp.system import System

#: feasibility tolerances asked of HiGHS
_TOLERANCE = 1e-9
#: t is not sought below this part of a row: a violation is clear by then
_CLEAR = -1.0


@dataclass(frozen=True, eq=False)
class Guess:
    """``weights`` (R,): multipliers of the rows, their signs as ``System.least`` wants them; ``point`` (V,): None
    where HiGHS says that there is none; ``excess``: t there."""

    weights: np.ndarray
    point: np.ndarray | None
    excess: float


class Programme:
    """The linear programme of one system. Variables are the system's and t, rows are measured by their size."""

    def __init__(self, system: System):
        import highspy  # takes a quarter of a second

        self._h = highspy
        self.system = system
        goal = csr_matrix(np.where(system.goal, -1.0, 0.0)[:, None])
        scale = csr_matrix((1 / system.size, (np.arange(system.rows),) * 2), shape=(system.rows,) * 2)
        self._matrix = csc_matrix(hstack([scale @ system.matrix, goal]))
        self._end = -system.const / system.size
        self._active = np.zeros(system.rows, dtype=bool)
        self._box = np.append(system.lower, _CLEAR), np.append(system.upper, np.inf)
        self._solver = self._made()

    def _made(self) -> Anything:
        solver = self._h.Highs()
        _quiet(solver, "simplex")
        solver.setOptionValue("presolve", "off")
        cost = np.zeros(self._matrix.shape[1])
        cost[-1] = 1.0
        none = np.full(self.system.rows, np.inf)
        solver.passModel(_model(self._h, cost, self._matrix, (-none, none), self._box))
        return solver

    def solved(self, active: np.ndarray, lower: np.ndarray, upper: np.ndarray, seconds: float) -> Guess | None:
        """The guess where rows ``active`` (R,) hold and variables keep to ranges (V,); None: HiGHS gave up."""
        self._switch(active)
        self._move(lower, upper)
        solver = self._solver
        solver.setOptionValue("time_limit", solver.getRunTime() + max(0.01, seconds))  # its clock runs on
        solver.run()
        status = solver.getModelStatus()
        if status == self._h.HighsModelStatus.kInfeasible:
            found, exists, ray = solver.getDualRay()
            if found == self._h.HighsStatus.kError or not exists or len(ray) != self.system.rows:
                return None
            return Guess(self._weights(np.asarray(ray)), None, math.inf)
        if status != self._h.HighsModelStatus.kOptimal:
            return None
        answer = solver.getSolution()
        point = np.asarray(answer.col_value)
        if not np.isfinite(point).all():
            return None
        return Guess(self._weights(np.asarray(answer.row_dual)), point[:-1], float(point[-1]))

    def _weights(self, duals: np.ndarray) -> np.ndarray:
        """HiGHS's duals are positive where a lower end holds; ours where an upper one does."""
        return np.asarray(np.nan_to_num(-duals, nan=0.0, posinf=0.0, neginf=0.0) / self.system.size)

    def _switch(self, active: np.ndarray) -> None:
        changed = np.flatnonzero(active != self._active).astype(np.int32)
        if len(changed):
            on = active[changed]
            low = np.where(on & self.system.equal[changed], self._end[changed], -np.inf)
            self._solver.changeRowsBounds(len(changed), changed, low, np.where(on, self._end[changed], np.inf))
            self._active = active.copy()

    def _move(self, lower: np.ndarray, upper: np.ndarray) -> None:
        low, high = np.append(lower, self._box[0][-1]), np.append(upper, np.inf)
        changed = np.flatnonzero((low != self._box[0]) | (high != self._box[1])).astype(np.int32)
        if len(changed):
            self._solver.changeColsBounds(len(changed), changed, low[changed], high[changed])
            self._box = low, high


@dataclass(frozen=True, eq=False)
class Claim:
    """What HiGHS claims of the integer programme: a point (V,) perhaps, and whether there is none."""

    point: np.ndarray | None
    none: bool


def integer_programme(system: System, lower: np.ndarray, upper: np.ndarray, seconds: float, seed: int) -> Claim:
    """The whole formula at once, with a binary for every phase and the ranges as big M.

    A row of a phase whose form has no end is left out. (Tjeng, Xiao and Tedrake, ICLR 2019.)
    """
    import highspy

    made = _with_binaries(system, lower, upper)
    solver = highspy.Highs()
    _quiet(solver, "choose")
    solver.setOptionValue("time_limit", max(0.05, seconds))
    solver.setOptionValue("random_seed", seed % 2**31)
    solver.setOptionValue("objective_target", -1e-6)  # a clear violation is enough
    model = _model(highspy, made.cost, made.matrix, made.rows, made.box)
    model.integrality_ = [highspy.HighsVarType.kInteger if whole else highspy.HighsVarType.kContinuous
                          for whole in made.whole.tolist()]  # fmt: skip
    if solver.passModel(model) == highspy.HighsStatus.kError:
        return Claim(None, False)
    solver.run()
    status = solver.getModelStatus()
    answer = solver.getSolution()
    point = np.asarray(answer.col_value)[: system.matrix.shape[1]]
    some = bool(answer.value_valid) and len(point) == system.matrix.shape[1] and bool(np.isfinite(point).all())
    beaten = status == highspy.HighsModelStatus.kOptimal and solver.getInfo().objective_function_value > _TOLERANCE
    return Claim(point if some else None, beaten or status == highspy.HighsModelStatus.kInfeasible)


@dataclass(frozen=True, eq=False)
class _Integer:
    cost: np.ndarray
    matrix: csc_matrix
    rows: tuple[np.ndarray, np.ndarray]
    box: tuple[np.ndarray, np.ndarray]
    whole: np.ndarray


def _with_binaries(system: System, lower: np.ndarray, upper: np.ndarray) -> _Integer:
    """Columns: the system's, t, a binary for each phase. Rows: the system's, equalities once more for their other
    side, one for each choice."""
    count, some = system.matrix.shape[1], sum(len(choice.rows) for choice in system.choices)
    scaled = csr_matrix((1 / system.size, (np.arange(system.rows),) * 2), shape=(system.rows,) * 2) @ system.matrix
    const = system.const / system.size
    positive, negative = scaled.maximum(0), scaled.minimum(0)
    with np.errstate(invalid="ignore"):
        ends = np.nan_to_num(lower, neginf=-1e30), np.nan_to_num(upper, posinf=1e30)
        most = positive @ ends[1] + negative @ ends[0] + const + 1.0  # and room for t
        least = positive @ ends[0] + negative @ ends[1] + const
    need = np.full(system.rows, -1)
    sums: list[tuple[int, int]] = []
    at = count + 1
    for number, choice in enumerate(system.choices):
        for rows in choice.rows.values():
            need[rows] = at
            sums.append((number, at))
            at += 1
    width = count + 1 + some
    t = np.where(system.goal, -1.0, 0.0)
    parts, lows, highs = [], [], []
    for sign, rows, big in (
        (1.0, np.arange(system.rows), most),
        (-1.0, np.flatnonzero(system.equal), -least),
    ):
        held = need[rows] >= 0
        size = np.where(held, big[rows], 0.0)
        fine = size < 1e12
        rows, held, size = rows[fine], held[fine], size[fine].clip(min=0.0)
        left = hstack([sign * scaled[rows], csr_matrix((t * (sign > 0))[rows][:, None])])
        right = csr_matrix((size[held], (np.flatnonzero(held), need[rows][held] - count - 1)), shape=(len(rows), some))
        parts.append(hstack([left, right]))
        lows.append(np.full(len(rows), -np.inf))
        highs.append(size - sign * const[rows])
    pick = csr_matrix((np.ones(some), ([n for n, _ in sums], [b for _, b in sums])), shape=(len(system.choices), width))
    ones = np.ones(len(system.choices))
    cost = np.zeros(width)
    cost[count] = 1.0
    box = (
        np.concatenate([lower, [_CLEAR], np.zeros(some)]),
        np.concatenate([upper, [np.inf], np.ones(some)]),
    )
    return _Integer(
        cost,
        csc_matrix(vstack([*parts, pick])),
        (np.concatenate([*lows, ones]), np.concatenate([*highs, ones])),
        box,
        np.concatenate([system.whole, [False], np.ones(some, dtype=bool)]),
    )


def _quiet(solver: Anything, kind: str) -> None:
    for name, value in (
        ("output_flag", False),
        ("threads", 1),
        ("solver", kind),
        ("primal_feasibility_tolerance", _TOLERANCE),
        ("dual_feasibility_tolerance", _TOLERANCE),
    ):
        solver.setOptionValue(name, value)


def _model(
    highspy: Anything, cost: np.ndarray, matrix: csc_matrix, rows: tuple[np.ndarray, np.ndarray],
    box: tuple[np.ndarray, np.ndarray],
) -> Anything:  # fmt: skip
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = matrix.shape
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, box[0], box[1]
    lp.row_lower_, lp.row_upper_ = rows
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = matrix.indptr
    lp.a_matrix_.index_ = matrix.indices
    lp.a_matrix_.value_ = matrix.data
    return lp


Attempt = Callable[[np.ndarray], bool]
__all__ = ["Claim", "Guess", "Programme", "integer_programme"]
