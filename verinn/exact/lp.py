"""Linear programmes, solved by HiGHS: through highspy where it is installed, else through scipy.

Whatever comes back is a guess. Nobody may believe it: its duals are multipliers to be weighed with rounding
counted, its point a candidate to be replayed. (Huangfu and Hall, *Parallelizing the dual revised simplex
method*, Mathematical Programming Computation, 2018.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_matrix

#: feasibility tolerances asked of HiGHS; the programmes are scaled so that numbers are about 1
_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Programme:
    """min cost·x: row_lower ≤ A x ≤ row_upper, lower ≤ x ≤ upper. Infinite ends are none."""

    cost: np.ndarray
    matrix: csc_matrix
    row_lower: np.ndarray
    row_upper: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


@dataclass(frozen=True, eq=False)
class Answer:
    """A claimed optimum: the point, and what a unit of each row's end and of each variable's end is worth.

    Duals are ≥ 0 where a lower end holds and ≤ 0 where an upper one does; all numbers are finite.
    """

    x: np.ndarray
    row_dual: np.ndarray
    reduced: np.ndarray


def solved(programme: Programme, seconds: float) -> Answer | None:
    """HiGHS's optimum, or None where it claims none in time."""
    try:
        import highspy  # noqa: F401 -- takes a quarter of a second, and few searches need it
    except ImportError:
        answer = _by_scipy(programme, seconds)
    else:
        answer = _by_highspy(programme, seconds)
    if answer is None or not all(np.isfinite(part).all() for part in vars(answer).values()):
        return None
    return answer


def _by_highspy(programme: Programme, seconds: float) -> Answer | None:
    import highspy

    solver = highspy.Highs()
    for name, value in (
        ("output_flag", False),
        ("threads", 1),
        ("solver", "simplex"),  # its duals are those of a vertex: most are zero
        ("time_limit", seconds),
        ("primal_feasibility_tolerance", _TOLERANCE),
        ("dual_feasibility_tolerance", _TOLERANCE),
    ):
        solver.setOptionValue(name, value)
    rows, columns = programme.matrix.shape
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = rows, columns
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = programme.cost, programme.lower, programme.upper
    lp.row_lower_, lp.row_upper_ = programme.row_lower, programme.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = programme.matrix.indptr
    lp.a_matrix_.index_ = programme.matrix.indices
    lp.a_matrix_.value_ = programme.matrix.data
    if solver.passModel(lp) == highspy.HighsStatus.kError:
        return None
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    found = solver.getSolution()
    return Answer(np.asarray(found.col_value), np.asarray(found.row_dual), np.asarray(found.col_dual))


def _by_scipy(programme: Programme, seconds: float) -> Answer | None:
    from scipy.optimize import linprog

    low, high = programme.row_lower, programme.row_upper
    same = low == high
    above, below = ~same & (high < math.inf), ~same & (low > -math.inf)
    rows = programme.matrix.tocsr()
    found = linprog(
        programme.cost,
        A_ub=_stacked(rows, above, below),
        b_ub=np.concatenate([high[above], -low[below]]),
        A_eq=rows[same],
        b_eq=low[same],
        bounds=np.stack([programme.lower, programme.upper], 1),
        method="highs-ds",
        options={
            "time_limit": seconds,
            "primal_feasibility_tolerance": _TOLERANCE,
            "dual_feasibility_tolerance": _TOLERANCE,
        },
    )
    if found.status != 0:
        return None
    dual = np.zeros(len(low))
    dual[same] = found.eqlin.marginals
    dual[above] += found.ineqlin.marginals[: above.sum()]
    dual[below] -= found.ineqlin.marginals[above.sum() :]
    return Answer(np.asarray(found.x), dual, found.lower.marginals + found.upper.marginals)


def _stacked(rows: csc_matrix, above: np.ndarray, below: np.ndarray) -> csc_matrix:
    """Rows with an upper end, and the negatives of those with a lower one."""
    from scipy.sparse import vstack

    return vstack([rows[above], -rows[below]], format="csr")
